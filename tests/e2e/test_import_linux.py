"""A real Linux in a virtual machine takes connections over, for a server that knows of systemd."""

import os
import socket
from contextlib import AbstractContextManager, ExitStack

import pytest

from e2e.conftest import Lab
from e2e.test_handoff import ADDRESSES, fnv, lab6, unacknowledged, url
from e2e.test_main_job import eventually
from jitsu.bench.linux_guest import LinuxGuest, content, linux_guest
from jitsu.errors import HostError

__all__ = ["lab6"]

BOOT = 60.0
"""Seconds; without KVM, on a host that others use, Debian's kernel takes its time."""
CLIENTS = 8
"""Of each family."""


@pytest.fixture(scope="session")
def guest() -> LinuxGuest:
    try:
        return linux_guest(imports=True)
    except HostError as error:
        pytest.skip(str(error))


def serve(lab: Lab, guest: LinuxGuest, boot_timeout: float = BOOT) -> AbstractContextManager[None]:
    service = f"""
[[service]]
name = "www"
image = "{guest.image}"
initrd = "{guest.initrd}"
cmdline = "quiet"
memory = "128MiB"
address = "{ADDRESSES[4]}"
address6 = "{ADDRESSES[6]}"
handoff = "import"
boot_timeout = {boot_timeout}
"""
    return lab.serve(service, network='subnet6 = "fd77::/64"')


@pytest.mark.parametrize("version", [4, 6])
def test_the_first_request(lab6: Lab, guest: LinuxGuest, version: int) -> None:
    """An upload that begins before there is a guest, and a page from the guest that has booted."""
    body = os.urandom(1 << 20)
    (lab6.folder / "body").write_bytes(body)
    upload = ("-m", f"{BOOT}", "--data-binary", f"@{lab6.folder}/body", "-H", "Expect:")
    page = lab6.folder / "page"
    with serve(lab6, guest):
        with lab6.clean_wire():
            done = lab6.client(
                *("curl", "-sS", "--noproxy", "*", *upload, url(version)), timeout=2 * BOOT
            )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{len(body)} {fnv(body)}", lab6.jitsu("logs", "www")
        with lab6.clean_wire():
            done = lab6.curl(url(version, "/7"), "-o", str(page))
        assert done.returncode == 0, done.stderr
        assert page.read_bytes() == content(7)
        assert lab6.row("www")["summons"] == 1


def test_connections_that_were_open_before_it_booted(lab6: Lab, guest: LinuxGuest) -> None:
    """Their requests have begun, and are acknowledged; the rest goes to the guest alone.

    So the wire is looked at while the boot is not what takes long: before it, and after.
    """
    with serve(lab6, guest), ExitStack() as stack:
        with lab6.clean_wire():
            clients = [
                stack.enter_context(connect(lab6, version))
                for version in (4, 6)
                for _ in range(CLIENTS)
            ]
            for number, client in enumerate(clients):
                client.sendall(b"GET /%d HT" % number)
            eventually(lambda: not any(map(unacknowledged, clients)))
        assert lab6.row("www")["state"] == "booting"
        eventually(lambda: lab6.row("www")["state"] == "awake", within=BOOT)
        assert lab6.row("www")["flows"] == len(clients)
        with lab6.clean_wire():
            # clean_wire wants to see a connection begin
            assert lab6.curl(url(4, "/1"), "-o", os.devnull).returncode == 0
            for client in clients:
                client.sendall(b"TP/1.0\r\n\r\n")
            answers = [answer(client) for client in clients]
        assert answers == [content(number) for number in range(len(clients))]
        assert lab6.row("www")["summons"] == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_half_closed_client(lab6: Lab, guest: LinuxGuest, version: int) -> None:
    """It says all and FIN before there is a guest; another has not said all, and is let go."""
    with (
        serve(lab6, guest),
        connect(lab6, version) as client,
        connect(lab6, version) as other,
    ):
        other.sendall(b"GET /")
        other.shutdown(socket.SHUT_WR)
        client.sendall(b"GET /3 HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert lab6.row("www")["state"] == "booting"
        assert answer(client) == content(3)
        assert other.recv(100) == b"", "the server has seen its FIN"


def test_a_linux_without_launcher_fails_to_boot(lab6: Lab, guest: LinuxGuest) -> None:
    """It was said to import, and says nothing; its client is told."""
    with serve(lab6, linux_guest(), boot_timeout=4), connect(lab6, 4) as client:
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert lab6.row("www")["state"] != "awake"


def connect(lab: Lab, version: int) -> socket.socket:
    with lab.hosts.at(lab.hosts.client):
        client = socket.create_connection((ADDRESSES[version], 80), 10)
    client.settimeout(BOOT)
    return client


def answer(client: socket.socket) -> bytes:
    """Return the body of what a client is answered, up to the end of its connection."""
    head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return body
