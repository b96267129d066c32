"""The lab itself: Xen is real, dom0 controls it, and the project runs there."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitsu import store

SOCKET = Path("/run/xenstored/socket")
CONSOLE = Path("/var/log/xen/console/guest-linux.log")
GUEST = """
name = "linux"
type = "pv"
kernel = "/boot/vmlinux-domu"
ramdisk = "/boot/domu.cpio"
extra = "console=hvc0 quiet ip=10.9.0.2/24"
memory = 96
vcpus = 1
vif = ["bridge=xenbr0"]
"""
pytestmark = pytest.mark.xen


def said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def domains() -> list[str]:
    return [line.split()[0] for line in said("xl", "list").splitlines()[1:]]


@pytest.fixture
def bridge() -> Iterator[None]:
    said("ip", "link", "add", "xenbr0", "type", "bridge")
    try:
        said("ip", "address", "add", "10.9.0.1/24", "dev", "xenbr0")
        said("ip", "link", "set", "xenbr0", "up")
        yield
    finally:
        said("ip", "link", "delete", "xenbr0")


def test_xen_is_real() -> None:
    lines = said("xl", "info").splitlines()
    info = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    assert info["xen_version"].startswith("4.17.")
    assert {"pv", "hvm", "hap", "gnttab-v1"} <= set(info["virt_caps"].split())
    assert domains() == ["Domain-0"]


def test_the_project_reads_the_store_of_dom0() -> None:
    async def read() -> bytes:
        async with store.connect(SOCKET) as client:
            return await client.read(b"/local/domain/0/name")

    assert asyncio.run(read()) == b"Domain-0"
    assert said("jitsu", "store", "read", "--socket", str(SOCKET), "/local/domain/0/domid") == "0\n"


def test_a_linux_guest_answers_on_a_bridge(bridge: None, tmp_path: Path) -> None:
    (tmp_path / "linux.cfg").write_text(GUEST)
    said("xl", "create", str(tmp_path / "linux.cfg"))
    try:
        assert domains() == ["Domain-0", "linux"]
        page = said(
            "curl",
            "-sS",
            "--retry",
            "60",
            "--retry-all-errors",
            "--retry-delay",
            "1",
            "http://10.9.0.2/init",
        )
        assert "DOMU-READY" in page
        assert "DOMU-READY" in CONSOLE.read_text()
    finally:
        said("xl", "destroy", "linux")
    assert domains() == ["Domain-0"]


@pytest.mark.parametrize(
    "daemon",
    [
        "oxenstored --pid-file",
        pytest.param("xenstored --pid-file", marks=pytest.mark.xen(store="xenstored")),
        pytest.param("jitsu xenstored --xen", marks=pytest.mark.xen(store="jitsu")),
    ],
)
def test_the_store_is_the_one_that_is_asked_for(daemon: str) -> None:
    running = said("ps", "-ww", "-e", "-o", "args=")
    assert re.search(rf"(^|/){re.escape(daemon)}", running, re.MULTILINE), running
    assert said("xenstore-read", "domid") == "0\n"
