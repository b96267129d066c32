"""The daemon is killed at any instant: its clients get service or RST, never silence.

Its fork server is, too: nobody notices.
"""

import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest

from e2e import test_handoff as qemu
from e2e import test_process as program
from e2e.conftest import Lab
from e2e.test_handoff import ADDRESSES, lab6
from e2e.test_main_job import WWW, eventually, only
from e2e.test_process import public

__all__ = ["lab6", "public"]

KILLS = 6
LATEST = 0.08
"""Seconds after the first SYN: a guest has long been handed its connections by then."""
CLIENTS = 6
"""Half of them over IPv6. Every third has nothing to say, as clients of mail servers have not."""
GET = b"GET / HTTP/1.0\r\n\r\n"
PATIENCE = 10.0
_ESTABLISHED = 1

SERVES: dict[str, Callable[[Lab], AbstractContextManager[None]]] = {
    "import": lambda lab: qemu.serve(lab, "import"),
    "splice": lambda lab: qemu.serve(lab, "splice"),
    "replay": lambda lab: qemu.serve(lab, "replay"),
    "program": lambda lab: program.serve(lab, "import"),
    "program, splice": lambda lab: program.serve(lab, "splice"),
    "program, replay": lambda lab: program.serve(lab, "replay"),
}


class Client:
    """One that connects at once, and speaks as soon as it is connected, if at all."""

    def __init__(self, number: int) -> None:
        family, version = ((socket.AF_INET, 4), (socket.AF_INET6, 6))[number % 2]
        self.speaks = number % 3 != 0
        self.was_open = False
        self.socket = socket.socket(family)
        self.socket.setblocking(False)
        self.socket.connect_ex((ADDRESSES[version], 80))

    def is_open(self) -> bool:
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return info[0] == _ESTABLISHED

    def goes_on(self) -> None:
        """Speak, if it is time."""
        if not self.was_open and self.is_open():
            self.was_open = True
            if self.speaks:
                self.socket.sendall(GET)

    def outcome(self) -> str:
        """Return what becomes of it: `served`, `told` that it is over, or `silence`."""
        self.socket.settimeout(PATIENCE)
        try:
            if not self.was_open and select.select([], [self.socket], [], PATIENCE)[1]:
                self.socket.sendall(GET)  # its SYN was sent again, to the heir
            answer = self.socket.recv(65536)
        except TimeoutError:
            return "silence"
        except OSError:
            return "told"
        # A program's end is one of its connections, too.
        return "served" if answer.startswith(b"HTTP/1") else "told" if not answer else "nonsense"


@pytest.mark.parametrize("mode", SERVES)
def test_at_any_instant(lab6: Lab, mode: str) -> None:
    chance = random.Random(mode)
    for _ in range(KILLS):
        instant = chance.uniform(0, LATEST)
        with ExitStack() as stack:
            with SERVES[mode](lab6):
                with lab6.hosts.at(lab6.hosts.client):
                    clients = [Client(number) for number in range(CLIENTS)]
                for client in clients:
                    stack.enter_context(client.socket)
                until = time.monotonic() + instant
                while time.monotonic() < until:
                    for client in clients:
                        client.goes_on()
                assert lab6.process is not None
                lab6.process.send_signal(signal.SIGKILL)
                lab6.process.wait()
                killed = lab6.process.pid
            with SERVES[mode](lab6):
                outcomes = [client.outcome() for client in clients]
        assert set(outcomes) <= {"served", "told"}, (instant, outcomes)
        eventually(lambda: not any(map(of(killed), commands())))  # noqa: B023  (it is done at once)


def commands() -> list[bytes]:
    """Return the command lines of all processes."""
    return [_command(int(path.name)) for path in Path("/proc").glob("[0-9]*")]


def of(daemon: int) -> Callable[[bytes], bool]:
    """Tell launchers of a daemon from others."""
    return lambda command: b"\0--daemon\0%d\0" % daemon in command


def test_the_fork_server(lab: Lab) -> None:
    with lab.serve(WWW):
        first = eventually_one(lab)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: forkserver(lab) == [])
        for _ in range(2):  # executed, and from a new copy
            assert lab.curl("http://10.77.0.10/").returncode == 0
            lab.ask("stop", "www")
            assert eventually_one(lab) != first
        assert lab.guests() == []
        assert all(line["level"] == "info" for line in lab.log())
        last = eventually_one(lab)
    assert not Path(f"/proc/{last}").exists()


def eventually_one(lab: Lab) -> int:
    return only(partial(forkserver, lab))


def forkserver(lab: Lab) -> list[int]:
    """Return the pids of QEMUs of the daemon that are no guest yet."""
    assert lab.process is not None
    tasks = Path(f"/proc/{lab.process.pid}/task").glob("*/children")
    pids = {int(pid) for task in tasks for pid in task.read_text().split()}
    return [p for p in pids if b"jitsu: loaded" in _command(p)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ends just now
        return b""
