"""The image on a bridge, and a client beside it, by IPv6."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from unikernel.guest import BOTH
from unikernel.machine import TIMEOUT, Machine, why_not

ADDRESS = "fd77::10"
SITE = f"http://[{ADDRESS}]"
RTO_MIN = 0.2
"""Seconds (`unikernel/net/tcp_timer.c`)."""
ONLY = "ip6=fd77::10/64,fd77::1"

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.host,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.skipif(
        not Path("/proc/sys/net/ipv6").exists(), reason="needs a kernel that speaks IPv6"
    ),
]


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """A namespace with a tap on a bridge, and one of a client on the same bridge."""
    host, client = f"ukh{os.getpid()}", f"ukc{os.getpid()}"
    with ExitStack() as stack:
        for name in host, client:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        for name, command in (
            (host, "link add br0 type bridge"),
            (host, f"link add port0 type veth peer name eth0 netns {client}"),
            (host, "tuntap add tap0 mode tap"),
            (host, "link set tap0 master br0 up"),
            (host, "link set port0 master br0 up"),
            (host, "link set br0 up"),
            (client, "link set lo up"),
            (client, "link set eth0 up"),
            (client, "addr add 10.77.0.1/24 dev eth0"),
            (client, "addr add fd77::1/64 dev eth0 nodad"),
            (client, "addr add fe80::77/64 dev eth0 nodad"),
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield host, client


@pytest.fixture
def machine(
    image: Path, network: tuple[str, str], request: pytest.FixtureRequest
) -> Iterator[Machine]:
    host, client = network
    machine = Machine(image, host, getattr(request, "param", BOTH), client=client)
    try:
        machine.expect(r"is ready at \S+ after \d+ us\n")
        yield machine
    finally:
        machine.close()


@pytest.mark.parametrize("machine", [BOTH, ONLY], indirect=True, ids=["both", "ipv6 alone"])
def test_site(machine: Machine) -> None:
    began = time.monotonic()
    assert b"did not exist when you asked" in machine.curl("-6", SITE)
    stats = json.loads(machine.curl(f"{SITE}/stats"))
    assert stats["connections"] == 2
    assert stats["malformed"] == 0
    # On a host so busy that it all takes longer than it is patient, it is right to send again.
    assert stats["tcp_retransmits"] == 0 or time.monotonic() - began > RTO_MIN


def test_site_by_its_link_local_address(machine: Machine) -> None:
    assert b"did not exist" in machine.curl("http://[fe80::ff:fe00:10%25eth0]/")


def test_both_families_at_once(machine: Machine) -> None:
    size = 3_000_000
    urls = [f"{SITE}/bytes/{size}", f"http://10.77.0.10/bytes/{size}"]
    outputs = [part for url in urls for part in (url, "-o", "-")]
    data = machine.curl("--no-progress-meter", *outputs)
    expected = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert data == expected * 2


def test_twenty_megabytes(machine: Machine) -> None:
    size = 20_000_000
    data = machine.curl(f"{SITE}/bytes/{size}")
    expected = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert hashlib.sha256(data).digest() == hashlib.sha256(expected).digest()


def test_upload(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(bytes(1_000_000))
    answer = json.loads(machine.curl("--data-binary", f"@{file}", f"{SITE}/hash"))
    assert answer["length"] == 1_000_000


def test_sixty_four_in_parallel(machine: Machine) -> None:
    codes = machine.curl(
        "--parallel", "--parallel-immediate", "--parallel-max", "64", "-o", "/dev/null",
        "-w", "%{http_code} %{size_download}\n", f"{SITE}/bytes/[200000-200063]",
    )  # fmt: skip
    assert set(codes.decode().splitlines()) == {f"200 {200_000 + i}" for i in range(64)}


UDP_ECHO = f"""
import socket
client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
client.settimeout({TIMEOUT})
client.connect(("{ADDRESS}", 7))
for size in 0, 1, 1452:
    client.send(bytes(size))
    assert client.recv(2000) == bytes(size)
client.connect(("{ADDRESS}", 9))
client.send(b"nobody there")
try:
    client.recv(1)
except ConnectionRefusedError:
    pass
else:
    raise AssertionError("not refused")
"""


def test_udp(machine: Machine) -> None:
    machine.run(sys.executable, "-c", UDP_ECHO)


@pytest.mark.skipif(shutil.which("ping") is None, reason="needs ping")
def test_ping(machine: Machine) -> None:
    for target in ADDRESS, "fe80::ff:fe00:10%eth0":
        machine.run("ping", "-6", "-c", "3", "-i", "0.01", "-W", "5", target)
    machine.run("ping", "-6", "-c", "1", "-s", "1452", "-M", "do", "-W", "5", ADDRESS)


def neighbour(client: str) -> dict[str, object]:
    """What the client's kernel knows of the guest."""
    command = ["ip", "-n", client, "-json", "-6", "neighbour", "show", ADDRESS, "dev", "eth0"]
    [entry] = json.loads(subprocess.check_output(command))
    return dict(entry)


def test_who_asks_is_answered(machine: Machine) -> None:
    machine.curl(SITE)
    entry = neighbour(machine.client)
    assert (entry["lladdr"], entry["state"]) == ("02:00:00:00:00:10", ["REACHABLE"])
    assert "router" not in entry


def test_the_announcement_is_believed(image: Path, network: tuple[str, str]) -> None:
    host, client = network
    old = f"neighbour replace {ADDRESS} lladdr 02:00:00:00:00:99 nud stale dev eth0"
    subprocess.run(["ip", "-n", client, *old.split()], check=True)
    machine = Machine(image, host, BOTH, client=client)
    try:
        machine.expect("is ready")
        assert neighbour(client)["lladdr"] == "02:00:00:00:00:10"
    finally:
        machine.close()
