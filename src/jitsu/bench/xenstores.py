"""Real domains started at once, on each of three daemons as the store of one dom0, in turn.

A start is what our toolstack does for a domain that is prepared: create, build, tell the store of
it and its interface, tell it of its boot, have the store serve its ring. It is paused then, and no
interface is made: 50 of those, on the one processor of a small dom0, would be all that is seen.

The kernel of dom0 is not told that its store is another one, and what it has watched is lost: so
this host is to be started again afterwards, and it is refused where domains run.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import uvloop

from jitsu import store
from jitsu.backends.xen import XenBackend, XenInstance
from jitsu.config import load
from jitsu.errors import HostError
from jitsu.host.log import logger
from jitsu.host.process import spawn_raw
from jitsu.host.xen import domain
from jitsu.host.xen.dom0 import dom0_store
from jitsu.host.xen.domain import Kind, Plan
from jitsu.host.xen.images import Images
from jitsu.host.xen.libxc import Xen
from jitsu.host.xen.store import DOM0_SOCKET, Connect
from jitsu.model import Config, Epoch, Name, Service, StopMode, WhichXenstored, mac_of

C, OCAML, OURS, INSIDE = "C xenstored", "oxenstored", "jitsu xenstored", "inside jitsu"
STORES = (C, OCAML, OURS, INSIDE)
"""The last is ours in the toolstack's own process, as `jitsu serve` has it."""
NOBODY = "no store"
STARTS = (1, 10, 50)
ROUNDS, ROUNDS_QUICK = 3, 1
WANTED = 1.0
"""The part that ours may take of the time of either of the others."""
_MEMORY = 8 << 20
_PATIENCE = 60.0
_LOOK = 0.02
"""Seconds for a daemon to serve or to end, and between two looks at it."""
_FOLDER = "/usr/lib/xen-4.17/bin"
_CONFIG = """
[directory]
listen = ["198.51.100.1:53"]
[network]
bridge = "jitsubnch"
subnet = "198.51.100.0/24"
[host]
state = "{folder}/state"
run = "{folder}/run"
[[service]]
name = "bench"
image = "hello.elf"
backend = "xen"
memory = "{memory}"
handoff = "none"
"""


class Starter(XenBackend):
    """Our toolstack, of domains whose interfaces nobody makes."""

    async def place(self, service: Service) -> XenInstance:
        """Do all of a boot that is between it and the store."""
        image, instance = await self._create(service, None)
        instance.epoch = Epoch(1)

        async def tell() -> None:
            await self._plugs.publish(instance.plugged, instance.plan)
            await self._guests.begin(service, Epoch(1), instance.domain.domid)

        async def make() -> None:
            built, _ = await asyncio.gather(self._build(instance, image, None), tell())
            await self._introduce(instance, built)

        await self._settle(instance, make())
        return instance


def run(quick: bool) -> list[dict[str, object]]:
    """Return a row for each number of starts and store. Raises HostError."""
    return measure(STARTS, ROUNDS_QUICK if quick else ROUNDS)


