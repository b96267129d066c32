"""Transactions that merge (Jitsu, NSDI 2015).

A transaction works on the root that it began with and sees nobody else's changes. At its end the
store may have moved on. Then, in this order:

1. It has changed nothing: it succeeds, as if all of it had happened at its start.
2. The store's root is the one it began with: its own root becomes the store's.
3. **Common prefix.** All that it has read lies below one node, and all that it has changed below
   another. If neither has been touched since (they are the same objects, and the way to them has
   the same permissions), its subtree is put into the store's tree. This costs one path.
4. **Replay.** Its requests are done again on the store's root. If every reply is the one that the
   client was given, the client cannot tell that others were there before it: the new result is
   the store's. "Like git rebase".
5. A reply differs: EAGAIN, and the client begins anew.

Step 4 is what lets a hundred domains be built at once. Their transactions all touch
`/local/domain`, so a common prefix says nothing, but none of their replies depends on another's
nodes. In all cases the store is as if the transactions had run one after another, in the order
of their ends.
"""

from collections.abc import Iterable
from typing import NamedTuple

from jitsu.core.xenstore import calls, tree
from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore.calls import Reply
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.path import Names
from jitsu.core.xenstore.space import Space
from jitsu.core.xenstore.tree import Node
from jitsu.wire.xenstore import Op


class Entry(NamedTuple):
    """A request that was done, and the reply that its client has."""

    op: int
    payload: bytes
    reply: Reply
    changed: bool


class Conflict(NamedTuple):
    """Why a transaction cannot be merged: the reply about `path` would be another one now."""

    path: bytes


class Transaction:
    """A space, where it began, and all that was done in it."""

    __slots__ = ("base", "begun", "entries", "space")

    def __init__(self, space: Space, begun: int) -> None:
        self.space = space
        self.base = space.root
        self.begun = begun
        """The number of the store's last commit at the start."""
        self.entries: list[Entry] = []

    def perform(self, op: int, payload: bytes) -> Reply:
        """Do a request, and remember it."""
        space = self.space
        if len(self.entries) >= space.quota.requests:
            return Op.ERROR, b"ENOSPC\0"
        before = len(space.changes)
        reply = calls.perform(space, op, payload)
        self.entries.append(Entry(op, payload, reply, len(space.changes) > before))
        return reply

    def merge(self, root: Node) -> Space | Conflict:
        """Return what the store becomes when this ends now that its root is `root`."""
        space = self.space
        if root is self.base or not space.changes:
            return space
        merged = self._graft(root)
        return merged if merged is not None else self._replay(root)

    def _graft(self, root: Node) -> Space | None:
        space = self.space
        changed = common_prefix(change.mark for change in space.changes)
        if not unchanged(self.base, root, changed):
            return None
        seen = [names for entry in self.entries if (names := self._looked_at(entry)) is not None]
        if seen and not unchanged(self.base, root, common_prefix(seen)):
            return None
        if any(
            count > 0 and space.held.get(domid, 0) + count > space.quota.nodes
            for domid, count in space.owned.items()
        ):
            return None  # each of two has kept to the quota, both together have not
        mine = tree.find(space.root, changed)
        assert mine is not None, "what changed below a node has left the node"
        space.root = tree.put(root, changed, mine)
        return space

    def _looked_at(self, entry: Entry) -> Names | None:
        """Return what an entry that changed nothing has seen; None for a path that is none."""
        if entry.changed:
            return None
        try:
            path = paths.absolute(calls.path_of(entry.payload), self.space.home)
        except StoreError:
            return None
        return paths.names(path)

    def _replay(self, root: Node) -> Space | Conflict:
        mine = self.space
        space = Space(root, mine.actor, mine.home, mine.quota, mine.held)
        for op, payload, reply, _ in self.entries:
            if calls.perform(space, op, payload) != reply:
                path = calls.path_of(payload)
                return Conflict(paths.absolute(path, mine.home))
        return space


def common_prefix(several: Iterable[Names]) -> Names:
    """Return the longest path that all of `several`, one or more, lie at or below."""
    paths_ = iter(several)
    prefix = next(paths_)
    for names in paths_:
        length = 0
        for ours, theirs in zip(prefix, names, strict=False):
            if ours != theirs:
                break
            length += 1
        prefix = prefix[:length]
    return prefix


def unchanged(base: Node, root: Node, names: Names) -> bool:
    """Tell whether a request about anything at or below `names` has the same reply in both trees.

    Above it only the permissions count: they decide what is said of a node that is not there.
    """
    old: Node | None = base
    new: Node | None = root
    for name in names:
        if old is new:
            return True
        if old is None or new is None or old.perms != new.perms:
            return False
        old, new = old.children.get(name), new.children.get(name)
    return old is new
