"""Our XenStore beside Debian's two, C xenstored and oxenstored, which run without Xen for it.

All three serve a Unix socket each, in a process of its own, and take turns under the same load, so
that whatever else the machine does hits all; and where the kernel lets us, all of this has
real-time priority, for on a busy machine the scheduler's turns are what else is measured. The
paper's own figure (Jitsu, NSDI 2015) is printed
beside: its hardware was another, so that only the curves' shapes compare.
"""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

from jitsu.bench import debian
from jitsu.errors import HostError
from jitsu.wire.xenstore import HEADER, HEADER_BYTES, Op

PACKAGES = (
    *("xen-utils-4.17", "libxenmisc4.17", "libxenstore4", "libxenevtchn1", "libxengnttab1"),
    *("libxencall1", "libxenforeignmemory1", "libxendevicemodel1", "libxentoollog1"),
    "libxentoolcore1",
)
OURS, C, OCAML = "jitsu xenstored", "C xenstored", "oxenstored"
MACHINES = (1, 10, 50, 100, 200)
STARTS_WANTED = 1.0
"""The part of oxenstored's time that ours may take for the most machines."""
TRIP_WANTED = 2.0
"""The part of the C daemon's time that ours may take for a single request."""
LARGE_WANTED = 1.2
"""How much slower a look-up may be with a hundred thousand nodes than with a thousand."""
ROUNDS = 9
FOLDERS, FEW, MANY = 1000, 1_000, 100_000
PAPER = {
    50: (61.0, 17.0, 12.0),
    100: (277.0, 50.0, 27.0),
    200: (1340.0, 225.0, 102.0),
}
"""Seconds for N parallel VM starts, read off the paper's figure: C and OCaml of Xen 4.4, Jitsu."""
START_TRIES, START_WAIT = 100, 0.05


@dataclass(frozen=True, slots=True)
class Store:
    """A daemon that is being measured."""

    name: str
    path: Path
    pid: int

    def connect(self) -> socket.socket:
        """Connect to it."""
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    def memory(self) -> float:
        """Return its resident memory in MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def run(quick: bool) -> list[dict[str, object]]:
    """Measure all three. Raises HostError if one cannot be had or does not work."""
    rounds = 3 if quick else ROUNDS
    with ExitStack() as stack, before_all_else():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jitsu-bench-")))
        stores = [stack.enter_context(start(folder)) for start in (_ours, _c, _ocaml)]
        rows = _starts(stores, rounds, quick=quick)
        rows += _trips(stores, rounds, 300 if quick else 1000)
        rows += _sizes(stores, quick=quick)
    return rows + _papers()


@contextmanager
def before_all_else() -> Iterator[None]:
    """Have real-time priority, and so all that is started meanwhile, if that is allowed."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


# Many machines at once.


