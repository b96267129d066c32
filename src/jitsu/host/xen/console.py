"""What a domain writes on its console (Xen's public/io/console.h).

A page with two rings, of which the guest grants us the page as its grant 0; and an event channel.
No daemon is between: who has not told the store of the console has it for itself.
"""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass

from jitsu.errors import HostError
from jitsu.host.xen.evtchn import EventChannels
from jitsu.host.xen.gntdev import GrantMapper
from jitsu.host.xen.pages import SharedPages

_GRANT = 0
"""GNTTAB_RESERVED_CONSOLE (xen/grant_table.h)."""
_OUT, _OUT_SIZE = 1024, 2048
_CONSUMED, _PRODUCED = 3080, 3084
"""Where in the page the guest's ring is, and its two indices are."""
_INDEX = struct.Struct("<I")
_RATE_MAX = 256 << 10
"""Bytes a second that are read of one console; a guest that writes more waits."""

Write = Callable[[bytes], None]


def take(page: memoryview) -> bytes:
    """Return what the guest has written since the last time; the room is its again.

    Indices grow without end, modulo 2**32. Some that make no sense are the guest's own loss: what
    is there of the ring is skipped.
    """
    (consumed,) = _INDEX.unpack_from(page, _CONSUMED)
    (produced,) = _INDEX.unpack_from(page, _PRODUCED)
    count = produced - consumed & 0xFFFFFFFF
    data = b""
    if count <= _OUT_SIZE:
        begin = consumed % _OUT_SIZE
        ring = bytes(page[_OUT : _OUT + _OUT_SIZE])  # copied once: the guest may still write
        data = (ring[begin:] + ring[:begin])[:count]
    _INDEX.pack_into(page, _CONSUMED, produced)
    return data


@dataclass(slots=True)
class _Attached:
    domid: int
    port: int
    pages: SharedPages
    write: Write
    resting: bool = False
    """It has written, and is not read again before its time: events do not hasten that."""
    masked: bool = False
    """It has called meanwhile, and cannot again: so one that does nothing else costs us nothing."""


class Consoles:
    """The consoles of all guests, on the event loop."""

    def __init__(self) -> None:
        """Open the devices. Raises HostError."""
        self._channels = EventChannels()
        try:
            self._mapper = GrantMapper()
        except HostError:
            self._channels.close()
            raise
        self._attached: dict[int, _Attached] = {}
        asyncio.get_running_loop().add_reader(self._channels.fileno(), self._fired)

    def close(self) -> None:
        """Read no more."""
        asyncio.get_running_loop().remove_reader(self._channels.fileno())
        for domid in [one.domid for one in self._attached.values()]:
            self.detach(domid)
        self._channels.close()
        self._mapper.close()

    def attach(self, domid: int, port: int, write: Write) -> None:
        """Call `write` with what a domain writes, whose console's event channel is `port`.

        Raises HostError.
        """
        pages = self._mapper.map(domid, [_GRANT])
        try:
            ours = self._channels.bind_interdomain(domid, port)
        except HostError:
            pages.close()
            raise
        self._attached[ours] = _Attached(domid, ours, pages, write)
        self._read(ours)

    def detach(self, domid: int) -> None:
        """Read what is left of a domain's console, and let its page go."""
        found = next((one for one in self._attached.values() if one.domid == domid), None)
        if found is None:
            return
        self._take(found)
        del self._attached[found.port]
        try:
            self._channels.unbind(found.port)
        finally:
            found.pages.close()

    def _fired(self) -> None:
        for port in self._channels.taken():
            one = self._attached.get(port)
            if one is not None and one.resting:
                one.masked = True
            else:
                self._channels.unmask([port])
                self._read(port, called=True)

    def _read(self, port: int, *, called: bool = False) -> None:
        """Read, and tell the guest that there is room, after a while where it writes a lot.

        One that has `called` rests in any case, be there nothing to read, or nonsense.
        """
        one = self._attached.get(port)
        if one is None or one.resting:
            return
        count = self._take(one)
        if count or called:
            one.resting = True
            loop = asyncio.get_running_loop()
            loop.call_later((count or _OUT_SIZE) / _RATE_MAX, self._go_on, one)

    def _take(self, one: _Attached) -> int:
        with memoryview(one.pages.memory) as page:
            data = take(page)
        if data:
            one.write(data)
        return len(data)

    def _go_on(self, one: _Attached) -> None:
        one.resting = False
        if self._attached.get(one.port) is one:
            if one.masked:
                one.masked = False
                self._channels.unmask([one.port])
            self._channels.notify(one.port)
            self._read(one.port)
