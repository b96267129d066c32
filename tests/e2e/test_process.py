"""A program as a guest: what its clients see, in every mode, and what is left of it."""

import hashlib
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from e2e.conftest import Lab
from e2e.test_handoff import lab6
from e2e.test_main_job import eventually
from jitsu.guest import LAUNCHER

__all__ = ["lab6"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello.py"
SERVER = Path("/tmp") / f"jitsu-test-{os.getpid()}" / "hello.py"
"""Where nobody may read it; a checkout may be where nobody may not."""
ADDRESSES = {4: "10.77.0.10", 6: "fd77::10"}
MODES = {
    "import": "",
    "splice": 'ready = "tcp:80"',
    "replay": 'ready = "tcp:80"',
}
GET = b"GET / HTTP/1.0\r\n\r\n"


@pytest.fixture(autouse=True)
def public() -> Iterator[Path]:
    folder = SERVER.parent
    folder.mkdir(mode=0o755)
    shutil.copy(EXAMPLE, SERVER)
    yield folder
    shutil.rmtree(folder)


def written(folder: Path, text: str) -> Path:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{text}")
    program.chmod(0o755)
    return program


def serve(
    lab: Lab, mode: str, more: str = "", image: object = SERVER
) -> AbstractContextManager[None]:
    service = f"""
[[service]]
name = "www"
dns = ["www.jitsu.test"]
backend = "process"
image = "{image}"
listen = [80]
address = "{ADDRESSES[4]}"
address6 = "{ADDRESSES[6]}"
handoff = "{mode}"
{MODES[mode]}
{more}
"""
    return lab.serve(service, network='subnet6 = "fd77::/64"')


def url(version: int) -> str:
    return f"http://{ADDRESSES[4]}/" if version == 4 else f"http://[{ADDRESSES[6]}]/"


def connect(lab: Lab, version: int = 4) -> socket.socket:
    with lab.hosts.at(lab.hosts.client):
        client = socket.create_connection((ADDRESSES[version], 80), 10)
    client.settimeout(10)
    return client


def running(*words: bytes) -> list[int]:
    """Return the pids of processes with these words in their command lines."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = command.read_bytes().split(b"\0")
        except OSError:
            continue
        if all(word in said for word in words):
            found.append(int(command.parent.name))
    return found


def servers() -> list[int]:
    return running(os.fsencode(SERVER))


def launchers(lab: Lab) -> list[int]:
    """Return the pids of what waits on the host to become a server."""
    here = os.fstat(lab.hosts.host).st_ino
    found = []
    for pid in running(os.fsencode(LAUNCHER)):
        with suppress(OSError):  # it ends just now
            if Path(f"/proc/{pid}/ns/net").stat().st_ino == here:
                found.append(pid)
    return found


def is_told(client: socket.socket) -> bool:
    """Say whether a client learns that it is over, by whatever the kernel has told it."""
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES)
def test_the_first_request(lab6: Lab, mode: str, version: int) -> None:
    before = lab6.interfaces()
    with serve(lab6, mode, "idle_after = 1"):
        with lab6.clean_wire():
            page = lab6.curl(url(version), "-w", "%{http_code}")
        assert page.returncode == 0, page.stderr
        assert page.stdout.split()[-1].endswith("200")
        assert lab6.row("www")["summons"] == 1
        assert lab6.curl(url(version)).returncode == 0
        eventually(lambda: lab6.row("www")["state"] == "asleep")
        assert "jitsu0-g0" not in lab6.ports()
    eventually(lambda: not servers() and not launchers(lab6))
    assert lab6.interfaces() == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", [4, 6])
def test_an_upload_that_begins_before_its_guest(lab6: Lab, mode: str, version: int) -> None:
    body = os.urandom(1 << 20)
    (lab6.folder / "body").write_bytes(body)
    with serve(lab6, mode):
        upload = ("--data-binary", f"@{lab6.folder}/body", "-H", "Expect:")
        done = lab6.curl(url(version), *upload)
        assert done.returncode == 0, done.stderr
        assert hashlib.sha256(body).hexdigest() in done.stdout


@pytest.mark.parametrize("mode", ["import", "splice"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_half_closed_client(lab6: Lab, mode: str, version: int) -> None:
    with serve(lab6, mode):
        client = connect(lab6, version)
        with client:
            client.sendall(GET)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("mode", ["import", "splice"])
def test_a_hundred_clients_at_once(lab6: Lab, mode: str) -> None:
    """In a host without hypervisor they are all there before the first can be served."""
    with serve(lab6, mode):
        with lab6.hosts.at(lab6.hosts.client):
            clients = [socket.socket() for _ in range(100)]

        def talk(client: socket.socket) -> bytes:
            with client:
                client.settimeout(20)
                client.connect((ADDRESSES[4], 80))
                client.sendall(GET)
                client.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: client.recv(65536), b""))

        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(talk, clients))
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
        assert lab6.row("www")["summons"] == 1


def test_it_dies_with_the_daemon_and_its_clients_are_told(lab6: Lab) -> None:
    with serve(lab6, "import"):
        client = connect(lab6)
        eventually(lambda: lab6.row("www")["state"] == "awake")
        assert lab6.process is not None
        lab6.process.send_signal(signal.SIGKILL)
        lab6.process.wait()
        eventually(lambda: not servers())
    with client, serve(lab6, "import"):
        assert is_told(client)
        assert lab6.curl(url(4)).returncode == 0


def test_a_client_whose_program_dies_is_told(lab6: Lab) -> None:
    with serve(lab6, "import"):
        client = connect(lab6)
        client.sendall(GET)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        (server,) = servers()
        os.kill(server, signal.SIGKILL)
        with client:
            assert is_told(client)
        eventually(lambda: lab6.row("www")["state"] == "asleep")
        assert lab6.curl(url(4)).returncode == 0


ENDS_SLOWLY = """exec /usr/bin/python3 -c '
import os, runpy, signal, sys, time
def end(*_):
    print("told to end", flush=True)
    time.sleep(5)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
runpy.run_path(sys.argv[1])
' {}"""


@pytest.mark.parametrize("mode", ["import", "splice"])
def test_a_client_that_comes_while_it_takes_its_time_to_end(
    lab6: Lab, public: Path, mode: str
) -> None:
    """It is connected at once, and served by the next."""
    slow = written(public, ENDS_SLOWLY.format(SERVER))
    with serve(lab6, mode, 'stop = "shutdown"\nidle_after = 1', slow):
        assert lab6.ask("summon", "www")["state"] == "awake"
        eventually(lambda: "told to end" in lab6.jitsu("logs", "www"))
        (ending,) = servers()
        with lab6.clean_wire(), connect(lab6) as client:
            assert servers() == [ending], "it is still there"
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert lab6.row("www")["summons"] == 2


def test_what_it_may_do(lab6: Lab, public: Path) -> None:
    """It is nobody, alone with what it has started, and that ends with it."""
    naps = str(100_000 + os.getpid())
    tell = (
        f"id -un; echo pid $$; pwd; nproc; sleep {naps} & "
        "ip -o link | wc -l; ls -d /proc/[0-9]*; sleep 2"
    )
    program = written(public, tell)
    with serve(lab6, "import", image=program):
        with connect(lab6) as client:
            assert is_told(client)
        said = lab6.jitsu("logs", "www").split()
        assert said[:4] == ["nobody", "pid", "1", "/"]
        assert said[4] == str(len(os.sched_getaffinity(0)))
        assert said[5] == "2", "its loopback, and its link"
        assert "/proc/1" in said[6:]
        assert len(said) < 11, "it sees its own processes alone"
        eventually(lambda: not running(b"sleep", naps.encode()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo no such database >&2; exit 3", "the program exited with 3: no such database"),
        ("exit 0", "the program has ended"),
        ("kill -9 $$; sleep 1; exit 4", "the program exited with 4"),
    ],
)
def test_a_program_that_ends(lab6: Lab, public: Path, text: str, reason: str) -> None:
    with serve(lab6, "import", image=written(public, text)):
        with connect(lab6) as client:
            assert is_told(client)
        # Late: the log waits until there is time for it.
        eventually(
            lambda: any((told.get("reason") or "").startswith(reason) for told in lab6.log())
        )


def test_a_program_that_is_not_nobodys_to_run(lab6: Lab, public: Path) -> None:
    program = written(public, "sleep 10")
    program.chmod(0o700)
    with serve(lab6, "import", image=program):
        with connect(lab6) as client:
            assert is_told(client)
        why = f"jitsu: cannot execute {program} as nobody: Permission denied\n"
        eventually(lambda: why in lab6.jitsu("logs", "www"))
