"""XenStore messages (Xen's public/io/xs_wire.h and docs/misc/xenstore.txt).

A message is a header of four little-endian words, `type`, `req_id`, `tx_id` and `len`, and `len`
bytes of payload, at most 4096. Requests and replies look alike; a reply repeats the request's
type, or has type ERROR and the name of an errno. Strings in a payload end with NUL, but for the
last value of a WRITE or READ, which is any bytes.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from jitsu.errors import WireError

HEADER = struct.Struct("<IIII")
HEADER_BYTES = HEADER.size
PAYLOAD_MAX = 4096
ABSOLUTE_PATH_MAX = 3072
RELATIVE_PATH_MAX = 2048


class Op(IntEnum):
    """What a message is. Types that Xen has given up (RESTRICT, 20) are not spoken."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


# fmt: off
ERRORS = frozenset({
    "EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY",
    "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM",
})
# fmt: on
"""The names of errors that clients know (xsd_errors of xs_wire.h)."""


class Message(NamedTuple):
    """One message; `op` may be a number that no `Op` has."""

    op: int
    request: int
    transaction: int
    payload: bytes


def encode(message: Message) -> bytes:
    """Render a message."""
    assert len(message.payload) <= PAYLOAD_MAX, "whoever made the payload has kept its limit"
    header = HEADER.pack(message.op, message.request, message.transaction, len(message.payload))
    return header + message.payload


class Messages:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def __len__(self) -> int:
        """Return how many bytes of a message that is not yet whole have come."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message]:
        """Return what is whole by now, and keep the rest.

        Raises WireError at a length beyond PAYLOAD_MAX: where the next message begins is then
        anybody's guess, so that the stream is lost, with what has come in the same piece.
        """
        stream = self._rest + data if self._rest else data
        at, end = 0, len(stream)
        whole = []
        while end - at >= HEADER_BYTES:
            op, request, transaction, length = HEADER.unpack_from(stream, at)
            if length > PAYLOAD_MAX:
                raise WireError(f"XenStore message of {length} bytes")
            begin = at + HEADER_BYTES
            if end - begin < length:
                break
            at = begin + length
            whole.append(Message(op, request, transaction, stream[begin:at]))
        self._rest = stream[at:] if at < end else b""
        return whole


def strings(payload: bytes) -> list[bytes]:
    """Split a payload all of whose strings end with NUL. Raises WireError if the last does not."""
    if payload[-1:] != b"\0":
        raise WireError("a string does not end")
    return payload[:-1].split(b"\0")


def join(*parts: bytes) -> bytes:
    """Render strings, each with its NUL."""
    return b"\0".join(parts) + b"\0" if parts else b""
