"""Paths of the store: `/local/domain/3/name`, or relative to a domain's home, or `@special`.

Inside the core a path is its absolute bytes, and a node is found by its *names*, the path cut at
its slashes. Both forms are used, so cutting is remembered.
"""

import re
from functools import lru_cache

from jitsu.core.xenstore.errors import StoreError
from jitsu.wire.xenstore import ABSOLUTE_PATH_MAX, RELATIVE_PATH_MAX

Names = tuple[bytes, ...]

INTRODUCE_DOMAIN = b"@introduceDomain"
RELEASE_DOMAIN = b"@releaseDomain"
SPECIAL = frozenset({INTRODUCE_DOMAIN, RELEASE_DOMAIN})

_ABSOLUTE = re.compile(rb"/|(?:/[A-Za-z0-9\-_@]+)+")
_REMEMBERED = 16384
"""Paths of which the names are kept: those of some three hundred guests."""
_LONG = 128
"""Bytes of a path that nobody uses often; a thousand names of it would be 50 KB."""


def home_of(domid: int) -> bytes:
    """Return the path that a domain's relative paths begin at."""
    return b"/local/domain/%d" % domid


def locate(path: bytes, home: bytes) -> tuple[bytes, Names]:
    """Check a client's path; return it made absolute, and its names. Raises StoreError(EINVAL)."""
    if path[:1] != b"/":
        if len(path) > RELATIVE_PATH_MAX or path[:1] in (b"@", b""):
            raise StoreError("EINVAL")
        path = b"%b/%b" % (home, path)
    return path, _remembered(path) if len(path) < _LONG else _cut(path)


def names(path: bytes) -> Names:
    """Cut an absolute path; `/` has no names. Raises StoreError(EINVAL) if it is none."""
    return _remembered(path) if len(path) < _LONG else _cut(path)


def _cut(path: bytes) -> Names:
    if len(path) > ABSOLUTE_PATH_MAX or _ABSOLUTE.fullmatch(path) is None:
        raise StoreError("EINVAL")
    return tuple(path[1:].split(b"/")) if path != b"/" else ()


_remembered = lru_cache(_REMEMBERED)(_cut)


def joined(parts: Names) -> bytes:
    """Return the path of names."""
    return b"/" + b"/".join(parts)


def ancestors(path: bytes) -> list[bytes]:
    """Return `path` and all above it, up to `/`."""
    found = [path]
    while (end := path.rfind(b"/")) > 0:
        path = path[:end]
        found.append(path)
    if path != b"/":
        found.append(b"/")
    return found
