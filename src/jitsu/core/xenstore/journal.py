"""How commits are written down, to be there after a crash.

A *record* is one commit, whole or not there: CRC-32 and length of the rest, then entries, each a
kind, the lengths of its fields, and the fields. An entry that sets a node makes those above it, if
they are not there, with the same permissions. A log is records one after another, of which the
last may be cut short by a crash. A *snapshot* is the same: records that make the whole tree out of
an empty one, ended by one with an END entry, without which it is not used.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore import tree
from jitsu.core.xenstore.access import Perms
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.space import Change
from jitsu.core.xenstore.tree import Node
from jitsu.errors import WireError

SNAPSHOT_BATCH = 256
"""Nodes of a record of a snapshot: a third of a millisecond's work."""

_FRAME = struct.Struct("<II")
_ENTRY = struct.Struct("<BHHH")
_PERMS = struct.Struct("<HBBi")
_NAMED = struct.Struct("<HB")
_DOMAIN = struct.Struct("<HQIi")
_DOMID = struct.Struct("<H")
_CURSOR = struct.Struct("<HII")
_SET, _REMOVE, _INTRODUCE, _RELEASE, _END, _WATCH, _UNWATCH, _MOVE = range(1, 9)
_NO_KEEPER = -1


@dataclass(frozen=True, slots=True)
class Introduced:
    """A domain whose ring is served: the frame and the event channel that its toolstack named."""

    domid: int
    frame: int
    port: int
    target: int | None = None


class Cursor(NamedTuple):
    """What of a domain's ring the daemon alone knows (`core.xenstore.stream`)."""

    domid: int
    consumed: int
    produced: int
    taken: bytes
    unsent: bytes


Kept = dict[tuple[bytes, bytes], None]
"""Watches of a ring, whose client cannot know that the daemon was killed: path and token."""


def commit(changes: Iterable[Change]) -> bytes:
    """Render one commit."""
    return _record(_entries(changes))


def _entries(changes: Iterable[Change]) -> list[bytes]:
    """Return the pieces of the entries of changes."""
    pieces: list[bytes] = []
    perms, rights = None, b""
    for path, _, after, _, _, told in changes:
        if not told:
            continue  # the parents that were made on the way are made again by who reads it
        if after is None:
            pieces.append(_removed(path))
            continue
        if after.perms is not perms:  # mostly it is another with the same
            perms = after.perms
            rights = _rights(perms)
        value = after.value
        pieces += (_ENTRY.pack(_SET, len(path), len(rights), len(value)), path, rights, value)
    return pieces


def introduction(domain: Introduced) -> bytes:
    """Render that a domain is introduced, or has another target."""
    target = domain.target if domain.target is not None else -1
    body = _DOMAIN.pack(domain.domid, domain.frame, domain.port, target)
    return _record([_ENTRY.pack(_INTRODUCE, len(body), 0, 0) + body])


def release(domid: int, changes: Iterable[Change] = ()) -> bytes:
    """Render that a domain is gone, and what went with it."""
    body = _DOMAIN.pack(domid, 0, 0, -1)
    return _record([_ENTRY.pack(_RELEASE, len(body), 0, 0) + body, *_entries(changes)])


def watch(domid: int, path: bytes, token: bytes) -> bytes:
    """Render that a domain watches a path, by its ring."""
    return _record([_watch(_WATCH, domid, path, token)])


def unwatch(domid: int, path: bytes, token: bytes) -> bytes:
    """Render that it does so no more."""
    return _record([_watch(_UNWATCH, domid, path, token)])


def unwatch_all(domid: int) -> bytes:
    """Render that it watches nothing any more."""
    return unwatch(domid, b"", b"")


def _watch(kind: int, domid: int, path: bytes, token: bytes) -> bytes:
    head = _ENTRY.pack(kind, len(path), len(token), _DOMID.size)
    return head + path + token + _DOMID.pack(domid)


def move(cursor: Cursor) -> bytes:
    """Render how far a ring has come."""
    domid, consumed, produced, taken, unsent = cursor
    head = _ENTRY.pack(_MOVE, _CURSOR.size, len(taken), len(unsent))
    return _record([head + _CURSOR.pack(domid, consumed, produced) + taken + unsent])


def snapshot(
    root: Node,
    special: dict[bytes, Perms],
    domains: Iterable[Introduced],
    watches: dict[int, Kept],
    cursors: Iterable[Cursor],
) -> Iterator[bytes]:
    """Render everything, a record at a time."""
    batch = [_set(path, Node(b"", perms, {})) for path, perms in special.items()]
    for path, node in tree.walk(root, b"/"):
        batch.append(_set(path, node))
        if len(batch) >= SNAPSHOT_BATCH:
            yield _record(batch)
            batch = []
    yield _record(batch)
    for domain in domains:
        yield introduction(domain)
    for domid, kept in watches.items():
        yield _record([_watch(_WATCH, domid, path, token) for path, token in kept])
    for cursor in cursors:
        yield move(cursor)
    yield _record([_ENTRY.pack(_END, 0, 0, 0)])


def _record(entries: list[bytes]) -> bytes:
    body = b"".join(entries)
    return _FRAME.pack(crc32(body), len(body)) + body


