"""A root to work on, and what the work has changed: one request's, or one transaction's.

Nothing of it is anybody else's before it is committed. That is what it saves work by: the first
change below a node copies the dict of its children, and later ones change that copy; and they find
it at once, without walking down from the root.
"""

from typing import NamedTuple

from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import (
    OWNER,
    READ,
    WRITE,
    Actor,
    Given,
    Perms,
    changed,
    inherited,
    may_alter,
    rights,
)
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.path import Names, joined
from jitsu.core.xenstore.quota import Quota
from jitsu.core.xenstore.tree import Children, Node

_DEEP = 16
"""Names of a path below which nodes are found at once; keys for deeper ones would be long."""


class Change(NamedTuple):
    """One node that was created, changed or removed."""

    path: bytes
    before: Node | None
    after: Node | None
    names: Names
    """The node's; of a parent that was made on the way, those of what it was made for."""
    top: int
    """How many of the names lead to the top of what is not the same as before: the node, or the
    first of its parents that was created with it."""
    told: bool = True
    """Watches hear of it. Of the parents that a WRITE makes on its way they do not."""

    @property
    def place(self) -> Names:
        """The names of that top."""
        return self.names[: self.top]


class Space:
    """A root that requests of one actor change."""

    __slots__ = (
        "_alone",
        "_near",
        "_own",
        "actor",
        "changes",
        "held",
        "home",
        "owned",
        "quota",
        "root",
    )

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
        self._near: dict[Names, Node] = {}
        """Nodes that have such a dict, by their names: some of them, as they are now."""

    def get(self, names: Names, right: int = READ) -> Node:
        """Return the node at `names`. Raises StoreError(ENOENT), or EACCES.

        Whether a node is there is told to those alone who might see it if it were.
        """
        node, depth = self._nearest(names)
        if not self.actor.privileged and not rights(node.perms, self.actor) & right:
            raise StoreError("EACCES")
        if depth < len(names):
            raise StoreError("ENOENT")
        return node

    def _nearest(self, names: Names) -> tuple[Node, int]:
        """Return the deepest node on the way to `names`, and how many of the names it takes."""
        parent = self._near.get(names[:-1])
        if parent is None or not names:
            return tree.nearest(self.root, names)
        node = parent.children.get(names[-1])
        return (node, len(names)) if node is not None else (parent, len(names) - 1)

    def write(self, path: bytes, names: Names, value: bytes) -> None:
        """Set a value, and create the node and what is missing above it."""
        if len(value) > self.quota.value:
            raise StoreError("ENOSPC")
        node, depth = self._nearest(names)
        if depth < len(names):
            self._create(path, names, node, depth, value)
        elif self.actor.privileged or may_alter(node.perms, self.actor):
            self.replace(path, names, node, Node(value, node.perms, node.children))
        else:
            raise StoreError("EACCES")

    def mkdir(self, path: bytes, names: Names) -> None:
        """Create a node, unless it is there."""
        node, depth = self._nearest(names)
        if depth < len(names):
            self._create(path, names, node, depth, b"")
        elif not self.actor.privileged and not rights(node.perms, self.actor) & WRITE:
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
        if names in self._near:
            self._near[names] = new
        self.changes.append(Change(path, old, new, names, len(names)))
        if new.perms is not old.perms and new.perms.owner != old.perms.owner:
            self._account(old.perms.owner, -1)
            self._account(new.perms.owner, 1)

    def remove(self, path: bytes, names: Names) -> None:
        """Remove a node and all below it; nothing, if it is not there but its parent is."""
        node, depth = self._nearest(names)
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
        self._near.clear()  # some may have been below
        self.changes.append(Change(path, node, None, names, len(names)))
        for owner in tree.owners(node):
            self._account(owner, -1)

    def put(self, names: Names, node: Node | None) -> None:
        """Put what another space has made at `names`, or its absence; it is not noted as a change.

        Nothing at or below `names` may have been changed here.
        """
        siblings = self._children(names[:-1])
        if node is not None:
            siblings[names[-1]] = node
        else:
            del siblings[names[-1]]

    def _create(self, path: bytes, names: Names, above: Node, depth: int, value: bytes) -> None:
        """Create what is missing at `names`, of which the first `depth` lead to `above`."""
        actor, perms = self.actor, above.perms
        if not actor.privileged or perms.restricted:
            if not rights(perms, actor) & WRITE:
                raise StoreError("EACCES")
            perms = inherited(perms, actor)
        if perms.owner:  # dom0's nodes are not counted
            self._afford(perms.owner, len(names) - depth)
        siblings = self._children(names[:depth])
        if depth < len(names) - 1:
            siblings = self._create_parents(names, depth, perms, siblings)
        # The dict is not noted as made here: of few there will be anything below.
        node = siblings[names[-1]] = Node(value, perms, {})
        self.changes.append(Change(path, None, node, names, depth + 1))

    def _create_parents(
        self, names: Names, depth: int, perms: Perms, siblings: Children
    ) -> Children:
        """Create all but the last of `names` from `depth` on; return the dict for the last."""
        for end in range(depth + 1, len(names)):
            children: Children = {}
            self._own[id(children)] = children
            node = siblings[names[end - 1]] = Node(b"", perms, children)
            way = joined(names[:end])
            self.changes.append(Change(way, None, node, names, depth + 1, told=False))
            siblings = children
        return siblings

    def _children(self, names: Names) -> Children:
        """Return the children of the node at `names`, to be changed."""
        node = self._near.get(names)
        if node is not None:
            return node.children
        node = self.root
        if self._alone:
            for name in names:
                node = node.children[name]
            return node.children
        own = self._own
        if id(node.children) not in own:
            node = self.root = self._with_own(node)
        for name in names:
            siblings = node.children
            node = siblings[name]
            if id(node.children) not in own:
                node = siblings[name] = self._with_own(node)
        if len(names) < _DEEP:
            self._near[names] = node
        return node.children

    def _with_own(self, node: Node) -> Node:
        children = node.children.copy()
        self._own[id(children)] = children
        return Node(node.value, node.perms, children)

    def _afford(self, owner: int, count: int) -> None:
        if not self.actor.privileged:
            held = self.held.get(owner, 0) + self.owned.get(owner, 0)
            if held + count > self.quota.nodes:
                raise StoreError("ENOSPC")
        self._account(owner, count)

    def _account(self, owner: int, count: int) -> None:
        if owner:  # dom0's are not counted
            self.owned[owner] = self.owned.get(owner, 0) + count
