"""A root to work on, and what the work has changed: one request's, or one transaction's.

Nothing of it is anybody else's before it is committed. That is what it saves work by: the first
change below a node copies the dict of its children, and later ones change that copy.
"""

from typing import NamedTuple

from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import (
    OWNER,
    READ,
    WRITE,
    Actor,
    Given,
    changed,
    inherited,
    may_alter,
    rights,
)
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.path import Names, joined
from jitsu.core.xenstore.quota import Quota
from jitsu.core.xenstore.tree import Children, Node


class Change(NamedTuple):
    """One node that was created, changed or removed."""

    path: bytes
    before: Node | None
    after: Node | None
    place: Names
    """The top of what is not the same as before: the node, or the first of its parents that was
    created with it."""
    told: bool = True
    """Watches hear of it. Of the parents that a WRITE makes on its way they do not."""


class Space:
    """A root that requests of one actor change."""

    __slots__ = ("_alone", "_own", "actor", "changes", "held", "home", "owned", "quota", "root")

    def __init__(
        self,
        root: Node,
        actor: Actor,
        home: bytes,
        quota: Quota,
        held: dict[int, int],
        alone: bool = False,
    ) -> None:
        """Begin at `root`; `alone` says that nobody else has it, so that it may change in place."""
        self.root = root
        self.actor = actor
        self.home = home
        self.quota = quota
        self.held = held
        """Nodes that each domain owns in the store itself."""
        self.owned: dict[int, int] = {}
        """By how many nodes each domain owns more, or fewer, here."""
        self.changes: list[Change] = []
        self._alone = alone
        self._own: dict[int, Children] = {}
        """By their ids the dicts that were made here; kept, so that no other gets such an id."""

    def get(self, names: Names, right: int = READ) -> Node:
        """Return the node at `names`. Raises StoreError(ENOENT), or EACCES.

        Whether a node is there is told to those alone who might see it if it were.
        """
        node, depth = tree.nearest(self.root, names)
        if not rights(node.perms, self.actor) & right:
            raise StoreError("EACCES")
        if depth < len(names):
            raise StoreError("ENOENT")
        return node

    def write(self, path: bytes, names: Names, value: bytes) -> None:
        """Set a value, and create the node and what is missing above it."""
        if len(value) > self.quota.value:
            raise StoreError("ENOSPC")
        node, depth = tree.nearest(self.root, names)
        if depth < len(names):
            self._create(path, names, node, depth, value)
        elif self.actor.privileged or may_alter(node.perms, self.actor):
            self.replace(path, names, node, Node(value, node.perms, node.children))
        else:
            raise StoreError("EACCES")

    def mkdir(self, path: bytes, names: Names) -> None:
        """Create a node, unless it is there."""
        node, depth = tree.nearest(self.root, names)
        if depth < len(names):
            self._create(path, names, node, depth, b"")
        elif not rights(node.perms, self.actor) & WRITE:
            raise StoreError("EACCES")

    def permit(self, path: bytes, names: Names, given: Given) -> None:
        """Set a node's permissions."""
        node = self.get(names, OWNER)
        perms = changed(node.perms, given, self.actor)
        self.replace(path, names, node, Node(node.value, perms, node.children))

    def replace(self, path: bytes, names: Names, old: Node, new: Node) -> None:
        """Put `new` where `old` is."""
        if names:
            self._children(names[:-1])[names[-1]] = new
        else:
            self.root = new
        self.changes.append(Change(path, old, new, names))
        if new.perms is not old.perms and new.perms.owner != old.perms.owner:
            self._account(old.perms.owner, -1)
            self._account(new.perms.owner, 1)

    def remove(self, path: bytes, names: Names) -> None:
        """Remove a node and all below it; nothing, if it is not there but its parent is."""
        node, depth = tree.nearest(self.root, names)
        if depth < len(names):
            if not rights(node.perms, self.actor) & WRITE:
                raise StoreError("EACCES")
            if depth < len(names) - 1:
                raise StoreError("ENOENT")
            return
        if not may_alter(node.perms, self.actor):
            raise StoreError("EACCES")
        if not names:
            raise StoreError("EINVAL")
        del self._children(names[:-1])[names[-1]]
        self.changes.append(Change(path, node, None, names))
        for owner in tree.owners(node):
            self._account(owner, -1)

    def _create(self, path: bytes, names: Names, above: Node, depth: int, value: bytes) -> None:
        """Create what is missing at `names`, of which the first `depth` lead to `above`."""
        actor, perms = self.actor, above.perms
        if not actor.privileged and not rights(perms, actor) & WRITE:
            raise StoreError("EACCES")
        if not actor.privileged or perms.restricted:
            perms = inherited(perms, actor)
        if perms.owner:  # dom0's nodes are not counted
            self._afford(perms.owner, len(names) - depth)
        place = names[: depth + 1]
        siblings = self._children(names[:depth])
        while depth < len(names) - 1:
            children: Children = {}
            self._own[id(children)] = children
            node = siblings[names[depth]] = Node(b"", perms, children)
            depth += 1
            self.changes.append(Change(joined(names[:depth]), None, node, place, told=False))
            siblings = children
        children = {}
        self._own[id(children)] = children
        node = siblings[names[depth]] = Node(value, perms, children)
        self.changes.append(Change(path, None, node, place))

    def _children(self, names: Names) -> Children:
        """Return the children of the node at `names`, to be changed."""
        children = self.root.children
        if self._alone:
            for name in names:
                children = children[name].children
            return children
        own = self._own
        if id(children) not in own:
            children = children.copy()
            own[id(children)] = children
            self.root = Node(self.root.value, self.root.perms, children)
        for name in names:
            node = children[name]
            below = node.children
            if id(below) not in own:
                below = below.copy()
                own[id(below)] = below
                children[name] = Node(node.value, node.perms, below)
            children = below
        return children

    def _afford(self, owner: int, count: int) -> None:
        if not self.actor.privileged:
            held = self.held.get(owner, 0) + self.owned.get(owner, 0)
            if held + count > self.quota.nodes:
                raise StoreError("ENOSPC")
        self._account(owner, count)

    def _account(self, owner: int, count: int) -> None:
        if owner:  # dom0's are not counted
            self.owned[owner] = self.owned.get(owner, 0) + count
