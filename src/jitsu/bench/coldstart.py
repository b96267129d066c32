"""How soon a service that sleeps answers, by the way that its clients are handed over.

All modes take their turns in one run, each round after a bare start of such a guest: the floor.
Of each cold start the client's network card says when the first byte came, and curl when it was
connected.

A fault is a SYN that the client has sent again, a RST that it was sent, a body that differs from
what the service says when it is awake, and no answer at all. All are counted, and there should be
none, however many the runs: `--runs 1667` are ten thousand cold starts. Data that either end has
sent again is counted too, but is no fault on a host that is busy with something else.
"""

import hashlib
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jitsu.bench import program
from jitsu.bench.demo import PATIENCE, Demo, Offer, Request, demo
from jitsu.errors import HostError
from jitsu.host.process import spawn_raw

ROUNDS, ROUNDS_QUICK = 200, 20
CONNECT_WANTED = 1.5
"""Milliseconds, where the handshake is not the guest's."""
FIRST_BYTE_WANTED = 2.0
"""Milliseconds beyond the floor."""
_REST = 0.15
"""Seconds before each start, a floor's too: until the namespace of the last one is gone, for which
others wait, and a program's launcher waits again, which is made some time after a boot."""


@dataclass(slots=True)
class _Mode:
    """One way of handing over, and what was seen of it."""

    what: str
    offer: Offer
    answers_at_once: bool
    connect: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    syn_retransmits: int = 0
    retransmits: int = 0
    resets: int = 0
    wrong_bodies: int = 0
    unanswered: int = 0
    right: str = ""
    """The hash of what the service says."""

    def begin(self, world: Demo) -> None:
        """Ask it twice: the second time it is awake."""
        world.request(self.offer.name)
        self.right = _hash(world.request(self.offer.name))
        world.stop(self.offer.name)

    def run(self, world: Demo, floor: float) -> None:
        """Do one cold start."""
        try:
            request = world.cold(self.offer.name, self.offer.address)
        except HostError as error:
            self.unanswered += 1
            sys.stderr.write(f"jitsu: {self.what}: {error}\n")
            return
        finally:
            world.stop(self.offer.name)
        world.drain(request.seen)
        self.floor.append(floor)
        self.connect.append(request.connect)
        self.first_byte.append(request.milliseconds)
        self.syn_retransmits += request.seen.syn_retransmits
        self.retransmits += request.seen.retransmits
        self.resets += request.seen.resets
        self.wrong_bodies += _hash(request) != self.right

    def rows(self) -> list[dict[str, object]]:
        connect = _row(f"{self.what}: connect", self.connect)
        if self.answers_at_once:
            connect["wanted"] = CONNECT_WANTED
        first = _row(f"{self.what}: query to first byte", self.first_byte)
        beyond = statistics.median(f - g for f, g in zip(self.first_byte, self.floor, strict=True))
        first |= {
            "floor": round(statistics.median(self.floor), 3),
            "beyond": round(beyond, 3),
            "wanted": FIRST_BYTE_WANTED,
            "syn_retransmits": self.syn_retransmits,
            "retransmits": self.retransmits,
            "resets": self.resets,
            "wrong_bodies": self.wrong_bodies,
            "unanswered": self.unanswered,
        }
        return [connect, first]


@dataclass(frozen=True, slots=True)
class _Backend:
    """What runs the guests of some modes, and how long such a guest takes by itself."""

    floor: Callable[[Demo], float]
    modes: tuple[_Mode, ...]

    def round(self, world: Demo, number: int) -> None:
        time.sleep(_REST)
        floor = self.floor(world)
        for mode in self.modes[number % 2 :] + self.modes[: number % 2]:
            time.sleep(_REST)
            mode.run(world, floor)


def run(quick: bool, runs: int | None = None) -> list[dict[str, object]]:
    """Return two rows for each mode. Raises HostError when a service does not answer at all."""
    rounds = runs or (ROUNDS_QUICK if quick else ROUNDS)
    with tempfile.TemporaryDirectory(prefix="jitsu-bench-") as folder:
        Path(folder).chmod(0o755)  # who runs the program is nobody
        backends = (_qemu(), _process(Path(folder)))
        modes = [mode for backend in backends for mode in backend.modes]
        with demo([mode.offer for mode in modes]) as world:
            for mode in modes:
                mode.begin(world)
            for number in range(rounds):
                for backend in backends:
                    backend.round(world, number)
    return [row for mode in modes for row in mode.rows()]


def _qemu() -> _Backend:
    """Return modes whose floor is a bare QEMU: exec to its guest's first frame."""
    return _Backend(
        Demo.floor,
        (
            _Mode("import, qemu", Offer("import", "10.77.0.20"), answers_at_once=True),
            _Mode("splice, qemu", Offer("splice", "10.77.0.22", 'handoff = "splice"'), True),
            _Mode("replay, qemu", Offer("replay", "10.77.0.21", 'handoff = "replay"'), False),
        ),
    )


def _process(folder: Path) -> _Backend:
    """Return modes whose floor is the bare program: exec to the first byte of its answer."""
    script = Path(shutil.copy(program.__file__, folder))
    python = Path(sys.executable).resolve()

    def offer(name: str, number: int, handoff: str) -> Offer:
        more = f'backend = "process"\nlisten = [80]\ncmdline = "-IS {script}"\n{handoff}'
        return Offer(name, f"10.77.0.{number}", more, python)

    probed = 'ready = "tcp:80"\nhandoff = '
    return _Backend(
        partial(_program_floor, [str(python), "-IS", str(script)]),
        (
            _Mode("import, process", offer("program-import", 23, ""), True),
            _Mode("splice, process", offer("program-splice", 24, f'{probed}"splice"'), True),
            _Mode("replay, process", offer("program-replay", 25, f'{probed}"replay"'), False),
        ),
    )


def _program_floor(argv: list[str], world: Demo) -> float:
    """Return the milliseconds that a bare program takes to answer one that waits already."""
    with ExitStack() as stack:
        stack.enter_context(world.hosts.at(world.hosts.host))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        where = listener.getsockname()
        with socket.create_connection(where, PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            began = time.perf_counter()
            pid = spawn_raw(argv, {3: listener.fileno()}, None)
            try:
                client.recv(1)
                return (time.perf_counter() - began) * 1e3
            finally:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _hash(request: Request) -> str:
    return hashlib.sha256(request.body).hexdigest()


def _row(what: str, values: list[float]) -> dict[str, object]:
    p99 = statistics.quantiles(values, n=100)[98]
    median = round(statistics.median(values), 3)
    return {"what": what, "n": len(values), "median": median, "p99": round(p99, 3), "unit": "ms"}
