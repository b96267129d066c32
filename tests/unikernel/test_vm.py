"""The image itself, under QEMU, with a real tap, a real kernel and a real curl."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from unikernel.machine import TIMEOUT, Machine, why_not
from unikernel.storehost import Type, is_link_frame
from unikernel.taphost import TapHost

ADDRESS = "10.77.0.10"
CMDLINE = f"ip={ADDRESS}::10.77.0.1:255.255.255.0:www::off"
SITE = f"http://{ADDRESS}"
IMAGE_MAX = 64 * 1024


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.host,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace with a tap at 10.77.0.1, gone afterwards."""
    name = f"uka{os.getpid()}"
    inside = ["ip", "-n", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            ["link", "set", "lo", "up"],
            ["tuntap", "add", "tap0", "mode", "tap"],
            ["link", "set", "tap0", "addrgenmode", "none"],
            ["addr", "add", "10.77.0.1/24", "dev", "tap0"],
            ["link", "set", "tap0", "up"],
        ):
            subprocess.run([*inside, *command], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def boot(image: Path, namespace: str) -> Iterator[Callable[..., Machine]]:
    with contextlib.ExitStack() as stack:

        def start(
            options: str = "", accelerator: str = "tcg", cmdline: str = CMDLINE, memory: int = 8
        ) -> Machine:
            machine = Machine(image, namespace, f"{cmdline} {options}", accelerator, memory)
            stack.callback(machine.close)
            return machine

        yield start


@pytest.fixture
def machine(boot: Callable[..., Machine]) -> Machine:
    machine = boot()
    machine.expect(r"www is ready at 10\.77\.0\.10 after \d+ us\n")
    return machine


def test_the_image_is_small(image: Path) -> None:
    assert image.stat().st_size < IMAGE_MAX


def test_site_and_stats(machine: Machine) -> None:
    assert b"did not exist when you asked" in machine.curl(SITE)
    stats = json.loads(machine.curl(f"{SITE}/stats"))
    assert stats["service"] == "www"
    assert stats["platform"] == "virtio"
    assert 0 < stats["boot_us"] < 1_000_000


def test_fifty_megabytes(machine: Machine) -> None:
    size = 50_000_000
    data = machine.curl(f"{SITE}/bytes/{size}")
    expected = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert hashlib.sha256(data).digest() == hashlib.sha256(expected).digest()


def test_upload(machine: Machine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    file = tmp_path / "upload"
    file.write_bytes(data)
    answer = json.loads(machine.curl("--data-binary", f"@{file}", f"{SITE}/hash"))
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    assert answer == {"length": len(data), "fnv1a64": f"{value:016x}"}


def test_keep_alive_uses_one_connection(machine: Machine) -> None:
    machine.curl(*[f"{SITE}/bytes/{n}" for n in range(100)], "-o", "/dev/null")
    stats = json.loads(machine.curl(f"{SITE}/stats"))
    assert stats["requests"] == 101
    assert stats["connections"] == 2


def test_sixty_four_in_parallel(machine: Machine) -> None:
    urls = f"{SITE}/bytes/[200000-200063]"
    codes = machine.curl(
        "--parallel", "--parallel-immediate", "--parallel-max", "64", "-o", "/dev/null",
        "-w", "%{http_code} %{size_download}\n", urls,
    )  # fmt: skip
    expected = {f"200 {200_000 + i}" for i in range(64)}
    assert set(codes.decode().splitlines()) == expected


MANY = f"""
import selectors, socket
N, answers, selector = 500, [], selectors.DefaultSelector()
for _ in range(N):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("{ADDRESS}", 80))
    selector.register(client, selectors.EVENT_WRITE, bytearray())
while len(answers) < N:
    ready = selector.select({TIMEOUT})
    assert ready, len(answers)
    for key, events in ready:
        if events & selectors.EVENT_WRITE:
            key.fileobj.send(b"GET /bytes/9999 HTTP/1.1\\r\\nHost: www\\r\\n\\r\\n")
            selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        else:
            key.data.extend(key.fileobj.recv(65536) or b"?")
            if len(key.data.partition(b"\\r\\n\\r\\n")[2]) >= 9999:
                answers.append(key.fileobj)  # it stays open
                selector.unregister(key.fileobj)
"""


def test_five_hundred_stay_connected(boot: Callable[..., Machine]) -> None:
    machine = boot(memory=16)
    machine.expect("is ready")
    machine.curl(SITE)  # the client's kernel holds back only so many SYNs while it asks by ARP
    machine.run(sys.executable, "-c", MANY)
    stats = json.loads(machine.curl(f"{SITE}/stats"))
    assert stats["connections"] == 502
    assert stats["tcp_refused"] == 0


def test_eight_mebibytes_hold_256(machine: Machine) -> None:
    assert json.loads(machine.curl(f"{SITE}/stats"))["connections_max"] >= 256


UDP_ECHO = f"""
import socket
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout({TIMEOUT})
client.connect(("{ADDRESS}", 7))
for size in 0, 1, 1472:
    client.send(bytes(size))
    assert client.recv(2000) == bytes(size)
"""


def test_udp_echo(machine: Machine) -> None:
    machine.run(sys.executable, "-c", UDP_ECHO)


@pytest.mark.skipif(shutil.which("ping") is None, reason="needs ping")
def test_ping(machine: Machine) -> None:
    machine.run("ping", "-c", "3", "-i", "0.01", "-W", "5", ADDRESS)


def test_idle_costs_nothing(machine: Machine) -> None:
    machine.curl(SITE)
    before = machine.cpu_seconds()
    with pytest.raises(subprocess.TimeoutExpired):
        machine.process.wait(timeout=1)
    assert machine.cpu_seconds() - before < 0.05


def test_the_clock_is_right(machine: Machine) -> None:
    def uptime() -> tuple[float, float, float]:
        before = monotonic()
        stats = json.loads(machine.curl(f"{SITE}/stats"))
        return before, stats["uptime_us"] / 1e6, monotonic()

    earliest, start, latest = uptime()
    with pytest.raises(subprocess.TimeoutExpired):
        machine.process.wait(timeout=2)
    before, end, after = uptime()
    assert before - latest - 0.01 < end - start < after - earliest + 0.01


def test_a_trap_is_told_and_ends_the_machine(boot: Callable[..., Machine]) -> None:
    machine = boot("panic_ms=100")
    machine.expect(r"jitsu: trap: vector=6 error=0x0+ rip=0x[0-9a-f]+ cr2=0x0+ .*\n")
    machine.expect("jitsu: exit 255\n")
    machine.process.wait(timeout=TIMEOUT)


def test_a_bad_command_line_is_told_and_ends_the_machine(boot: Callable[..., Machine]) -> None:
    machine = boot("ip=nonsense")
    machine.expect("jitsu: cannot start: ip=: bad address\njitsu: exit 1\n")
    machine.process.wait(timeout=TIMEOUT)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
def test_kvm(boot: Callable[..., Machine]) -> None:
    machine = boot(accelerator="kvm")
    machine.expect("is ready")
    assert b"did not exist when you asked" in machine.curl(SITE)


@pytest.fixture
def tap_host(namespace: str) -> Iterator[TapHost]:
    host = TapHost(namespace, "tap0", {"ip": CMDLINE.removeprefix("ip=").encode()})
    yield host
    host.close()


def test_the_store_is_told(boot: Callable[..., Machine], tap_host: TapHost) -> None:
    machine = boot("store")
    values = tap_host.host.store.values
    tap_host.serve(lambda: "data/ready" in values, TIMEOUT)
    announcement, *links = tap_host.frames
    assert announcement[12:14] == b"\x08\x06"
    assert links
    assert all(map(is_link_frame, links))
    assert values["data/ready"] == b"1"
    stats = json.loads(machine.curl(f"{SITE}/stats"))
    assert values["data/boot_us"] == str(stats["boot_us"]).encode()
    assert stats["store"] == "ready"


def test_the_address_is_in_the_store(boot: Callable[..., Machine], tap_host: TapHost) -> None:
    machine = boot("store", cmdline="")
    store = tap_host.host.store
    tap_host.serve(lambda: "data/ready" in store.values, TIMEOUT)
    asked = [path for _, path, _ in store.asked]
    assert asked == ["ip", "handoff", "ip6", "data/boot_us", "data/ready"]
    assert store.asked[0][0] is Type.READ
    links = [is_link_frame(frame) for frame in tap_host.frames]
    assert links[0]
    assert links.count(False) == 1  # the announcement
    stats = json.loads(machine.curl(f"{SITE}/stats"))
    assert (stats["service"], stats["store"]) == ("www", "ready")
