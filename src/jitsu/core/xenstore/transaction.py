"""Transactions that merge (Jitsu, NSDI 2015).

A transaction works on the root that it began with and sees nobody else's changes. At its end the
store may have moved on. Then, in this order:

1. It has changed nothing: it succeeds, as if all of it had happened at its start.
2. The store's root is the one it began with: its own root becomes the store's.
3. **Common prefixes.** What it has read and changed lies at or below a few places; a node that it
   has created is one, with all that it has then done there. If none of these places has been
   touched since (they are the same objects, or still absent, and the way to them has the same
   permissions), its subtrees are put into the store's tree. This costs a path each.
4. **Replay.** Its requests are done again on the store's root. If every reply is the one that the
   client was given, the client cannot tell that others were there before it: the new result is
   the store's. "Like git rebase".
5. A reply differs: EAGAIN, and the client begins anew.

So a hundred domains are built at once: their transactions all touch `/local/domain`, but none
of their replies depends on another's nodes. (In oxenstored step 3 knows only one prefix of all that
was read and one of all that was changed, which for a domain's creation is `/`: it is always
replayed.) To create or remove a node changes its parent: who has listed the parent sees that it
is another object.

In all cases the store is as if the transactions had run one after another, in the order of their
ends.
"""

from collections.abc import Iterable
from typing import NamedTuple

from jitsu.core.xenstore import calls, tree
from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore.calls import Reply
from jitsu.core.xenstore.path import Names
from jitsu.core.xenstore.space import Space
from jitsu.core.xenstore.tree import Node
from jitsu.wire.xenstore import Op

PLACES_MAX = 16
"""With more places it is not much dearer to do all requests again."""


Entry = tuple[int, bytes, Reply, bool]
"""A request that was done, type and payload, the reply that its client has, and whether anything
was changed."""


class Conflict(NamedTuple):
    """Why a transaction cannot be merged: the reply about `path` would be another one now."""

    path: bytes


class Transaction:
    """A space, where it began, and all that was done in it."""

    __slots__ = ("base", "begun", "doomed", "entries", "space")

    def __init__(self, space: Space, begun: int, *, doomed: bool = False) -> None:
        self.space = space
        self.doomed = doomed
        """What it has done before is lost with a daemon that was killed: it is to be done again."""
        self.base = space.root
        self.begun = begun
        """The number of the store's last commit at the start."""
        self.entries: list[Entry] = []

    def perform(self, op: int, payload: bytes) -> Reply:
        """Do a request, and remember it."""
        space, entries = self.space, self.entries
        before, limit = len(space.changes), space.quota.requests
        if before >= limit or len(entries) >= limit:
            return calls.ERROR, b"ENOSPC\0"
        reply = calls.perform(space, op, payload)
        entries.append((op, payload, reply, len(space.changes) > before))
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
        firm, fresh = self._touched(root)
        firm |= self._seen(fresh)
        places = tops(firm | fresh)
        if len(places) > PLACES_MAX:
            return None
        for place in places:
            free = unchanged(self.base, root, place) if place in firm else self._vacant(root, place)
            if not free:
                return None
        for domid, count in space.owned.items():
            if count > 0 and space.held.get(domid, 0) + count > space.quota.nodes:
                return None  # each of two has kept to the quota, both together have not
        stock = Space(root, space.actor, space.home, space.quota, space.held)
        for place in places:
            scion = tree.find(space.root, place)
            if scion is not tree.find(self.base, place):
                stock.put(place, scion)
        space.root = stock.root
        self._leave_out_parents(places)
        return space

    def _leave_out_parents(self, places: list[Names]) -> None:
        """Forget the parents that were created on the way, but others had created first."""
        space = self.space
        out = set()
        for change in space.changes:
            if not change.told and not below(paths.names(change.path), places):
                out.add(change.path)
                if change.after is not None and change.after.perms.owner in space.owned:
                    space.owned[change.after.perms.owner] -= 1
        if out:
            space.changes = [c for c in space.changes if c.told or c.path not in out]

    def _touched(self, root: Node) -> tuple[set[Names], set[Names]]:
        """Return the tops of what was changed or removed, and of what was created.

        Parents that were created on the way may be in the store's tree by now: then what counts
        begins below them. So it is when the first domains of a host are built at once, each of
        which creates `/local/domain`. Only for privileged clients: for others the permissions of a
        parent, which was not there, decide about the replies.
        """
        firm: set[Names] = set()
        fresh: set[Names] = set()
        inside: set[Names] = set()
        """What was created, at or below one of `fresh`."""
        privileged = self.space.actor.privileged
        for _, before, _, names, top, told in self.space.changes:
            if before is not None or not privileged:
                if names[:top] not in inside:
                    firm.add(names[:top])
            elif told:
                if names[:-1] not in inside:
                    there = tree.nearest(root, names)[1]
                    depth = min(max(top, there + 1), len(names))
                    fresh.add(names[:depth])
                    inside.update([names[:end] for end in range(depth, len(names))])
                inside.add(names)
        return firm, fresh

    def _vacant(self, root: Node, place: Names) -> bool:
        """Tell whether `place` is free in the store's tree, and would be created as it was here."""
        theirs = tree.find(root, place[:-1])
        mine = tree.find(self.space.root, place[:-1])
        if theirs is None or mine is None or theirs.perms != mine.perms:
            return False
        return place[-1] not in theirs.children

    def _seen(self, fresh: set[Names]) -> set[Names]:
        """Return what the requests that changed nothing were about, where it is a path.

        What was created says itself that all below was not there; but what RM says of a node that
        is not there depends on its parent.
        """
        home = self.space.home
        seen = set()
        for op, payload, reply, changed in self.entries:
            if not changed and reply != (calls.ERROR, calls.EINVAL):
                names = paths.locate(calls.path_of(payload), home)[1]
                if op == Op.RM or not below(names, fresh):
                    seen.add(names)
        return seen

    def _replay(self, root: Node) -> Space | Conflict:
        mine = self.space
        space = Space(root, mine.actor, mine.home, mine.quota, mine.held)
        for op, payload, reply, _ in self.entries:
            if calls.perform(space, op, payload) != reply:
                return Conflict(paths.locate(calls.path_of(payload), mine.home)[0])
        return space


def below(names: Names, places: Iterable[Names]) -> bool:
    """Tell whether `names` is at or below one of `places`."""
    for place in places:  # noqa: SIM110  # any() would take three times as long
        if names[: len(place)] == place:
            return True
    return False


def tops(places: set[Names]) -> list[Names]:
    """Return those of `places` that are below no other; of too many no more than show it."""
    found: list[Names] = []
    for names in sorted(places, key=len):
        if not below(names, found):
            found.append(names)
            if len(found) > PLACES_MAX:
                break
    return found


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
