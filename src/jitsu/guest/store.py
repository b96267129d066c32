"""A client of the store by the store link, over a packet socket: one request after the other."""

import os
import select
import socket
import time
from collections.abc import Sequence

from jitsu.core.xenstore.guest_end import GuestEnd
from jitsu.errors import ControlError, HostError
from jitsu.wire.ethernet import EtherType
from jitsu.wire.xenstore import Message, Messages, Op, encode, join

_GROUP = bytes.fromhex("0180c200000e")
"""The nearest bridge, which forwards nothing that is sent to it (IEEE 802.1D 7.12.6)."""
_FRAME_MAX = 1518
_BATCH = 16
"""Requests sent together; the host serves no more of one guest at a time."""


class Store:
    """The store as this guest sees it."""

    def __init__(self, interface: str) -> None:
        """Reach it by `interface`. Raises HostError."""
        self._end = GuestEnd(draw=_draw)
        self._messages = Messages()
        self._inbox: list[Message] = []
        self._posted: Message | None = None
        self._owed: list[bytes] = []
        """An acknowledgement that travels with the next request, if that comes at once."""
        self._kept: dict[bytes, bytes | None] = {}
        self._to = (interface, int(EtherType.STORE_LINK), 0, 0, _GROUP)
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_PACKET, kind, 0)
            self._socket.bind((interface, EtherType.STORE_LINK))
        except OSError as error:
            raise HostError(f"{interface}: {error.strerror}; may we use packet sockets?") from error

    def leave(self) -> socket.socket:
        """Return the socket, to be closed; the host notices when the guest is gone."""
        self._send(self._owed)
        return self._socket

    def read(self, *paths: bytes) -> list[bytes | None]:
        """Return the values of nodes, None for what is not there or not for us to read."""
        asked = [path for path in paths if path not in self._kept]
        answers = dict(zip(asked, self._read(asked), strict=True)) if asked else {}
        return [answers[path] if path in answers else self._kept[path] for path in paths]

    def keep(self, values: dict[bytes, bytes | None]) -> None:
        """Have these nodes be read no more: they do not change."""
        self._kept = values

    def _read(self, paths: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for at in range(0, len(paths), _BATCH):
            asked = paths[at : at + _BATCH]
            values += self._ask([_read(i, path) for i, path in enumerate(asked)])
        return values

    def write(self, path: bytes, value: bytes) -> None:
        """Set a node. Raises ControlError where that is refused."""
        self.write_and_read(path, value)

    def write_and_read(self, path: bytes, value: bytes, *paths: bytes) -> list[bytes | None]:
        """Set a node, and return what others, a dozen at most, say then: all in one round.

        Requests that are sent together are served in their order. Raises ControlError.
        """
        reads = [_read(i, each) for i, each in enumerate(paths, 1)]
        write = Message(Op.WRITE, 0, 0, join(path) + value)
        done, *values = self._ask([write, *reads])
        _check(write, done)
        return values

    def post(self, path: bytes, value: bytes) -> None:
        """Set a node, as `settle` will tell."""
        self._posted = Message(Op.WRITE, 0, 0, join(path) + value)
        self._send(self._end.send(encode(self._posted), time.monotonic()))

    def settle(self) -> None:
        """Return when what was posted is done. Raises ControlError."""
        posted, self._posted = self._posted, None
        if posted is not None:
            _check(posted, *self._answers(1))

    def await_value(self, path: bytes, value: bytes) -> None:
        """Return when a node has a value, for as long as that takes."""
        self._must(Message(Op.WATCH, 0, 0, join(path, b"it")))
        while self.read(path) != [value]:
            while all(message.op != Op.WATCH_EVENT for message in self._inbox):
                self._hear()
            self._inbox.clear()
        self._must(Message(Op.UNWATCH, 0, 0, join(path, b"it")))

    def _must(self, request: Message) -> None:
        _check(request, *self._ask([request]))

    def _ask(self, requests: Sequence[Message]) -> list[bytes | None]:
        """Return the answers to requests that are numbered from 0 on."""
        assert self._posted is None, "what was posted is to be settled first"
        self._send(self._end.send(b"".join(map(encode, requests)), time.monotonic()))
        return self._answers(len(requests))

    def _answers(self, count: int) -> list[bytes | None]:
        answers: dict[int, bytes | None] = {}
        while len(answers) < count:
            self._hear()
            for message in self._inbox:
                if message.op != Op.WATCH_EVENT:
                    failed = message.op == Op.ERROR
                    answers[message.request] = None if failed else message.payload
            self._inbox = [message for message in self._inbox if message.op == Op.WATCH_EVENT]
        return [answers[i] for i in range(count)]

    def _hear(self) -> None:
        """Wait for the next frame, or for the time to send one again."""
        self._send(self._owed)
        wait = self._end.retry_at - time.monotonic()
        timeout = None if wait == float("inf") else max(0.0, wait)
        if select.select([self._socket], [], [], timeout)[0]:
            try:
                payload = self._socket.recv(_FRAME_MAX)
            except OSError:  # the interface was down
                return
            said = self._end.handle(payload, time.monotonic())
            if self._end.retry_at == float("inf"):
                self._owed = said
            else:
                self._send(said)
        self._send(self._end.tick(time.monotonic()))
        if self._end.resets:
            raise ControlError("the host has forgotten this guest")
        self._inbox += self._messages.feed(bytes(self._end.received))
        self._end.received.clear()

    def _send(self, payloads: list[bytes]) -> None:
        if payloads:
            self._owed = []
        for payload in payloads:
            try:
                self._socket.sendto(payload, self._to)
            except OSError:  # it is not up yet, or its queue is full: the link sends it again
                return


def _draw() -> int:
    """Return a random number that is not 0; `random` would load a library of cryptography."""
    return int.from_bytes(os.urandom(4)) or 1


def _read(number: int, path: bytes) -> Message:
    return Message(Op.READ, number, 0, join(path))


def _check(request: Message, answer: bytes | None) -> None:
    if answer is None:
        path = request.payload.partition(b"\0")[0].decode()
        raise ControlError(f"the store refuses to {Op(request.op).name.lower()} {path}")
