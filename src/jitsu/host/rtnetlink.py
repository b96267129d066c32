"""A socket for rtnetlink requests that are encoded already (`host/netlink.py`)."""

import os
import socket
import struct

from jitsu.errors import HostError

_HEADER = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")
_ERROR = 2
_ANSWER_MAX = 64 << 10


class Requests:
    """A socket for requests to the namespace that we are in when it is made.

    Each is answered by the time that the kernel has taken it.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        except OSError as error:
            raise HostError(f"rtnetlink: {error.strerror}") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: bytes) -> None:
        """Have the kernel do what `messages` say, one after the other; they are sent together.

        Raises HostError with the kernel's reason.
        """
        for answer in self._ask(messages):
            _, kind, _, _, _ = _HEADER.unpack_from(answer)
            (refused,) = _ERRNO.unpack_from(answer, _HEADER.size)
            if kind != _ERROR or refused:
                raise HostError(f"rtnetlink: {os.strerror(-refused)}")

    def _ask(self, messages: bytes) -> list[bytes]:
        try:
            if messages:
                self._socket.send(messages)
            return [self._socket.recv(_ANSWER_MAX) for _ in range(count(messages))]
        except OSError as error:
            raise HostError(f"rtnetlink: {error.strerror}") from error


def count(messages: bytes) -> int:
    """Return how many messages there are."""
    found = at = 0
    while at < len(messages):
        at += _HEADER.unpack_from(messages, at)[0] + 3 & ~3
        found += 1
    return found
