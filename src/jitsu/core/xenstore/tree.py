"""The tree of nodes, immutable.

Whoever holds a root has a snapshot of the whole store for nothing: a change makes new nodes along
one path and shares all the rest. So `is` tells whether anything at or below a place has changed,
which is what transactions are merged by, and a snapshot can be written to disk while the store
goes on.

(While nobody holds a root but the store itself, requests of their own may change its dicts in
place: `Store.space_of_one` says when.)

Costs: to find a node is one dict look-up a level; a change copies the children's dict of each
level, 8 bytes a child, in C.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jitsu.core.xenstore.access import NONE, Perms, concerns
from jitsu.core.xenstore.path import Names

Children = dict[bytes, "Node"]


class Node(NamedTuple):
    """One node. Never changed; compare nodes with `is`."""

    value: bytes
    perms: Perms
    children: Children


DOM0_ONLY = Perms(owner=0, rest=NONE)
EMPTY = Node(b"", DOM0_ONLY, {})
"""The root of a store that nobody has used."""


def find(root: Node, names: Names) -> Node | None:
    """Return the node at `names`, if there is one."""
    node: Node | None = root
    for name in names:
        node = node.children.get(name)  # type: ignore[union-attr]  # the loop ends at None
        if node is None:
            return None
    return node


def nearest(root: Node, names: Names) -> tuple[Node, int]:
    """Return the deepest node on the way to `names`, and how many of the names it takes."""
    node = root
    for depth, name in enumerate(names):
        child = node.children.get(name)
        if child is None:
            return node, depth
        node = child
    return node, len(names)


def concerning(root: Node, domid: int) -> Iterator[Names]:
    """Yield where a domain is named in permissions, parents first; looks at every node."""
    waiting: list[tuple[Names, Node]] = [((), root)]
    while waiting:
        names, (_, perms, children) = waiting.pop()
        if perms is not DOM0_ONLY and concerns(perms, domid):
            yield names
        waiting.extend([((*names, name), child) for name, child in children.items()])


def owners(node: Node) -> Iterator[int]:
    """Yield the owner of `node`, and of each below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node.perms.owner
        waiting.extend(node.children.values())


def walk(node: Node, path: bytes) -> Iterator[tuple[bytes, Node]]:
    """Yield `node`, which is at `path`, and all below it, parents first."""
    waiting = [(path, node)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        prefix = path if path != b"/" else b""
        waiting.extend((b"%b/%b" % (prefix, name), child) for name, child in node.children.items())
