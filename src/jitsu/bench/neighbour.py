"""How much a cold summons of one service delays the directory's answers for another.

One service is awake and is asked for a thousand times a second, one query after the other. In every
second round the other service is summoned and stopped, over and over. What is compared is the time
that a query waits, in rounds with and without summonses, taken in turn in the same run.

The client that asks has the daemon's priority, where it may: on a machine of its own, as clients
are, it would not have to wait for a CPU behind the guests that boot.
"""

import os
import socket
import statistics
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import dns.message

from jitsu.api import control
from jitsu.bench.demo import DIRECTORY, WITH, WITHOUT, Demo, demo

ROUNDS, ROUNDS_QUICK = 20, 6
ROUND = 1.0
"""Seconds."""
NICE = -10
PAUSE = 0.001
"""Seconds between queries."""


def run(quick: bool) -> list[dict[str, object]]:
    """Return two rows: the wait for an answer without and with summonses beside it.

    Raises HostError when there is no daemon to be had.
    """
    waits: dict[bool, list[float]] = {False: [], True: []}
    summonses = 0
    with demo() as world:
        world.request(WITH)
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)  # this thread's, on Linux
        for number in range(ROUNDS_QUICK if quick else ROUNDS):
            busy = bool(number % 2)
            with ExitStack() as stack:
                summoning = _Summoning(world) if busy else None
                if summoning:
                    stack.callback(summoning.stop)
                waits[busy] += _ask(world)
            summonses += summoning.count if summoning else 0
    quiet = _row("an answer, nothing else", waits[False], None)
    beside = _row("an answer, beside cold summonses", waits[True], quiet)
    return [quiet, beside | {"summonses": summonses}]


class _Summoning:
    """Summons and stops the other service until it is told to stop."""

    def __init__(self, world: Demo) -> None:
        self.count = 0
        self._run: Path = world.run
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        while not self._stopping.is_set():
            control.request(self._run, "summon", name=WITHOUT)
            control.request(self._run, "stop", name=WITHOUT)
            self.count += 1


def _ask(world: Demo) -> list[float]:
    """Return how long each answer of one round took, in milliseconds."""
    query = dns.message.make_query(f"{WITH}.jitsu.test", "A").to_wire()
    waits: list[float] = []
    with world.hosts.at(world.hosts.client):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(5)
        client.connect((DIRECTORY, 53))
        until = time.perf_counter() + ROUND
        while (began := time.perf_counter()) < until:
            client.send(query)
            client.recv(512)
            waits.append((time.perf_counter() - began) * 1e3)
            time.sleep(PAUSE)
    return waits


def _row(what: str, waits: list[float], floor: dict[str, object] | None) -> dict[str, object]:
    p99 = statistics.quantiles(waits, n=100)[98]
    row: dict[str, object] = {
        "what": what,
        "n": len(waits),
        "median": round(statistics.median(waits), 3),
        "p99": round(p99, 3),
        "unit": "ms",
    }
    if floor:
        row["floor"] = floor["p99"]
        row["p99_moved_by"] = round(p99 - float(str(floor["p99"])), 3)
    return row
