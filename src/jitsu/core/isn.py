"""Initial sequence numbers that nobody can guess, and those that carry a connection.

The first (RFC 6528): a clock of 4 us steps plus a keyed hash of both ends, so that numbers of one
pair of ends grow and those of another tell nothing about them.

The second are SYN cookies (RFC 4987 section 3.6): of a half-open connection nothing is kept, for
the client's acknowledgement brings it back.

    31    27 26 24 23                                0
    | period | mss |  keyed hash of all of it         |

A cookie is good in its period of 64 s and the next. Guessing one is a matter of 2**24 tries for
each 128 s, and only opens a connection, as anybody may.
"""

from hashlib import blake2s
from struct import Struct

from jitsu.core.segment import Ends

MSS = (48, 256, 536, 1024, 1200, 1360, 1440, 1460)
"""The sizes that a cookie can remember: the largest not above the offer is used."""
_PERIOD = 64
_HASH_MASK = 0xFF_FFFF
_MASK = 0xFFFF_FFFF
_TAIL = Struct("!HHII")
_COUNTED = 0xFFFF_FFFF
"""No period: what tells the hash of a first number from that of a cookie."""


def first_numbers(ends: Ends, secret: bytes, now: float) -> tuple[int, int]:
    """Return an initial sequence number, and what a clock of milliseconds begins with."""
    digest = _digest(ends, secret, 0, _COUNTED)
    return (
        int.from_bytes(digest[:4]) + int(now * 250_000) & _MASK,
        int.from_bytes(digest[4:]),
    )


def cookie(ends: Ends, irs: int, mss: int, secret: bytes, now: float) -> int:
    """Return the number that answers the SYN `irs` of a client that takes segments of `mss`."""
    index = max(i for i, size in enumerate(MSS) if size <= max(mss, MSS[0]))
    return _cookie(ends, irs, index, secret, int(now) // _PERIOD)


def baked(ends: Ends, number: int, irs: int, secret: bytes, now: float) -> int | None:
    """Return the client's segment size if `number` is a cookie of ours, and still good."""
    period = int(now) // _PERIOD
    age = (period - (number >> 27)) & 31
    index = number >> 24 & 7
    if age > 1 or number != _cookie(ends, irs, index, secret, period - age):
        return None
    return MSS[index]


def _cookie(ends: Ends, irs: int, index: int, secret: bytes, period: int) -> int:
    digest = _digest(ends, secret, irs, (period << 3 | index) & (_MASK >> 1))
    return (period & 31) << 27 | index << 24 | int.from_bytes(digest[:4]) & _HASH_MASK


def _digest(ends: Ends, secret: bytes, irs: int, period: int) -> bytes:
    """Return eight bytes that only who has the secret can tell."""
    tail = _TAIL.pack(ends.port, ends.peer_port, irs, period)
    text = ends.local.packed + ends.peer.packed + tail
    return blake2s(text, digest_size=8, key=secret).digest()
