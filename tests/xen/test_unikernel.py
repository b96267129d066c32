"""The demo's guest on Xen, started by xl: real rings, real grants, a real bridge."""

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from time import monotonic

import pytest

import jitsu

IMAGE = Path(jitsu.__file__).parent / "images" / "xen" / "hello.elf"
HOST, HOST_MAC = "10.9.0.1", "02:00:00:00:00:01"
ADDRESS = "10.9.0.2"
IP = f"{ADDRESS}::{HOST}:255.255.255.0:www::off"
GUEST = """
name = "www"
type = "pvh"
kernel = "{image}"
extra = "{cmdline}"
memory = 16
vcpus = 1
on_poweroff = "preserve"
on_crash = "preserve"
vif = ["bridge=xenbr0,mac=02:00:00:00:00:10"]
"""
TIMEOUT = 60
pytestmark = pytest.mark.xen


def said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again; each question is a program's run, so this does not spin."""
    end = monotonic() + TIMEOUT
    while not holds():
        assert monotonic() < end, "it takes for ever"


@pytest.fixture
def bridge() -> Iterator[None]:
    said("ip", "link", "add", "xenbr0", "address", HOST_MAC, "type", "bridge")
    try:
        said("ip", "address", "add", f"{HOST}/24", "dev", "xenbr0")
        said("ip", "link", "set", "xenbr0", "up")
        yield
    finally:
        said("ip", "link", "delete", "xenbr0")


class Domain:
    """A guest that is built, and paused until `unpause`."""

    def __init__(self, folder: Path, cmdline: str) -> None:
        config = folder / "www.cfg"
        config.write_text(GUEST.format(image=IMAGE, cmdline=cmdline))
        said("xl", "create", "-p", str(config))
        self.home = f"/local/domain/{said('xl', 'domid', 'www').strip()}"

    def read(self, path: str) -> str | None:
        full = f"{self.home}/{path}"
        done = subprocess.run(["xenstore-read", full], capture_output=True, text=True, check=False)
        return done.stdout.removesuffix("\n") if done.returncode == 0 else None

    def write(self, path: str, value: str) -> None:
        said("xenstore-write", f"{self.home}/{path}", value)

    def unpause(self) -> None:
        said("xl", "unpause", "www")

    def ready(self) -> None:
        until(lambda: self.read("data/ready") == "1")

    def console(self) -> str:
        return Path("/var/log/xen/console/guest-www.log").read_text()

    def state(self) -> str:
        """Of six letters: the fourth is s where it has shut down, the fifth c of a crash."""
        return said("xl", "list", "www").splitlines()[1].split()[4]


@pytest.fixture
def boot(bridge: None, tmp_path: Path) -> Iterator[Callable[[str], Domain]]:
    """Build guests, one at a time; they are destroyed with the test."""

    def build(cmdline: str) -> Domain:
        return Domain(tmp_path, cmdline)

    yield build
    subprocess.run(["xl", "destroy", "www"], check=False)


def fetch(path: str) -> bytes:
    command = ["curl", "-sS", "--max-time", "50", f"http://{ADDRESS}{path}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def test_it_serves_and_ends_when_told_to(boot: Callable[[str], Domain]) -> None:
    domain = boot(f"ip={IP}")
    domain.unpause()
    domain.ready()
    said("ping", "-c", "3", "-i", "0.2", ADDRESS)
    assert b"<html" in fetch("/")
    size = 1_000_000
    expected = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert sha256(fetch(f"/bytes/{size}")).digest() == sha256(expected).digest()
    stats = json.loads(fetch("/stats"))
    assert (stats["platform"], stats["store"]) == ("xen", "ready")
    assert domain.read("data/boot_us") == str(stats["boot_us"])
    domain.write("control/shutdown", "poweroff")
    until(lambda: domain.state()[3] == "s")
    assert domain.state()[4] == "-"
    assert domain.read("control/shutdown") == ""
    assert "jitsu: exit 0" in domain.console()


def test_what_its_command_line_lacks_is_in_the_store(boot: Callable[[str], Domain]) -> None:
    domain = boot("store")
    domain.write("ip", IP)
    domain.unpause()
    domain.ready()
    assert json.loads(fetch("/stats"))["service"] == "www"


def test_a_crash_is_told_to_xen_and_on_the_console(boot: Callable[[str], Domain]) -> None:
    domain = boot(f"ip={IP} panic_ms=1")
    domain.unpause()
    until(lambda: domain.state()[3:5] == "sc")
    until(lambda: "jitsu: exit 255" in domain.console())
    assert "jitsu: trap: vector=6" in domain.console()


def established(port: int, sent: int, received: int) -> socket.socket:
    """Return a client's socket, as if it had opened a connection to the guest (TCP_REPAIR)."""
    repair, queue, seq = 19, 20, 21
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, repair, 1)
    for number, value in ((2, sent), (1, received)):
        client.setsockopt(socket.IPPROTO_TCP, queue, number)
        client.setsockopt(socket.IPPROTO_TCP, seq, value)
    client.bind((HOST, port))
    client.connect((ADDRESS, 80))
    client.setsockopt(socket.IPPROTO_TCP, repair, -1)  # without a window probe
    client.settimeout(TIMEOUT)
    return client


def test_a_connection_is_taken_over_by_the_store(boot: Callable[[str], Domain]) -> None:
    """The daemon's part is played by hand: its nodes are those of docs/handoff.md."""
    domain = boot("store")
    domid = domain.home.rpartition("/")[2]
    request = b"GET /bytes/5 HTTP/1.1\r\nHost: www\r\nConnection: close\r\n\r\n"
    port, iss, irs = 40000, 7, 99
    rcv_nxt = irs + 1 + len(request)
    line = (
        f"state=established local={ADDRESS} port=80 peer={HOST} peer_port={port} "
        f"peer_mac={HOST_MAC} iss={iss} snd_una={iss + 1} snd_nxt={iss + 1} snd_wnd=64240 "
        f"irs={irs} rcv_nxt={rcv_nxt} rcv_wnd={8192 - len(request)} mss=1460 snd_wscale=0 "
        f"rcv_wscale=0 sack=0 ts=0 ts_val=0 ts_recent=0 rx={len(request)}"
    )
    said("xenstore-write", "/conduit/www/handoff/1", "proxying", "/conduit/www/handoff/1/guest", "")
    said("xenstore-chmod", "/conduit/www/handoff/1", "n0", f"r{domid}")
    said("xenstore-chmod", "/conduit/www/handoff/1/guest", "n0", f"b{domid}")
    try:
        domain.write("ip", IP)
        domain.write("handoff", "www/1")
        with established(port, rcv_nxt, iss + 1) as client:
            domain.unpause()
            until(lambda: said("xenstore-read", "/conduit/www/handoff/1/guest") == "prepared\n")
            nodes = {
                "tcpv4": "1",
                "tcpv4/0": line,
                "tcpv4/0/rx": "",
                "tcpv4/0/rx/0": request.decode(),
            }
            for path, value in nodes.items():
                said("xenstore-write", f"/conduit/www/{path}", value)
                said("xenstore-chmod", f"/conduit/www/{path}", "n0", f"r{domid}")
            said("xenstore-write", "/conduit/www/handoff/1", "committed")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n" + bytes(range(5)))
        assert said("xenstore-read", "/conduit/www/handoff/1/guest") == "imported\n"
        domain.ready()
    finally:
        said("xenstore-rm", "/conduit/www")
