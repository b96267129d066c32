"""The benchmarks on Xen, in their smallest form: what they tell, and that nothing is left."""

import socket
from contextlib import closing

import pytest

from jitsu.bench import boot
from jitsu.host.xen.libxc import Xen

pytestmark = pytest.mark.xen(timeout=400)


def here() -> tuple[set[int], set[str]]:
    """Return which domains and interfaces there are."""
    with closing(Xen()) as xen:
        return {one.domid for one in xen.domains()}, {name for _, name in socket.if_nameindex()}


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
