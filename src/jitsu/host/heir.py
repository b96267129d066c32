"""Who sees through what a program's launcher has left (`launcher/launcher.c`).

A launcher executes its program while its last word to the store is on its way, and for its packet
socket the kernel wants 10 ms before it is closed (packet_release). Both are left to us, for a
client waits for the program.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from jitsu.core.xenstore.guest_end import GuestEnd
from jitsu.core.xenstore.link import RETRY_FIRST
from jitsu.wire.ethernet import EtherType
from jitsu.wire.storelink import DATA_BYTES_MAX

_SESSION = struct.Struct("=IIIH")
"""Its number, the sequence number of what is in flight, what is expected, and how much that is."""
_FRAME_MAX = 1518
_GROUP = bytes.fromhex("0180c200000e")
"""The nearest bridge (IEEE 802.1D 7.12.6)."""
_SOON, _LATER = RETRY_FIRST / 2, 0.05
"""Seconds: the daemon has a client to serve now. But if there is an answer to come, the host says
it again soon."""
_PATIENCE = 5.0
"""Seconds; the host's end is in this process, so nothing is lost but where a queue was full."""


class Heir:
    """One launcher's."""

    def __init__(
        self,
        orders: socket.socket,
        interface: str,
        gone: Callable[["Heir"], None],
        *,
        soon: bool = True,
    ) -> None:
        """`orders` is where it leaves something, `interface` the guest's; `gone` hears the end.

        `soon` if it may leave a session.
        """
        self._orders = orders
        self._interface = interface
        self._gone = gone
        self._after = _SOON if soon else _LATER
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(orders, self._left)
        self._timer: asyncio.TimerHandle | None = None
        self._wire: socket.socket | None = None
        self._end = GuestEnd(draw=lambda: 1)
        self._asks = False
        self._until = 0.0

    def __repr__(self) -> str:
        """Show what is left to do."""
        return f"<Heir of {self._wire}, {'asks' if self._asks else 'waits'}>"

    def end(self) -> None:
        """Leave it, seen through or not."""
        self._loop.remove_reader(self._orders)
        self._orders.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._wire is not None:
            self._loop.run_in_executor(None, self._wire.close)
            self._wire = None
        self._gone(self)

    def _left(self) -> None:
        """Something is left, or the launcher has gone."""
        self._loop.remove_reader(self._orders)
        self._timer = self._loop.call_later(self._after, self._begin)

    def _begin(self) -> None:
        """Take it."""
        try:
            data, fds, _, _ = socket.recv_fds(self._orders, _SESSION.size + DATA_BYTES_MAX, 1)
        except OSError:  # the launcher was killed
            data, fds = b"", []
        if not fds:
            self.end()
            return
        os.set_inheritable(fds[0], False)
        self._wire = socket.socket(fileno=fds[0])
        self._wire.setblocking(False)
        number, sequence, expected, length = _SESSION.unpack_from(data)
        self._asks = length > 0
        self._end = GuestEnd.resumed(number, sequence, expected, data[_SESSION.size :])
        self._until = self._loop.time() + _PATIENCE
        self._look()

    def _answered(self) -> bool:
        return not self._asks or (self._end.retry_at == float("inf") and bool(self._end.received))

    def _look(self) -> None:
        """Hear what has come, and say again what is not acknowledged."""
        assert self._wire is not None
        now = self._loop.time()
        with suppress(OSError):  # nothing more has come, or the link has gone
            while not self._answered():
                self._send(self._end.handle(self._wire.recv(_FRAME_MAX), now))
        if self._answered() or self._end.resets or now > self._until:
            self.end()
            return
        self._send(self._end.tick(now))
        self._timer = self._loop.call_at(min(self._end.retry_at, now + RETRY_FIRST), self._look)

    def _send(self, payloads: list[bytes]) -> None:
        assert self._wire is not None
        for payload in payloads:
            with suppress(OSError):
                to = (self._interface, int(EtherType.STORE_LINK), 0, 0, _GROUP)
                self._wire.sendto(payload, to)
