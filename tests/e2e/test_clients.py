"""Clients of all kinds, of services that sleep: TLS, WebSocket, DNS; and servers as they are."""

import shutil
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from e2e.conftest import Lab
from e2e.test_main_job import eventually
from e2e.test_process import ADDRESSES, MODES, connect, lab6, public, url, written

__all__ = ["lab6", "public"]

TALKER = Path(__file__).parent / "talker.py"
OPENING = (
    b"GET / HTTP/1.1\r\nHost: www\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPTED = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
"""RFC 6455 section 1.3."""


def serve(lab: Lab, image: object, more: str) -> AbstractContextManager[None]:
    service = f"""
[[service]]
name = "www"
backend = "process"
image = "{image}"
address = "{ADDRESSES[4]}"
address6 = "{ADDRESSES[6]}"
{more}
"""
    return lab.serve(service, network='subnet6 = "fd77::/64"')


@pytest.fixture
def talker(public: Path) -> str:
    """Return the lines of a service whose program talks TLS and WebSocket."""
    key, certificate = public / "key", public / "both"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=www"]
    command += ["-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    certificate.write_text(key.read_text() + certificate.read_text())
    shutil.copy(TALKER, public)
    (public / TALKER.name).chmod(0o755)
    return f'listen = [80, 443]\ncmdline = "{certificate}"'


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES)
def test_tls(lab6: Lab, public: Path, talker: str, mode: str, version: int) -> None:
    where = url(version).rstrip("/").removeprefix("http://")
    more = f'{talker}\nhandoff = "{mode}"\n{MODES[mode]}'
    with serve(lab6, public / TALKER.name, more):
        with lab6.clean_wire():
            page = lab6.curl(f"https://{where}/", "--insecure")
        assert (page.returncode, page.stdout) == (0, "securely"), page.stderr
        lab6.ask("stop", "www")
        with lab6.clean_wire():
            said = lab6.client("openssl", "s_client", "-brief", "-connect", f"{where}:443")
        assert "CONNECTION ESTABLISHED" in said.stderr


def message(text: bytes) -> bytes:
    """Return a WebSocket's frame of one message; its mask changes nothing."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES)
def test_a_websocket(lab6: Lab, public: Path, talker: str, mode: str, version: int) -> None:
    """It speaks before there is anybody, and goes on for as long as it likes."""
    more = f'{talker}\nhandoff = "{mode}"\n{MODES[mode]}'
    with (
        serve(lab6, public / TALKER.name, more),
        lab6.clean_wire(),
        connect(lab6, version) as client,
    ):
        client.sendall(OPENING + message(b"early"))
        told = b""
        while not told.endswith(b"\x81\x05early"):
            told += client.recv(4096)
        assert ACCEPTED in told
        eventually(lambda: lab6.row("www")["state"] == "awake")
        for text in (b"on", b"and on", bytes(100)):
            client.sendall(message(text))
            assert client.recv(4096) == bytes([0x81, len(text)]) + text


@pytest.mark.parametrize("mode", ["splice", "replay"])
def test_a_server_as_it_is(lab6: Lab, public: Path, mode: str) -> None:
    """Nobody has told it of Jitsu: it opens its own socket and accepts connections."""
    (public / "index.html").write_text("as it is")
    arguments = f"-I -m http.server --directory {public} 80"
    more = f'cmdline = "{arguments}"\nhandoff = "{mode}"\nready = "tcp:80"'
    with serve(lab6, "/usr/bin/python3", more):
        page = lab6.curl(f"http://{ADDRESSES[4]}/")
        assert (page.returncode, page.stdout) == (0, "as it is"), page.stderr


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["splice", "replay"])
def test_a_dns_server_as_it_is(lab6: Lab, public: Path, mode: str, version: int) -> None:
    """Its first datagram summons it, and is answered by it."""
    flags = "--keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv --user=nobody"
    program = shutil.which("dnsmasq")
    if program is None:
        pytest.skip("dnsmasq is not installed")
    wrapper = written(public, f"exec {program} {flags} --pid-file= --address=/a.test/192.0.2.7")
    with serve(lab6, wrapper, f'ready = "tcp:53"\nhandoff = "{mode}"'):
        dug = lab6.client(
            "dig", f"@{ADDRESSES[version]}", "a.test", "+short", "+tries=1", "+time=5"
        )
        assert dug.stdout == "192.0.2.7\n", dug
        assert lab6.ask("trace", "www")["cause"] == "udp"


def test_a_client_that_only_listens(lab6: Lab, public: Path) -> None:
    """The server speaks first, as those of mail do."""
    program = written(public, "exec /usr/bin/python3 -c '" + GREETER + "'")
    with serve(lab6, program, "listen = [25]"), lab6.hosts.at(lab6.hosts.client):
        client = socket.create_connection((ADDRESSES[4], 25), 10)
        client.settimeout(10)
        with client:
            assert client.recv(100) == b"220 at last\r\n"


GREETER = """
import os, socket
for i, name in enumerate(os.environ["LISTEN_FDNAMES"].split(":")):
    sock = socket.socket(fileno=3 + i)
    if name == "connection":
        sock.sendall(b"220 at last\\r\\n")
input()
""".strip()
