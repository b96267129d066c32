"""The host's end of a guest's tap, for frames of the store link alone.

A packet socket of one type of frame: what the guest sends to the group of the nearest bridge
passes the bridge by (IEEE 802.1D 7.12.6), and of all other traffic this socket sees nothing, so
that a guest that is awake costs the host no copy of it.
"""

import asyncio
import socket
from concurrent.futures import Executor
from contextlib import ExitStack, suppress

from jitsu.errors import HostError
from jitsu.host.network import FrameHandler
from jitsu.wire.ethernet import HEADER_BYTES, EtherType

_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h
_FRAME_MAX = 1518
_BATCH = 16
"""Frames taken before the loop serves others; a guest that is well sends one at a time."""


def packet_socket(name: str, protocol: int) -> socket.socket:
    """Return a socket for frames of a type on interface `name`. Raises HostError if it is gone."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with ExitStack() as undo:
        try:
            # Bound only after it is made, so that the kernel has nothing to wait for.
            made = undo.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
            made.bind((name, protocol))
        except OSError as error:
            raise HostError(f"{name}: {error.strerror}") from error
        undo.pop_all()
        return made


class StorePort:
    """Frames of the store link on one interface; those that come before `listen` wait for it."""

    _on_payload: FrameHandler

    def __init__(self, name: str, closers: Executor) -> None:
        """Be on interface `name`. Raises HostError when it is gone."""
        self._closers = closers
        self._socket = packet_socket(name, EtherType.STORE_LINK)
        # Else a frame is lost that is sent before the kernel's worker has noticed the carrier.
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)

    def listen(self, on_payload: FrameHandler) -> None:
        """Call `on_payload` with what each frame carries, until it is closed."""
        self._on_payload = on_payload
        # Bound to a link that was down, it holds an error; frames since then wait in it.
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def send(self, frame: bytes) -> None:
        """Send to the guest; what a full queue loses is sent again by the link."""
        with suppress(OSError):
            self._socket.send(frame)

    def close(self) -> None:
        """Listen no more; closing waits for the kernel, on a thread."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._closers.submit(self._socket.close)

    def discard(self) -> None:
        """Close it, which nobody has listened to; blocks."""
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if self._socket.fileno() < 0:
                return
            try:
                frame, origin = self._socket.recvfrom(_FRAME_MAX)
            except OSError:  # nothing more, or the tap is gone
                return
            if origin[2] != socket.PACKET_OUTGOING:
                self._on_payload(frame[HEADER_BYTES:])
