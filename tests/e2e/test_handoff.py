"""Real clients of a service that sleeps, over both families, in every mode of handing over."""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from e2e.conftest import Lab
from e2e.test_main_job import eventually
from jitsu.host.netns import CLIENT_PORT

MODES = ["import", "splice", "replay"]
ADDRESSES = {4: "10.77.0.10", 6: "fd77::10"}


@pytest.fixture
def lab6(lab: Lab) -> Lab:
    """Give the client an IPv6 address."""
    given = ("fd77::100/64", "dev", CLIENT_PORT, "nodad")
    done = lab.client("ip", "address", "add", *given)
    assert done.returncode == 0, done.stderr
    return lab


def serve(lab: Lab, mode: str, more: str = "") -> AbstractContextManager[None]:
    service = f"""
[[service]]
name = "www"
dns = ["www.jitsu.test"]
image = "hello.elf"
address = "{ADDRESSES[4]}"
address6 = "{ADDRESSES[6]}"
handoff = "{mode}"
{more}
"""
    return lab.serve(service, network='subnet6 = "fd77::/64"')


def url(version: int, path: str = "/") -> str:
    address = ADDRESSES[version]
    return f"http://{f'[{address}]' if version == 6 else address}{path}"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES)
def test_the_first_request(lab6: Lab, mode: str, version: int) -> None:
    with serve(lab6, mode, "idle_after = 1"):
        with lab6.clean_wire():
            page = lab6.curl(url(version), "-w", "%{http_code}")
        assert page.returncode == 0, page.stderr
        assert page.stdout.split()[-1].endswith("200")
        assert lab6.row("www")["summons"] == 1
        assert lab6.ask("trace", "www")["cause"] == "syn"
        assert lab6.curl(url(version)).returncode == 0
        eventually(lambda: lab6.row("www")["state"] == "asleep")


@pytest.mark.parametrize("mode", MODES)
def test_a_datagram_and_a_ping_over_ipv6(lab6: Lab, mode: str) -> None:
    with serve(lab6, mode):
        assert lab6.client("ping", "-6", "-c1", "-W5", ADDRESSES[6]).returncode == 0
        assert lab6.ask("trace", "www")["cause"] == "icmp"
        lab6.ask("stop", "www")
        with lab6.hosts.at(lab6.hosts.client):
            client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with client:
            client.settimeout(5)
            client.sendto(b"anybody there?", (ADDRESSES[6], 7))
            assert client.recv(100) == b"anybody there?"
        assert lab6.ask("trace", "www")["cause"] == "udp"


def test_an_aaaa_query_summons(lab6: Lab) -> None:
    with serve(lab6, "import"):
        dug = lab6.client("dig", "@10.77.0.1", "www.jitsu.test", "AAAA", "+short")
        assert dug.stdout == f"{ADDRESSES[6]}\n"
        eventually(lambda: lab6.row("www")["state"] == "awake")


