"""Linux domains that are suspended to a file, and run on from it, on a real Xen."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jitsu.host.xen.libxc import Xen
from jitsu.testing import backend_contract
from jitsu.testing.backend_contract import Case, Fate, check_suspend
from xen import dom0
from xen.test_main_job import CONFIG, JITSU, as_client, client, daemon, run
from xenlab import cpio

pytestmark = pytest.mark.xen(timeout=900)
MEMORY = 128 << 20
LINUX = replace(
    dom0.service(),
    image="/boot/vmlinuz-domu",
    initrd="/boot/domu.cpio",
    memory=MEMORY,
    cmdline="mitigations=off ip=10.77.0.10/24",
)
SERVICE = """
[[service]]
name = "linux"
image = "/boot/vmlinuz-domu"
initrd = "linux.cpio"
cmdline = "mitigations=off rdinit=/first ip=10.77.0.11/24"
address = "10.77.0.11"
memory = "128MiB"
handoff = "splice"
ready = "tcp:80"
boot_timeout = 300
stop = "suspend"
"""
FIRST = """#!/bin/sh
mount -t proc proc /proc
cat /proc/sys/kernel/random/boot_id >/born
exec /init
"""
"""What the guest keeps of its boot, in a file that is in its memory only."""
ALIVE = """#!/bin/sh
echo
cat /born
cut -d' ' -f1 /proc/uptime
"""


def test_linux_passes_the_contract_of_those_that_are_suspended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_contract, "PATIENCE", 4 * dom0.PATIENCE)
    with dom0.network(LINUX) as network:

        @asynccontextmanager
        async def make(_: Fate) -> AsyncIterator[Case]:
            async with dom0.backend(tmp_path, LINUX) as (backend, _guests):
                yield Case(backend, network, LINUX, dom0.left)

        asyncio.run(check_suspend(make, tmp_path / "saved"))


def configured(folder: Path) -> tuple[str, str]:
    """Write a configuration, and a first root for Linux that tells which boot it is of."""
    scripts = folder / "scripts"
    (scripts / "cgi-bin").mkdir(parents=True)
    for name, text in (("first", FIRST), ("cgi-bin/alive", ALIVE)):
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    root = Path(LINUX.initrd).read_bytes() + cpio.pack(scripts)
    (folder / "linux.cpio").write_bytes(root)
    file = folder / "jitsu.toml"
    file.write_text(CONFIG.format(folder=folder) + SERVICE)
    return "-c", str(file)


def alive() -> tuple[str, float]:
    """Ask the guest, by its address, of which boot it is and for how long it has been up."""
    said = as_client("curl", "-s", "-m", "300", "http://10.77.0.11/cgi-bin/alive").split()
    return said[0], float(said[1])


def free() -> int:
    xen = Xen()
    try:
        return xen.free()
    finally:
        xen.close()


def test_the_next_client_is_answered_by_the_guest_that_was_suspended(tmp_path: Path) -> None:
    file = configured(tmp_path)
    saved = tmp_path / "state" / "suspended" / "linux"
    with client(), daemon(tmp_path):
        before = free()
        born, up = alive()
        assert free() <= before - MEMORY

        def suspend() -> None:
            run(*JITSU, "stop", "linux", *file)
            rows = json.loads(run(*JITSU, "ls", "--json", *file))
            assert {row["name"]: row["state"] for row in rows}["linux"] == "suspended"

        suspend()
        assert dom0.left() == [], "it is in no domain"
        assert free() > before - MEMORY // 8, "and its memory is free"
        assert saved.stat().st_size > MEMORY
        assert saved.stat().st_mode & 0o777 == 0o600

        again, later = alive()
        assert again == born, "it is the same guest, with what it had in its memory"
        assert later > up
        assert not saved.exists()

        suspend()
        os.truncate(saved, MEMORY // 2)
        other, _ = alive()
        assert other != born, "of a file that is damaged none runs on: one was booted"
        assert "linux" in run("xl", "list")
    assert dom0.left() == [], "the daemon has ended its guests"
    assert not saved.exists()
