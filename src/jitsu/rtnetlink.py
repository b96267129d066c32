"""A socket for rtnetlink requests that are encoded already (`host/netlink.py`).

Here is nothing of pyroute2: a program's launcher sends what the daemon has encoded for it, and has
loaded as little as can be.
"""

import os
import socket
import struct
import time

from jitsu.errors import HostError

_HEADER = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, what of them changes."""
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _NEWLINK, _GETLINK = 2, 16, 18
_REQUEST = 1
_OPERSTATE, _UP = 16, 6
_ANSWER_MAX = 64 << 10
_LOOK_AGAIN = 0.0002
"""Seconds: the kernel's worker that notices a carrier is late only where others are busy."""


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
        answers = self._ask(messages, count(messages))
        for answer in answers:
            _, kind, _, _, _ = _HEADER.unpack_from(answer)
            (refused,) = _ERRNO.unpack_from(answer, _HEADER.size)
            if kind != _ERROR or refused:
                raise HostError(f"rtnetlink: {os.strerror(-refused)}")

    def await_carrier(self, index: int) -> None:
        """Return when link `index` is up, and its bridge forwards what it gets from there.

        That is some time after both ends are up: a worker of the kernel's notices it, or, since
        Linux 6.8, whoever asks.
        """
        length = _HEADER.size + _LINK.size
        question = _HEADER.pack(length, _GETLINK, _REQUEST, 0, 0) + _LINK.pack(0, 0, index, 0, 0)
        while operstate(self._ask(question, 1)[0]) != _UP:
            time.sleep(_LOOK_AGAIN)

    def _ask(self, messages: bytes, answers: int) -> list[bytes]:
        try:
            if messages:
                self._socket.send(messages)
            return [self._socket.recv(_ANSWER_MAX) for _ in range(answers)]
        except OSError as error:
            raise HostError(f"rtnetlink: {error.strerror}") from error


def count(messages: bytes) -> int:
    """Return how many messages there are."""
    found = at = 0
    while at < len(messages):
        at += _HEADER.unpack_from(messages, at)[0] + 3 & ~3
        found += 1
    return found


def operstate(answer: bytes) -> int:
    """Return the state of a link (RFC 2863) from what the kernel tells of it. Raises HostError."""
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _NEWLINK:
        (refused,) = _ERRNO.unpack_from(answer, _HEADER.size)
        raise HostError(f"rtnetlink: {os.strerror(-refused)}")
    at = _HEADER.size + _LINK.size
    while at < len(answer):
        length, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if attribute == _OPERSTATE:
            return answer[at + _ATTRIBUTE.size]
        at += length + 3 & ~3
    return 0