@pytest.mark.parametrize("mode", ["import", "splice"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_upload_that_begins_before_its_guest(lab6: Lab, mode: str, version: int) -> None:
    """A mebibyte at once: no more is acknowledged than is kept, and nothing is lost."""
    body = os.urandom(1 << 20)
    (lab6.folder / "body").write_bytes(body)
    with serve(lab6, mode, 'cmdline = "listen_delay_ms=300"\nready = "tcp:80"'):
        upload = ("--data-binary", f"@{lab6.folder}/body", "-H", "Expect:")
        done = lab6.curl(url(version, "/hash"), *upload)
        assert done.returncode == 0, done.stderr
        assert fnv(body) in done.stdout


@pytest.mark.parametrize(("mode", "kept"), [("import", 8 << 10), ("splice", 32 << 10)])
@pytest.mark.parametrize("version", [4, 6])
def test_no_more_is_acknowledged_than_is_kept(
    lab6: Lab, mode: str, kept: int, version: int
) -> None:
    """A client that pushes as hard as it can, for as long as there is no guest."""
    late = 'cmdline = "listen_delay_ms=20000"\nready = "tcp:80"\nboot_timeout = 30'
    with serve(lab6, mode, late):
        with lab6.hosts.at(lab6.hosts.client):
            client = socket.create_connection((ADDRESSES[version], 80), 10)
        with client:
            client.setblocking(False)
            sent = client.send(bytes(1 << 20))
            eventually(lambda: sent - unacknowledged(client) == kept)
            with pytest.raises(subprocess.TimeoutExpired):
                lab6.client("sleep", "9", timeout=1.0)
            assert lab6.row("www")["state"] == "booting"
            assert sent - unacknowledged(client) == kept


def fnv(data: bytes) -> str:
    """Return what the guest says of a body (FNV-1a, 64 bits)."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return f"{value:016x}"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["import", "splice"])
def test_a_half_closed_client(lab6: Lab, mode: str, version: int) -> None:
    """As `nc -N`: it says all and FIN before there is a guest."""
    with serve(lab6, mode):
        with lab6.hosts.at(lab6.hosts.client):
            client = socket.create_connection((ADDRESSES[version], 80), 10)
        with client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            client.settimeout(10)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("mode", ["import", "splice"])
def test_a_silent_connection_keeps_its_guest(lab6: Lab, mode: str) -> None:
    """It was opened before the guest was, and has said nothing yet."""
    with serve(lab6, mode, "idle_after = 1"):
        with lab6.hosts.at(lab6.hosts.client):
            client = socket.create_connection((ADDRESSES[4], 80), 10)
        with client:
            eventually(lambda: lab6.row("www")["state"] == "awake")
            eventually(lambda: lab6.row("www")["flows"] == 1)
            with pytest.raises(subprocess.TimeoutExpired):
                lab6.client("sleep", "9", timeout=3.0)
            assert lab6.row("www")["state"] == "awake"
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.settimeout(5)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: lab6.row("www")["state"] == "asleep")


@pytest.mark.parametrize("mode", ["import", "splice"])
def test_five_hundred_clients_at_once(lab6: Lab, mode: str) -> None:
    with serve(lab6, mode):
        with lab6.hosts.at(lab6.hosts.client):
            probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            probe.sendto(b"who is there?", (ADDRESSES[4], 9))  # the neighbour's address
            clients = [socket.socket() for _ in range(500)]

        def talk(client: socket.socket) -> bytes:
            with client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: client.recv(65536), b""))

        with lab6.clean_wire(), probe, ThreadPoolExecutor(100) as pool:
            for client in clients:
                client.setblocking(False)
                client.connect_ex((ADDRESSES[4], 80))
            for client in clients:
                client.settimeout(20)
            answers = list(pool.map(talk, clients))
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
        assert lab6.row("www")["summons"] == 1


def unacknowledged(client: socket.socket) -> int:
    """Return how many bytes of a client's nobody has acknowledged (tcp(7), SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))[0])


def asked(lab: Lab, version: int) -> socket.socket:
    """Return a client that has asked, and whose request is acknowledged."""
    with lab.hosts.at(lab.hosts.client):
        client = socket.create_connection((ADDRESSES[version], 80), 10)
    client.settimeout(10)
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    eventually(lambda: unacknowledged(client) == 0)
    return client


@pytest.mark.parametrize("version", [4, 6])
def test_a_client_whose_daemon_dies_is_told(lab6: Lab, version: int) -> None:
    """It waits for an answer to a request that was acknowledged: it has nothing to say."""
    with serve(lab6, "import", 'cmdline = "listen_delay_ms=5000"'):
        client = asked(lab6, version)
        eventually(lambda: lab6.row("www")["flows"] == 1)
        assert lab6.process is not None
        lab6.process.send_signal(signal.SIGKILL)
        lab6.process.wait()
    with client, serve(lab6, "import"), pytest.raises(ConnectionResetError):
        client.recv(100)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES)
def test_a_client_whose_guest_dies_is_told(lab6: Lab, mode: str, version: int) -> None:
    with serve(lab6, mode):
        assert lab6.curl(url(4)).returncode == 0
        with lab6.hosts.at(lab6.hosts.client):
            client = socket.create_connection((ADDRESSES[version], 80), 10)
        eventually(lambda: lab6.row("www")["flows"] > 0)
        os.kill(lab6.guests()[0], signal.SIGKILL)
        client.settimeout(10)
        with client, pytest.raises(ConnectionResetError):
            client.recv(100)
