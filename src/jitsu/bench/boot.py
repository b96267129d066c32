"""From nothing to a domain of Xen that is ready: by `xl create`, and by our own toolstack.

The rungs of the paper's ladder (Jitsu, NSDI 2015), and above them a domain that was prepared. All
take their turns in each round, so that whatever else the machine does hits all. Beside them is what
no toolstack can save: the hypervisor's own calls, with no word in the store, and the guest's own
boot, with all else done before. The paper's figures are of another machine: ratios compare.
"""

import asyncio
import gc
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import linear_regression, median, quantiles

import uvloop

from jitsu.bench import domains
from jitsu.bench.domains import Toolstack, World

SIZES, SIZES_QUICK = (16, 32, 64, 128, 256), (16, 256)
"""MiB of the guest's memory."""
ROUNDS, ROUNDS_QUICK = {16: 10}, {16: 4}
"""How often all are tried with so much memory, and otherwise:"""
ROUNDS_ELSE, ROUNDS_ELSE_QUICK = 3, 1
WANTED = {"jitsu": 7.0, "jitsu, prepared": 20.0}
"""How many times sooner than xl a guest of the least memory is to be ready."""
_REST = 0.02
"""Seconds between two boots: what the last has left to do is not the next one's."""
_SWITCH_INTERVAL = 0.0005  # as in `jitsu serve`

XL, OURS, PREPARED = "xl create", "jitsu", "jitsu, prepared"
HYPERVISOR, GUEST = "hypervisor alone", "guest alone"
PAPER = {
    XL: (653, 667, 724, 837, 974),
    "xl create, minimal script": (312, 350, 388, 473, 643),
    "bridge in process": (194, 218, 265, 359, 544),
    "plugged in parallel": (161, 194, 260, 345, 482),
    OURS: (123, 161, 218, 312, 464),
}
"""Milliseconds for guests of `SIZES`, read off the paper's figure: Xen 4.4 on a Cubieboard2."""

Boot = Callable[[World, int], Awaitable[tuple[float, dict[str, float]]]]


@dataclass(slots=True)
class _Way:
    """One way to make a domain, and what was seen of it by size, in milliseconds."""

    what: str
    boot: Boot
    floor: str
    seen: dict[int, list[float]] = field(default_factory=dict)
    stages: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    async def run(self, world: World, mib: int) -> None:
        took, stages = await self.boot(world, mib)
        self.seen.setdefault(mib, []).append(took)
        self.stages.setdefault(mib, []).append(stages)
        await asyncio.sleep(_REST)


def _ways() -> list[_Way]:
    async def xl(world: World, mib: int) -> tuple[float, dict[str, float]]:
        return await world.xl.boot(mib), {}

    async def minimal(world: World, mib: int) -> tuple[float, dict[str, float]]:
        return await world.xl.boot(mib, minimal=True), {}

    async def hypervisor(world: World, mib: int) -> tuple[float, dict[str, float]]:
        return await domains.hypervisor_alone(world, mib), {}

    return [
        _Way(XL, xl, HYPERVISOR),
        _Way("xl create, minimal script", minimal, HYPERVISOR),
        _Way(
            "bridge in process",
            lambda world, mib: domains.boot(world, world.consoled, mib, Toolstack.boot_serially),
            HYPERVISOR,
        ),
        _Way(
            "plugged in parallel",
            lambda world, mib: domains.boot(world, world.consoled, mib, Toolstack.boot),
            HYPERVISOR,
        ),
        _Way(
            OURS,
            lambda world, mib: domains.boot(world, world.ours, mib, Toolstack.boot),
            HYPERVISOR,
        ),
        _Way(PREPARED, domains.prepared, GUEST),
        _Way(HYPERVISOR, hypervisor, HYPERVISOR),
        _Way(GUEST, domains.guest_alone, GUEST),
    ]


def run(quick: bool) -> list[dict[str, object]]:
    """Return a row for each way and size, and what memory costs. Raises HostError."""
    sizes = SIZES_QUICK if quick else SIZES
    counts, otherwise = (ROUNDS_QUICK, ROUNDS_ELSE_QUICK) if quick else (ROUNDS, ROUNDS_ELSE)
    return measure({mib: counts.get(mib, otherwise) for mib in sizes})


def measure(rounds: dict[int, int]) -> list[dict[str, object]]:
    """Do as `run`, with so many rounds for guests of so many MiB."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    ways = _ways()
    with tempfile.TemporaryDirectory(prefix="jitsu-bench-") as name:
        folder = Path(name)
        with domains.host(folder, tuple(rounds)) as (config, network):
            uvloop.run(_measure(partial(domains.world, folder, config, network), ways, rounds))
    rows = [_row(way, mib, ways) for mib in rounds for way in ways]
    if len(rounds) > 1:
        rows += [_slope(way, ways) for way in ways if way.what != GUEST]
    return rows


async def _measure(
    made: Callable[[], AbstractAsyncContextManager[World]],
    ways: list[_Way],
    rounds: dict[int, int],
) -> None:
    async with made() as world:
        for way in ways:  # the first of each pages programs in, and makes QEMU translate them
            await way.boot(world, min(rounds))
        gc.collect()
        gc.freeze()
        for mib, count in rounds.items():
            for number in range(count):
                first = number % len(ways)
                for way in ways[first:] + ways[:first]:
                    await way.run(world, mib)


def _row(way: _Way, mib: int, ways: list[_Way]) -> dict[str, object]:
    seen = {one.what: one.seen[mib] for one in ways}
    mine, xl = seen[way.what], seen[XL]
    row: dict[str, object] = {
        "what": f"{mib} MiB: {way.what}",
        "n": len(mine),
        "median": round(median(mine), 2),
        "p99": round(_p99(mine), 2),
        "unit": "ms",
        "floor": round(median(seen[way.floor]), 2),
        "sooner": round(median(a / b for a, b in zip(xl, mine, strict=True)), 2),
    }
    if mib == SIZES[0] and way.what in WANTED:
        row["wanted"] = WANTED[way.what]
    if way.what in PAPER and mib in SIZES:
        paper = PAPER[way.what][SIZES.index(mib)]
        row["paper"] = paper
        row["paper_sooner"] = round(PAPER[XL][SIZES.index(mib)] / paper, 2)
    if names := way.stages[mib][0]:
        row["stages"] = {
            name: round(median(one[name] for one in way.stages[mib]), 2) for name in names
        }
    return row


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]


def _slope(way: _Way, ways: list[_Way]) -> dict[str, object]:
    """Return what each MiB of memory costs, by the medians."""

    def of(one: _Way) -> float:
        return linear_regression([*one.seen], [median(values) for values in one.seen.values()])[0]

    (hypervisor,) = (one for one in ways if one.what == HYPERVISOR)
    row: dict[str, object] = {
        "what": f"each MiB: {way.what}",
        "n": sum(map(len, way.seen.values())),
        "median": round(of(way), 3),
        "unit": "ms",
        "floor": round(of(hypervisor), 3),
    }
    if way.what in PAPER:
        row["paper"] = round(linear_regression(SIZES, PAPER[way.what])[0], 2)
    return row