def _set(path: bytes, node: Node) -> bytes:
    rights = _rights(node.perms)
    head = _ENTRY.pack(_SET, len(path), len(rights), len(node.value))
    return head + path + rights + node.value


def _rights(perms: Perms) -> bytes:
    keeper = perms.keeper if perms.keeper is not None else _NO_KEEPER
    rights = _PERMS.pack(perms.owner, perms.rest, perms.restricted, keeper)
    return rights + b"".join([_NAMED.pack(*pair) for pair in perms.named])


def _removed(path: bytes) -> bytes:
    return _ENTRY.pack(_REMOVE, len(path), 0, 0) + path


class Recovered:
    """What a store was, put together from a snapshot and the log that follows it."""

    def __init__(self) -> None:
        self.root = Node(b"", tree.DOM0_ONLY, {})
        self.special: dict[bytes, Perms] = {}
        self.domains: dict[int, Introduced] = {}
        self.watches: dict[int, Kept] = {}
        self.cursors: dict[int, Cursor] = {}
        self.ended = False
        """A snapshot has its end."""

    def load(self, data: bytes) -> int:
        """Apply the records of `data`; return how many bytes of it are whole records.

        What follows them was being written in the moment of the crash, and was not acknowledged.
        Raises WireError if a record is damaged that others follow, or was never ours.
        """
        at = 0
        while len(data) - at >= _FRAME.size:
            checksum, length = _FRAME.unpack_from(data, at)
            begin = at + _FRAME.size
            body = data[begin : begin + length]
            if len(body) < length:
                if not _is_beginning(body):
                    raise WireError(f"the length of the record at byte {at} is damaged")
                break
            if crc32(body) != checksum:
                if begin + length == len(data):
                    break
                raise WireError(f"the record at byte {at} is damaged")
            try:
                self._apply(body)
            except (struct.error, StoreError, KeyError, IndexError, ValueError) as error:
                raise WireError(f"a record at byte {at} makes no sense") from error
            at = begin + length
        return at

    def _apply(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            kind, *lengths = _ENTRY.unpack_from(body, at)
            at += _ENTRY.size
            first, second, third = lengths
            path = body[at : at + first]
            perms = body[at + first : at + first + second]
            at += first + second + third
            self._entry(kind, path, perms, body[at - third : at])

    def _entry(self, kind: int, path: bytes, perms: bytes, value: bytes) -> None:
        if kind == _SET and path[:1] == b"@":
            self.special[path] = _perms(perms)
        elif kind == _SET:
            self._place(paths.names(path), value, _perms(perms))
        elif kind == _REMOVE:
            *above, last = paths.names(path)
            del self._children(above)[last]
        elif kind in (_INTRODUCE, _RELEASE):
            domid, frame, port, target = _DOMAIN.unpack(path)
            if kind == _RELEASE:
                self.domains.pop(domid, None)
                self.watches.pop(domid, None)
                self.cursors.pop(domid, None)
            else:
                known = target if target >= 0 else None
                self.domains[domid] = Introduced(domid, frame, port, known)
        elif kind in (_WATCH, _UNWATCH):
            self._watch(kind, _DOMID.unpack(value)[0], path, perms)
        elif kind == _MOVE:
            domid, consumed, produced = _CURSOR.unpack(path)
            self.cursors[domid] = Cursor(domid, consumed, produced, perms, value)
        elif kind == _END:
            self.ended = True
        else:
            raise WireError(f"no entry has kind {kind}")

    def _watch(self, kind: int, domid: int, path: bytes, token: bytes) -> None:
        kept = self.watches.setdefault(domid, {})
        if kind == _WATCH:
            kept[path, token] = None
        elif path:
            del kept[path, token]
        else:
            kept.clear()

    def _children(self, names: Iterable[bytes]) -> tree.Children:
        """Return the children of a node, to be changed in place: nobody else has them yet."""
        children = self.root.children
        for name in names:
            children = children[name].children
        return children

    def _place(self, names: paths.Names, value: bytes, perms: Perms) -> None:
        if not names:
            self.root = Node(value, perms, self.root.children)
            return
        siblings = self.root.children
        for name in names[:-1]:
            if name not in siblings:  # made on the way, as `Space` does it
                siblings[name] = Node(b"", perms, {})
            siblings = siblings[name].children
        old = siblings.get(names[-1])
        siblings[names[-1]] = Node(value, perms, old.children if old is not None else {})


def _is_beginning(body: bytes) -> bool:
    """Tell whether this may be a record that was cut short: with a wrong length it goes on too far.

    A kind of 0 is of a page that the kernel had not written.
    """
    at, kind = 0, _END
    while 0 < kind <= _MOVE and at + _ENTRY.size <= len(body):
        kind, *lengths = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size + sum(lengths)
    return kind <= _MOVE


def _perms(data: bytes) -> Perms:
    owner, rest, restricted, keeper = _PERMS.unpack_from(data)
    named = tuple(_NAMED.iter_unpack(data[_PERMS.size :]))
    return Perms(owner, rest, named, bool(restricted), keeper if keeper >= 0 else None)
