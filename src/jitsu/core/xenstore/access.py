"""Who may do what with a node.

A node has an owner, who may do all, a right for each domain that is named and one for the rest
(docs/misc/xenstore.txt, PERMISSIONS). A privileged domain, dom0, may do all everywhere; a domain
that has a *target* may do what its target may.

**Create-restricted directories** are the paper's addition, in the manner of a directory that is
both set-gid and sticky. Who may write to such a directory may create a child in it and no more.
What is created belongs to its creator and has the directory's owner as its *keeper*: these two
may read, write and remove it, nobody else, whatever its permissions are set to later. So many
clients can leave requests in one place and see none but their own. A client that does not know of
this sees and sets usual permissions: the element `c1` or `c0` of SET_PERMS switches the
restriction, and GET_PERMS shows it only to who asks with a second string `c`.
"""

from functools import lru_cache
from typing import NamedTuple

from jitsu.core.xenstore.errors import StoreError
from jitsu.wire.xenstore import strings

DOMID_FIRST_RESERVED = 0x7FF0
NAMED_MAX = 32
"""Domains that one node's permissions may name. Qubes names two; C xenstored allows 5."""


NONE, READ, WRITE, OWNER = 0, 1, 2, 4
"""Rights, to be or-ed; OWNER's is to change the permissions. Plain numbers, since the operators of
an IntFlag would be a third of a request's cost."""
ALL = READ | WRITE | OWNER

_LETTERS = {ord("n"): NONE, ord("r"): READ, ord("w"): WRITE, ord("b"): READ | WRITE}
_LETTER = {rights: chr(letter).encode() for letter, rights in _LETTERS.items()}


class Perms(NamedTuple):
    """The permissions of one node."""

    owner: int
    rest: int
    """The rights of domains that are not named."""
    named: tuple[tuple[int, int], ...] = ()
    restricted: bool = False
    """Only creation is open to others than the owner."""
    keeper: int | None = None
    """The owner of the create-restricted directory that this was created in."""


class Actor(NamedTuple):
    """On whose behalf a request is done."""

    domid: int
    privileged: bool = False
    target: int | None = None


def rights(perms: Perms, actor: Actor) -> int:
    """Return what `actor` may do with a node that has `perms`."""
    if actor.privileged:
        return ALL
    owner, domid, target = perms.owner, actor.domid, actor.target
    if owner in (domid, target):
        return ALL
    if perms.keeper is not None:
        return READ | WRITE if perms.keeper in (domid, target) else NONE
    for named, right in perms.named:
        if named in (domid, target):
            return right
    return perms.rest


def may_alter(perms: Perms, actor: Actor) -> bool:
    """Tell whether `actor` may write a node's value or remove it."""
    right = rights(perms, actor)
    if perms.restricted and not right & OWNER:
        return perms.keeper is not None and bool(right & WRITE)
    return bool(right & WRITE)


def inherited(parent: Perms, actor: Actor) -> Perms:
    """Return the permissions of what `actor` creates below a node that has `parent`.

    They are the parent's, but what a guest creates is its own; in a create-restricted directory,
    what anybody creates is.
    """
    if parent.restricted:
        return Perms(actor.domid, NONE, keeper=parent.owner)
    return parent if actor.privileged else parent._replace(owner=actor.domid)


def changed(old: Perms, given: "Given", actor: Actor) -> Perms:
    """Return the permissions of a node with `old` after `actor` has set `given`.

    Raises StoreError: EPERM when a guest would give the node away.
    """
    if given.owner != old.owner and not actor.privileged:
        raise StoreError("EPERM")
    restricted = old.restricted if given.restricted is None else given.restricted
    return Perms(given.owner, given.rest, given.named, restricted, old.keeper)


class Given(NamedTuple):
    """What a SET_PERMS asks for; `restricted` is None when it does not say."""

    owner: int
    rest: int
    named: tuple[tuple[int, int], ...]
    restricted: bool | None


@lru_cache(4096)
def parse(payload: bytes) -> Given:
    """Read the strings of a SET_PERMS after its path. Raises StoreError(EINVAL), ENOSPC."""
    elements = strings(payload)
    restricted = None
    if elements[-1] in (b"c0", b"c1"):
        restricted = elements.pop() == b"c1"
    if not elements:
        raise StoreError("EINVAL")
    (owner, rest), *named = [_entry(element) for element in elements]
    if len(named) > NAMED_MAX:
        raise StoreError("ENOSPC")
    return Given(owner, rest, tuple(named), restricted)


def _entry(element: bytes) -> tuple[int, int]:
    if not 2 <= len(element) <= 6 or element[0] not in _LETTERS or not element[1:].isdigit():
        raise StoreError("EINVAL")
    domid = int(element[1:])
    if domid >= DOMID_FIRST_RESERVED:
        raise StoreError("EINVAL")
    return domid, _LETTERS[element[0]]


def render(perms: Perms, *, extended: bool = False) -> bytes:
    """Render permissions as GET_PERMS replies them; `extended` adds what clients need not know."""
    pairs = ((perms.owner, perms.rest), *perms.named)
    text = b"".join(b"%b%d\0" % (_LETTER[right], domid) for domid, right in pairs)
    return text + b"c1\0" if extended and perms.restricted else text


def concerns(perms: Perms, domid: int) -> bool:
    """Tell whether a domain is the owner or the keeper, or named."""
    if domid in (perms.owner, perms.keeper):
        return True
    return bool(perms.named) and any(named == domid for named, _ in perms.named)


def forget(perms: Perms, domid: int) -> Perms:
    """Return `perms` without any right of a domain that is gone: its number may be used again."""
    named = tuple(entry for entry in perms.named if entry[0] != domid)
    owner = 0 if perms.owner == domid else perms.owner
    keeper = 0 if perms.keeper == domid else perms.keeper
    return perms._replace(owner=owner, named=named, keeper=keeper)