def _starts(stores: list[Store], rounds: int, *, quick: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for machines in MACHINES:
        seen: dict[str, list[dict[str, float]]] = {store.name: [] for store in stores}
        for number in range(rounds):
            for store in turns(stores, number):
                if store.name != C or number < _rounds_of_c(machines, quick=quick):
                    seen[store.name].append(_start(store, machines))
        rows += [_start_row(name, machines, seen) for name in seen if seen[name]]
    return rows


def _rounds_of_c(machines: int, *, quick: bool) -> int:
    """Return how often the C daemon's turn comes, which takes seconds where others take tenths.

    With the most machines it is half a minute on a busy host: not quick.
    """
    if machines < MACHINES[-2]:
        return ROUNDS
    return int(machines < MACHINES[-1]) if quick else 3


def turns(stores: list[Store], number: int) -> list[Store]:
    """Return the stores in the order of round `number`: nobody is always first."""
    first = number % len(stores)
    return stores[first:] + stores[:first]


def _start(store: Store, machines: int) -> dict[str, float]:
    argv = [sys.executable, "-m", "jitsu.bench.vmstarts", str(store.path), str(machines)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise HostError(f"{store.name} did not start {machines} machines: {said[-1]}")
    report: dict[str, float] = json.loads(done.stdout)
    return report


def _start_row(
    name: str, machines: int, seen: dict[str, list[dict[str, float]]]
) -> dict[str, object]:
    """Sum up; the ratio to oxenstored is the median of the rounds', `p99` the slowest round."""
    mine = [one["seconds"] for one in seen[name]]
    theirs = [one["seconds"] for one in seen[OCAML]]
    row: dict[str, object] = {
        "what": f"{name}: {machines} VM starts at once",
        "n": len(mine),
        "median": round(median(mine), 4),
        "p99": round(max(mine), 4),
        "unit": "s",
        "floor": round(median(theirs), 4),
        "ratio": round(median(a / b for a, b in zip(mine, theirs, strict=False)), 2),
        "eagain": int(max(one["eagain"] for one in seen[name])),
        "us_per_request": round(
            median(one["seconds"] / one["requests"] for one in seen[name]) * 1e6, 1
        ),
    }
    return row | {"wanted": STARTS_WANTED} if name == OURS and machines == MACHINES[-1] else row


# One request at a time.


def _trips(stores: list[Store], rounds: int, count: int) -> list[dict[str, object]]:
    works: dict[str, Callable[[socket.socket, int], object]] = {
        "write": lambda s, i: _ok(s, Op.WRITE, b"/bench/k%d\0v" % (i % 50)),
        "read": lambda s, _: _ok(s, Op.READ, b"/bench/k1\0"),
        "transaction of a write": _transaction,
    }
    rows: list[dict[str, object]] = []
    for what, work in works.items():
        times: dict[str, list[float]] = {store.name: [] for store in stores}
        for number in range(rounds):
            for store in turns(stores, number):
                with store.connect() as client:
                    times[store.name].append(_per_request(client, work, count))
        floor = times[C]
        for name, mine in times.items():
            row: dict[str, object] = {
                "what": f"{name}: {what}",
                "n": rounds * count,
                "median": round(median(mine), 1),
                "p99": round(max(mine), 1),
                "unit": "us",
                "floor": round(median(floor), 1),
                "ratio": round(median(a / b for a, b in zip(mine, floor, strict=True)), 2),
            }
            rows.append(row | {"wanted": TRIP_WANTED} if name == OURS else row)
    return rows


def _per_request(
    client: socket.socket, work: Callable[[socket.socket, int], object], count: int
) -> float:
    """Return the median of `count` times, in microseconds."""
    times = []
    for i in range(count):
        begun = time.perf_counter()
        work(client, i)
        times.append(time.perf_counter() - begun)
    return median(times) * 1e6


def _transaction(client: socket.socket, number: int) -> None:
    transaction = int(_ok(client, Op.TRANSACTION_START, b"\0")[:-1])
    _ok(client, Op.WRITE, b"/bench/t\0%d" % number, transaction)
    _ok(client, Op.TRANSACTION_END, b"T\0", transaction)


def _ok(client: socket.socket, op: Op, payload: bytes, transaction: int = 0) -> bytes:
    """Do one request. Raises HostError if the store refuses it, or hangs up."""
    client.sendall(HEADER.pack(op, 1, transaction, len(payload)) + payload)
    data = client.recv(8192)
    while data and len(data) < HEADER_BYTES + HEADER.unpack_from(data)[3]:
        data += client.recv(8192)
    if not data or HEADER.unpack_from(data)[0] != op:
        raise HostError(f"a store refused {op.name}: {data[HEADER_BYTES:]!r}")
    return data[HEADER_BYTES:]


# Many nodes.


def _sizes(stores: list[Store], *, quick: bool) -> list[dict[str, object]]:
    chance = random.Random(1)
    rows: list[dict[str, object]] = []
    for store in stores:
        if quick and store.name != OURS:
            continue
        with store.connect() as client:
            before = store.memory()
            _fill(client, 0, FEW // FOLDERS)
            few = _look_up(client, chance, FEW // FOLDERS)
            _fill(client, FEW // FOLDERS, MANY // FOLDERS)
            many = _look_up(client, chance, MANY // FOLDERS)
            row: dict[str, object] = {
                "what": f"{store.name}: look-up among {MANY} nodes",
                "n": 3000,
                "median": round(many, 1),
                "unit": "us",
                "floor": round(few, 1),
                "ratio": round(many / few, 2),
                "mib": round(store.memory() - before, 1),
            }
            rows.append(row | {"wanted": LARGE_WANTED} if store.name == OURS else row)
            _ok(client, Op.RM, b"/many\0")
    return rows


def _fill(client: socket.socket, begin: int, end: int) -> None:
    for folder in range(FOLDERS):
        for leaf in range(begin, end):
            _ok(client, Op.WRITE, b"/many/%d/%d\0value" % (folder, leaf))


def _look_up(client: socket.socket, chance: random.Random, leaves: int) -> float:
    def read(client: socket.socket, _: int) -> None:
        place = (chance.randrange(FOLDERS), chance.randrange(leaves))
        _ok(client, Op.READ, b"/many/%d/%d\0" % place)

    return _per_request(client, read, 3000)


# The paper.


def _papers() -> list[dict[str, object]]:
    names = ("C xenstored of Xen 4.4", "oxenstored of Xen 4.4", "Jitsu's xenstored")
    return [
        {
            "what": f"paper, ARM, {name}: {machines} VM starts at once",
            "n": 1,
            "median": seconds,
            "unit": "s",
            "floor": figures[1],
            "ratio": round(seconds / figures[1], 2),
        }
        for machines, figures in PAPER.items()
        for name, seconds in zip(names, figures, strict=True)
    ]


# The daemons.


@contextmanager
def _ours(folder: Path) -> Iterator[Store]:
    path = folder / "ours.sock"
    argv = [sys.executable, "-m", "jitsu", "xenstored", "--socket", str(path)]
    argv += ["--state", str(folder / "ours")]
    with _running(OURS, argv, {}, path) as store:
        yield store


@contextmanager
def _c(folder: Path) -> Iterator[Store]:
    run_folder = folder / "c"
    run_folder.mkdir()
    argv = [str(_binary("xenstored")), "-N", "-F", str(run_folder / "pid")]
    environment = {"XENSTORED_RUNDIR": str(run_folder)}
    with _running(C, argv, environment | _preloaded(), run_folder / "socket") as store:
        yield store


@contextmanager
def _ocaml(folder: Path) -> Iterator[Store]:
    own = folder / "ocaml"
    own.mkdir()
    (own / "kva").write_bytes(bytes(4096))
    (own / "port").write_text("1")
    settings = {
        "pid-file": own / "pid",
        "xenstored-kva": own / "kva",
        "xenstored-port": own / "port",
        "xenstored-log-file": own / "log",
        "access-log-file": own / "access",
    }
    # One access log for all of the run: after 13,215 lines, the default, it begins a new file with
    # every line, which costs ten times what the request does.
    fixed = "merge-activate = true\nperms-activate = true\nquota-activate = true\n"
    fixed += "access-log-nb-lines = 1000000000\n"
    written = "".join(f"{key} = {value}\n" for key, value in settings.items())
    (own / "conf").write_text(fixed + "persistent = false\n" + written)
    argv = [str(_binary("oxenstored")), "--no-fork", "--config-file", str(own / "conf")]
    environment = {"JITSU_BENCH_SOCKET": str(own / "socket")}
    with _running(OCAML, argv, environment | _preloaded(), own / "socket") as store:
        yield store


def _binary(name: str) -> Path:
    (program,) = debian.unpacked(*PACKAGES).glob(f"usr/lib/xen-*/bin/{name}")
    lacking = debian.missing_libraries(program, debian.libraries(program.parents[4]))
    if lacking:
        raise HostError(f"{name} needs {', '.join(lacking)}; install what has them")
    return program


def _preloaded() -> dict[str, str]:
    """Compile the shim, once for each of its versions; return what loads it."""
    source = files("jitsu.bench").joinpath("xenstore_shim.c").read_bytes()
    library = debian.cache() / f"xenstore-shim-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        argv = ["gcc", "-O2", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(partial)]
        try:
            done = subprocess.run(argv, input=source, capture_output=True, check=False)
        except FileNotFoundError:
            raise HostError("gcc is not installed; `apt-get install gcc` brings it") from None
        if done.returncode != 0:
            raise HostError(f"gcc: {done.stderr.decode().strip()}")
        partial.replace(library)
    root = debian.unpacked(*PACKAGES)
    return {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(debian.libraries(root))}


@contextmanager
def _running(
    name: str, argv: list[str], environment: dict[str, str], path: Path
) -> Iterator[Store]:
    """Run a daemon for as long as the context is open."""
    process = subprocess.Popen(
        argv,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        store = Store(name, path, process.pid)
        _await(store, process)
        yield store
    finally:
        process.kill()
        process.wait()


def _await(store: Store, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(START_TRIES):
        if process.poll() is not None:
            raise HostError(f"{store.name} has ended with {process.returncode} at its start")
        try:
            store.connect().close()
        except OSError:
            time.sleep(START_WAIT)
        else:
            return
    raise HostError(f"{store.name} does not serve its socket")
