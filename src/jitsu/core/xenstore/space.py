"""A root to work on, and what the work has changed: one request's, or one transaction's.

Nothing of it is anybody else's before it is committed.
"""

from typing import NamedTuple

from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import READ, WRITE, Actor, Perms, inherited, may_alter, rights
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.path import Names
from jitsu.core.xenstore.quota import Quota
from jitsu.core.xenstore.tree import Node


class Change(NamedTuple):
    """One node that was created, changed or removed."""

    path: bytes
    before: Node | None
    after: Node | None
    mark: Names
    """The deepest node that was there before and is not the same now: a parent, when a child was
    created in it or removed from it."""
    told: bool = True
    """Watches hear of it. Of the parents that a WRITE makes on its way they do not."""


class Space:
    """A root that requests of one actor change."""

    __slots__ = ("actor", "changes", "held", "home", "owned", "quota", "root")

    def __init__(
        self, root: Node, actor: Actor, home: bytes, quota: Quota, held: dict[int, int]
    ) -> None:
        self.root = root
        self.actor = actor
        self.home = home
        self.quota = quota
        self.held = held
        """Nodes that each domain owns in the store itself."""
        self.owned: dict[int, int] = {}
        """By how many nodes each domain owns more, or fewer, here."""
        self.changes: list[Change] = []

    def get(self, path: bytes, right: int = READ) -> Node:
        """Return the node at an absolute path. Raises StoreError(ENOENT), or EACCES.

        Whether a node is there is told to those alone who might see it if it were.
        """
        names = paths.names(path)
        node = tree.find(self.root, names)
        if node is None:
            above, _ = tree.nearest(self.root, names)
            raise StoreError("ENOENT" if rights(above.perms, self.actor) & right else "EACCES")
        if not rights(node.perms, self.actor) & right:
            raise StoreError("EACCES")
        return node

    def write(self, path: bytes, value: bytes) -> None:
        """Set a value, and create the node and what is missing above it."""
        if len(value) > self.quota.value:
            raise StoreError("ENOSPC")
        names = paths.names(path)
        node = tree.find(self.root, names)
        if node is None:
            self._create(path, names, value)
            return
        if not may_alter(node.perms, self.actor):
            raise StoreError("EACCES")
        self.replace(path, names, node, node._replace(value=value))

    def mkdir(self, path: bytes) -> None:
        """Create a node, unless it is there."""
        names = paths.names(path)
        node = tree.find(self.root, names)
        if node is None:
            self._create(path, names, b"")
        elif not rights(node.perms, self.actor) & WRITE:
            raise StoreError("EACCES")

    def replace(self, path: bytes, names: Names, old: Node, new: Node) -> None:
        """Put `new` where `old` is."""
        self.root = tree.put(self.root, names, new)
        self.changes.append(Change(path, old, new, names))
        if new.perms.owner != old.perms.owner:
            self._own(old.perms.owner, -1)
            self._own(new.perms.owner, 1)

    def remove(self, path: bytes) -> None:
        """Remove a node and all below it; nothing, if it is not there but its parent is."""
        names = paths.names(path)
        node = tree.find(self.root, names)
        if node is None:
            above, depth = tree.nearest(self.root, names)
            if not rights(above.perms, self.actor) & WRITE:
                raise StoreError("EACCES")
            if depth < len(names) - 1:
                raise StoreError("ENOENT")
            return
        if not may_alter(node.perms, self.actor):
            raise StoreError("EACCES")
        if not names:
            raise StoreError("EINVAL")
        self.root = tree.cut(self.root, names)
        self.changes.append(Change(path, node, None, names[:-1]))
        for _, gone in tree.walk(node, path):
            self._own(gone.perms.owner, -1)

    def _create(self, path: bytes, names: Names, value: bytes) -> None:
        above, depth = tree.nearest(self.root, names)
        if not rights(above.perms, self.actor) & WRITE:
            raise StoreError("EACCES")
        perms = inherited(above.perms, self.actor)
        self._afford(perms.owner, len(names) - depth)
        made = self._chain(names[depth:], value, perms)
        self.root = tree.put(self.root, names[: depth + 1], made)
        mark = names[:depth]
        while depth < len(names) - 1:
            depth += 1
            self.changes.append(Change(paths.joined(names[:depth]), None, made, mark, told=False))
            (made,) = made.children.values()
        self.changes.append(Change(path, None, made, mark))

    @staticmethod
    def _chain(names: Names, value: bytes, perms: Perms) -> Node:
        node = Node(value, perms, {})
        for name in names[:0:-1]:
            node = Node(b"", perms, {name: node})
        return node

    def _afford(self, owner: int, count: int) -> None:
        if not self.actor.privileged:
            held = self.held.get(owner, 0) + self.owned.get(owner, 0)
            if held + count > self.quota.nodes:
                raise StoreError("ENOSPC")
        self._own(owner, count)

    def _own(self, owner: int, count: int) -> None:
        if owner:  # dom0's are not counted
            self.owned[owner] = self.owned.get(owner, 0) + count
