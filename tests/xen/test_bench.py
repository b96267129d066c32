"""The benchmarks on Xen, in their smallest form: what they tell, and that nothing is left."""

import socket
from contextlib import closing
from pathlib import Path

import pytest

from jitsu.bench import boot, xenstores
from jitsu.host.xen.libxc import Xen


def here() -> tuple[set[int], set[str]]:
    """Return which domains and interfaces there are."""
    with closing(Xen()) as xen:
        return {one.domid for one in xen.domains()}, {name for _, name in socket.if_nameindex()}


@pytest.mark.xen(timeout=400)
def test_boot() -> None:
    before = here()
    rows = boot.measure({16: 1, 32: 1})
    assert here() == before
    by_size = [str(row["what"]).partition(": ") for row in rows]
    ways = [what for size, _, what in by_size if size == "16 MiB"]
    assert [what for size, _, what in by_size if size == "32 MiB"] == ways
    assert {boot.XL, boot.OURS, boot.PREPARED, *boot.PAPER} < set(ways)
    for row, (size, _, what) in zip(rows, by_size, strict=True):
        assert {"n", "median", "unit", "floor"} < row.keys()
        if size != "each MiB":
            assert row["n"] == 1
            assert float(str(row["median"])) > 0 < float(str(row["floor"]))
            assert ("paper" in row) == (what in boot.PAPER)
    (ours,) = (row for row in rows if row["what"] == "16 MiB: jitsu")
    assert set(ours["stages"]) == {"created", "built", "unpaused", "connected"}  # type: ignore[call-overload]


@pytest.mark.xen(timeout=400, spoils=True)
def test_xenstores() -> None:
    if "lab.tree=" not in Path("/proc/cmdline").read_text():
        pytest.skip("it would leave this dom0 with a store that its kernel does not know")
    before = here()
    rows = xenstores.measure((1, 3), 1)
    assert here() == before
    names = (*xenstores.STORES, xenstores.NOBODY)
    assert [row["what"] for row in rows] == [
        f"{name}: {count} starts at once" for count in (1, 3) for name in names
    ]
    for row in rows:
        assert (row["n"], row["unit"]) == (1, "ms")
        assert float(str(row["median"])) > 0 < float(str(row["floor"]))
        assert row.keys() >= {"of C xenstored", "of oxenstored"}
