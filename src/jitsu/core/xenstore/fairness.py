"""Conflict credit: who makes others' transactions fail is held up, so that they get through.

A guest that keeps writing what another's transactions read could keep them from ever ending well.
So each domain has credit; when a transaction fails, the domains that have changed what it saw lose
a point each, and one that has none left is not served until it has earned some again. The figures
are oxenstored's. Privileged clients are not held up: the toolstack is not to be starved.
"""

from collections import deque
from typing import NamedTuple

from jitsu.core.xenstore.path import joined
from jitsu.core.xenstore.space import Change

BURST = 5.0
"""Credit at the start, and at most."""
EARNED_AFTER = 0.05
"""Seconds in which one point is earned."""
REMEMBERED = 4096
"""Paths of commits that are kept to find who is to blame; who began before that blames nobody."""


class Commit(NamedTuple):
    """What one commit changed, and whose it was."""

    number: int
    domid: int
    places: frozenset[bytes]
    """The tops: all that was created lies at or below the first node that was."""


class Credit:
    """The credit of guests, and the latest commits."""

    def __init__(self) -> None:
        self.commits = 0
        """Number of the last commit."""
        self._history: deque[Commit] = deque()
        self._remembered = 0
        """Paths in it."""
        self._points: dict[int, tuple[float, float]] = {}
        """Points of each domain that has lost some, and when it had so many."""

    def committed(self, domid: int, changes: list[Change]) -> None:
        """Note a commit of a guest, while transactions are open."""
        places = frozenset(joined(change.place) for change in changes)
        self._history.append(Commit(self.commits, domid, places))
        self._remembered += len(places)
        while self._remembered > REMEMBERED:
            self._remembered -= len(self._history.popleft().places)

    def forget(self) -> None:
        """No transaction is open: nobody is to blame for anything."""
        self._history.clear()
        self._remembered = 0

    def blame(self, begun: int, victim: int, path: bytes, now: float) -> set[int]:
        """Take a point from each domain that touched `path` since commit `begun`; return them."""
        guilty = {
            commit.domid
            for commit in self._history
            if commit.number > begun and commit.domid != victim and _touches(commit, path)
        }
        for domid in guilty:
            self._points[domid] = (self.points(domid, now) - 1.0, now)
        return guilty

    def points(self, domid: int, now: float) -> float:
        """Return a domain's credit."""
        if domid not in self._points:
            return BURST
        points, then = self._points[domid]
        points += (now - then) / EARNED_AFTER
        if points >= BURST:
            del self._points[domid]
            return BURST
        return points

    def served_at(self, domid: int, now: float) -> float | None:
        """Return when a domain without credit is served again; None if it is served now."""
        points = self.points(domid, now)
        return now - (points - 1.0) * EARNED_AFTER if points < 1.0 else None

    def release(self, domid: int) -> None:
        """Forget a domain that is gone."""
        self._points.pop(domid, None)


def _touches(commit: Commit, path: bytes) -> bool:
    """Tell whether a change of the commit can alter a reply about `path`."""
    below = path + b"/"
    return any(
        changed == path or changed.startswith(below) or path.startswith(changed + b"/")
        for changed in commit.places
    )