def measure(starts: tuple[int, ...], rounds: int) -> list[dict[str, object]]:
    """Do as `run`, for so many starts at once, and rounds."""
    seen: dict[tuple[int, str], list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jitsu-bench-")))
        path = folder / "bench.toml"
        path.write_text(_CONFIG.format(folder=folder, memory=f"{_MEMORY >> 20}MiB"))
        xen = Xen()
        stack.callback(xen.close)
        if len([*xen.domains()]) > 1:
            raise HostError("domains run here, and would lose their store; `xl list` shows them")
        config = load(path)
        stack.enter_context(_no_store())
        for number in range(rounds):
            first = number % len(STORES)
            for name in STORES[first:] + STORES[:first]:
                with _running(name, folder / f"{number}"):
                    connect = _connect(name, folder / f"{number}-inside")
                    uvloop.run(_turn(xen, config, connect, partial(_note, seen, name), starts))
            for count in starts:
                _note(seen, NOBODY, count, _without(xen, config.services[0], count))
    return [_row(seen, count, name) for count in starts for name in (*STORES, NOBODY)]


def _note(seen: dict[tuple[int, str], list[float]], name: str, count: int, took: float) -> None:
    seen.setdefault((count, name), []).append(took * 1e3)


async def _turn(
    xen: Xen,
    config: Config,
    connecting: AbstractAsyncContextManager[Connect],
    note: Callable[[int, float], None],
    starts: tuple[int, ...],
) -> None:
    """Start so many at once, each number once, after one that is not counted."""
    async with connecting as connect:
        starter = Starter(xen, config, logger())
        await starter.open(connect)
        try:
            await _start(starter, config.services[0], 1)
            for count in starts:
                note(count, await _start(starter, config.services[0], count))
        finally:
            await starter.close()


async def _start(starter: Starter, service: Service, count: int) -> float:
    """Return the seconds that `count` starts take; they are gone then."""
    services = [_service(service, number) for number in range(count)]
    begun = time.perf_counter()
    placed = await asyncio.gather(*map(starter.place, services))
    took = time.perf_counter() - begun
    for instance in placed:
        instance.stop(StopMode.DESTROY)
    await asyncio.gather(*(instance.gone for instance in placed))
    return took


def _service(service: Service, number: int) -> Service:
    name = f"{service.name}-{number}"
    return replace(service, name=Name(name), mac=mac_of(name))


def _without(xen: Xen, service: Service, count: int) -> float:
    """Return the seconds that the hypervisor alone takes to create and build `count` domains."""
    image = Images().load(service.image)
    plan = Plan(b"bench hypervisor", Kind.PVH, service.memory, b"store")
    made = []
    begun = time.perf_counter()
    try:
        for _ in range(count):
            made.append(domain.create(xen, plan))
            domain.build(xen, made[-1], plan, image.data)
        return time.perf_counter() - begun
    finally:
        for one in made:
            domain.destroy(xen, one.domid)
        for one in made:
            _until(partial(_gone, xen, one.domid), "a domain does not go")


def _gone(xen: Xen, domid: int) -> bool:
    return xen.domain(domid) is None


def _row(seen: dict[tuple[int, str], list[float]], count: int, name: str) -> dict[str, object]:
    mine = seen[count, name]
    row: dict[str, object] = {
        "what": f"{name}: {count} starts at once",
        "n": len(mine),
        "median": round(median(mine), 2),
        "p99": round(max(mine), 2),
        "unit": "ms",
        "floor": round(median(seen[count, NOBODY]), 2),
    }
    for other in (C, OCAML):
        theirs = seen[count, other]
        ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
        row[f"of {other}"] = round(ratio, 2)
    return row | {"wanted": WANTED} if name in (OURS, INSIDE) else row


# The daemons.


@asynccontextmanager
async def _outside() -> AsyncIterator[Connect]:
    yield partial(store.connect, DOM0_SOCKET)


def _connect(name: str, state: Path) -> AbstractAsyncContextManager[Connect]:
    return dom0_store(WhichXenstored.OWN, state, logger()) if name == INSIDE else _outside()


@contextmanager
def _running(name: str, state: Path) -> Iterator[None]:
    """Have a daemon be the store of dom0. Raises HostError."""
    argv = {
        C: [_program("xenstored"), "--no-fork"],
        OCAML: [_program("oxenstored"), "--no-fork"],
        OURS: [sys.executable, "-m", "jitsu", "xenstored", "--xen", "--state", str(state)],
    }
    if name not in argv:
        yield
        return
    process = subprocess.Popen(
        argv[name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _until(lambda: process.poll() is not None or _serves(), f"{name} does not serve")
        if process.returncode is not None:
            raise HostError(f"{name} has ended with {process.returncode} at its start")
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _no_store() -> Iterator[None]:
    """Have no daemon be dom0's store; at the end start again what was it, as it was started."""
    found = [*_daemons()]
    for pid, _ in found:
        os.kill(pid, signal.SIGKILL)
    _until(lambda: not [*_daemons()], "the store of dom0 does not end")
    try:
        yield
    finally:
        for _, argv in found:
            spawn_raw([shutil.which(argv[0]) or argv[0], *argv[1:]], {}, None)
        if found:
            _until(_serves, f"{found[0][1][0]} does not serve")


def _daemons() -> Iterator[tuple[int, list[str]]]:
    """Yield who may be dom0's store: its number, and how it was started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_text().split("\0")[:-1]
        except OSError:  # it has ended
            continue
        names = {Path(word).name for word in argv[:1]}
        if names & {"xenstored", "oxenstored"} or {"xenstored", "--xen"} <= {*argv}:
            yield int(entry.name), argv


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_FOLDER)
    if found is None:
        raise HostError(f"{name} is not installed; it is what we are compared with")
    return found


def _serves() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(DOM0_SOCKET)) == 0


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    """Wait till something holds. Raises HostError."""
    end = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise HostError(f"{otherwise} within {_PATIENCE:.0f} s")
        time.sleep(_LOOK)
