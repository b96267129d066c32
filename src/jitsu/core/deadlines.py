"""The next of many deadlines, each of which may change at any time."""

import heapq
from collections.abc import Hashable


class Deadlines:
    """When each of many keys is due.

    Thousands of services have a deadline each; to look at all of them after every event would make
    each event cost as much as there are services. A heap finds the next one, and entries that a
    later `set` has overtaken are passed over when they come up.
    """

    def __init__(self) -> None:
        self._current: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._serial = 0

    def set(self, key: Hashable, at: float | None) -> None:
        """Make `key` due at `at`, or never."""
        if at is None:
            self._current.pop(key, None)
        elif self._current.get(key) != at:
            self._current[key] = at
            self._serial += 1  # keys themselves need not be comparable
            heapq.heappush(self._heap, (at, self._serial, key))

    def next(self) -> float | None:
        """Return the earliest deadline, if there is one."""
        while self._heap and self._current.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Hashable]:
        """Return the keys that are due by `now`, earliest first, each once."""
        keys: list[Hashable] = []
        while (at := self.next()) is not None and at <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._current[key]
            keys.append(key)
        return keys
