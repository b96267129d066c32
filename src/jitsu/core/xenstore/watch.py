"""Who is told of what.

A watch on a path hears of every change at or below it; when a node is removed with all below it,
watches below hear of their own node, if it was there. An event names the path that changed, in
the form in which the watch was set: relative, if that was. Several changes of one path in one
transaction are one event.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore import tree
from jitsu.core.xenstore.space import Change
from jitsu.core.xenstore.tree import Node


class Watch(NamedTuple):
    """What one connection wants to hear of."""

    owner: int
    """The connection's number."""
    path: bytes
    token: bytes
    cut: int
    """Bytes at the beginning of a path that its client has not written and does not see."""


class Event(NamedTuple):
    """A watch is to be told that `path` has changed from one state to another."""

    watch: Watch
    path: bytes
    before: Node | None
    after: Node | None


class Watches:
    """All watches of all connections, by path."""

    def __init__(self) -> None:
        self.by_path: dict[bytes, list[Watch]] = {}
        self._paths: list[bytes] = []
        """The paths in order: all that are below one place are side by side."""

    def add(self, watch: Watch) -> None:
        """Begin to tell `watch`."""
        if watch.path not in self.by_path:
            insort(self._paths, watch.path)
        self.by_path.setdefault(watch.path, []).append(watch)

    def remove(self, watch: Watch) -> None:
        """Tell `watch` no more."""
        found = self.by_path[watch.path]
        found.remove(watch)
        if not found:
            del self.by_path[watch.path]
            del self._paths[bisect_left(self._paths, watch.path)]

    def at(self, path: bytes) -> Iterable[Watch]:
        """Return the watches on just `path`."""
        return self.by_path.get(path, ())

    def hear(self, changes: Iterable[Change]) -> Iterator[Event]:
        """Yield who is to be told of `changes`, in their order, each of a path only once."""
        told = [change for change in changes if change.told]
        last = {change.path: change for change in told}
        heard = set(last)
        for path, before, after, *_ in told:
            final = last.pop(path, None)
            if final is not None:
                for above in paths.ancestors(path):
                    for watch in self.at(above):
                        yield Event(watch, path, final.before, final.after)
            if after is None and before is not None:
                yield from self._below(path, before, heard)

    def _below(self, path: bytes, removed: Node, heard: set[bytes]) -> Iterator[Event]:
        """Yield the watches on what was below a node that is removed, and add it to `heard`."""
        begin = bisect_left(self._paths, path + b"/")
        end = bisect_left(self._paths, path + b"0", begin)  # "0" is what follows "/"
        for watched in self._paths[begin:end]:
            node = tree.find(removed, paths.names(watched[len(path) :]))
            if node is not None and watched not in heard:
                heard.add(watched)
                for watch in self.at(watched):
                    yield Event(watch, watched, node, None)
