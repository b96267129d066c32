"""The requests that read and change the tree: request in, reply out.

They all run against a `Space`, be it of a single request, of a transaction, or of a transaction
that is run again to be merged: the same request against the same tree has the same reply, always.
That is why a directory is listed in the order of its names, not of their creation.
"""

from collections.abc import Callable

from jitsu.core.xenstore import access, tree
from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore.access import OWNER, READ, rights
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.space import Space
from jitsu.core.xenstore.tree import Node
from jitsu.errors import WireError
from jitsu.wire.xenstore import PAYLOAD_MAX, Op, join, strings

OK = b"OK\0"
EINVAL = b"EINVAL\0"
ERROR = int(Op.ERROR)
_WORD = (1 << 64) - 1

Reply = tuple[int, bytes]
"""A message's type, which is the request's or ERROR, and its payload."""


def perform(space: Space, op: int, payload: bytes) -> Reply:
    """Do one request in `space`. One that is refused has changed nothing."""
    try:
        return op, CALLS[op](space, payload)
    except StoreError as error:
        return ERROR, error.reply
    except WireError:
        return ERROR, EINVAL


def path_of(payload: bytes) -> bytes:
    """Return the path that a request of the tree begins with, as its client wrote it."""
    return payload.partition(b"\0")[0]


def only(payload: bytes) -> bytes:
    """Return the one string of a payload. Raises StoreError(EINVAL)."""
    if payload.find(b"\0") != len(payload) - 1 or not payload:
        raise StoreError("EINVAL")
    return payload[:-1]


def read(space: Space, payload: bytes) -> bytes:
    """READ <path>| -> <value>."""
    return space.get(_named(space, only(payload))).value


def directory(space: Space, payload: bytes) -> bytes:
    """DIRECTORY <path>| -> <name>|*."""
    names = _listing(space, only(payload))
    if len(names) + sum(map(len, names)) > PAYLOAD_MAX:
        raise StoreError("E2BIG")  # the client then asks for parts
    return join(*names)


def directory_part(space: Space, payload: bytes) -> bytes:
    """DIRECTORY_PART <path>|<offset>| -> <generation>|<name>|*, and one more NUL at the end.

    The generation stands for the listing: when it changes between parts, the client begins anew.
    """
    fields = strings(payload)
    if len(fields) != 2 or not fields[1].isdigit():
        raise StoreError("EINVAL")
    names = _listing(space, fields[0])
    head = b"%d\0" % (hash(tuple(names)) & _WORD)
    begin, end = int(fields[1]), 0
    part: list[bytes] = []
    for name in names:  # a listing may have megabytes: it is not put together for each part
        start, end = end, end + len(name) + 1
        if end > begin + PAYLOAD_MAX - len(head) - 1:
            return head + join(*part)
        if end > begin:
            part.append(name[max(0, begin - start) :])
    return head + join(*part) + b"\0"


def _listing(space: Space, path: bytes) -> list[bytes]:
    node = space.get(_named(space, path))
    children = node.children
    if node.perms.restricted and not rights(node.perms, space.actor) & OWNER:
        return sorted(n for n, c in children.items() if rights(c.perms, space.actor) & READ)
    return sorted(children)


def _named(space: Space, path: bytes) -> paths.Names:
    return paths.locate(path, space.home)[1]


def get_perms(space: Space, payload: bytes) -> bytes:
    """GET_PERMS <path>| -> <perm>|+; a second string `c` asks for our extension, too."""
    path, _, rest = payload.partition(b"\0")
    if payload[-1:] != b"\0" or rest not in (b"", b"c\0"):
        raise StoreError("EINVAL")
    node = space.get(_named(space, path))
    return access.render(node.perms, extended=bool(rest))


def write(space: Space, payload: bytes) -> bytes:
    """WRITE <path>|<value>."""
    path, nul, value = payload.partition(b"\0")
    if not nul:
        raise StoreError("EINVAL")
    path, names = paths.locate(path, space.home)
    space.write(path, names, value)
    return OK


def mkdir(space: Space, payload: bytes) -> bytes:
    """MKDIR <path>|."""
    space.mkdir(*paths.locate(only(payload), space.home))
    return OK


def rm(space: Space, payload: bytes) -> bytes:
    """RM <path>|."""
    space.remove(*paths.locate(only(payload), space.home))
    return OK


def set_perms(space: Space, payload: bytes) -> bytes:
    """SET_PERMS <path>|<perm>|+; our extension is told in `access`."""
    path, nul, rest = payload.partition(b"\0")
    if not nul:
        raise StoreError("EINVAL")
    space.permit(*paths.locate(path, space.home), access.parse(rest))
    return OK


CALLS: dict[int, Callable[[Space, bytes], bytes]] = {
    int(Op.DIRECTORY): directory,
    int(Op.READ): read,
    int(Op.GET_PERMS): get_perms,
    int(Op.WRITE): write,
    int(Op.MKDIR): mkdir,
    int(Op.RM): rm,
    int(Op.SET_PERMS): set_perms,
    int(Op.DIRECTORY_PART): directory_part,
}
"""Each request of the tree; its key is as it comes in a message, and so is found the faster."""


def visible(root: Node, path: bytes, actor: access.Actor, *states: Node | None) -> bool:
    """Tell whether `actor` may know that the node at `path` has changed from one state to another.

    Who can read the node can, and who can list its parent (as in Xen's daemon since XSA-115).
    """
    if actor.privileged:
        return True
    if any(state is not None and rights(state.perms, actor) & READ for state in states):
        return True
    parent = tree.find(root, paths.names(path)[:-1])
    if parent is None:
        return False
    needed = OWNER if parent.perms.restricted else READ
    return bool(rights(parent.perms, actor) & needed)
