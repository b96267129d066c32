"""What a test asks of the lab: `@pytest.mark.xen(store="xenstored", timeout=60)`."""

from dataclasses import dataclass
from typing import Self

import pytest

STORES = ("oxenstored", "xenstored", "jitsu")
"""What can be dom0's XenStore: Xen's daemon in OCaml, its daemon in C, and ours."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The lab that a test wants."""

    store: str = STORES[0]
    timeout: int = 120
    """Seconds for the test, its fixtures included."""
    spoils: bool = False
    """It leaves dom0 so that no other test can run there."""

    @classmethod
    def of(cls, item: pytest.Item) -> Self | None:
        """Return what the marker of a test says, None when it is no test of the lab.

        Raises pytest.UsageError.
        """
        marker = item.get_closest_marker("xen")
        if marker is None:
            return None
        try:
            wish = cls(*marker.args, **marker.kwargs)
        except TypeError as error:
            raise pytest.UsageError(f"{item.nodeid}: xen: {error}") from error
        if wish.store not in STORES:
            raise pytest.UsageError(f"{item.nodeid}: xen: store is one of {', '.join(STORES)}")
        return wish
