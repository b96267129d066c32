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
WORST = -1.0
"""Nobody is held up longer than for this: else who lets many transactions fail, on purpose, could
keep others away for good."""
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
        self.held_up: dict[int, float] = {}
        """Domains that have no credit, and when they are served again."""

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

    def blame(self, begun: int, victim: int, path: bytes, now: float) -> None:
        """Take a point from each domain that touched `path` since commit `begun`."""
        guilty = {
            commit.domid
            for commit in self._history
            if commit.number > begun and commit.domid != victim and _touches(commit, path)
        }
        for domid in guilty:
            points = max(self.points(domid, now) - 1.0, WORST)
            self._points[domid] = (points, now)
            if points < 1.0:
                self.held_up[domid] = now + (1.0 - points) * EARNED_AFTER

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

    def release(self, domid: int) -> None:
        """Forget a domain that is gone."""
        self._points.pop(domid, None)
        self.held_up.pop(domid, None)


def _touches(commit: Commit, path: bytes) -> bool:
    """Tell whether a change of the commit can alter a reply about `path`."""
    below = path + b"/"
    return any(
        changed == path or changed.startswith(below) or path.startswith(changed + b"/")
        for changed in commit.places
    )
