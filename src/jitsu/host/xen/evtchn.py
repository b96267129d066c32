"""Event channels: Xen's interrupts between domains (Linux's uapi/xen/evtchn.h).

A port that has fired is masked until it is unmasked. Who unmasks first and looks at what the event
is about then misses nothing: what happens after the look fires again.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from jitsu.errors import HostError
from jitsu.host.xen.device import call, number, open_device

VIRQ_DOM_EXC = 3
"""Some domain has died or shut down; one owner in the whole host."""

_PORT = struct.Struct("=I")
_PAIR = struct.Struct("=II")
_BIND_VIRQ = number("E", 0, _PORT.size)
_BIND_INTERDOMAIN = number("E", 1, _PAIR.size)
_BIND_UNBOUND_PORT = number("E", 2, _PORT.size)
_UNBIND = number("E", 3, _PORT.size)
_NOTIFY = number("E", 4, _PORT.size)
_BATCH = 1024
"""Ports that are read at once."""


class EventChannels:
    """A set of ports with one descriptor, which is readable when one of them has fired.

    Whatever is bound is closed with it, also when the process is killed; the other end is then
    unbound, and may be bound again.
    """

    def __init__(self) -> None:
        """Open the device. Raises HostError."""
        self._fd = open_device("evtchn", os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        return self._fd

    def bind_interdomain(self, domid: int, port: int) -> int:
        """Bind to a port that a domain offers us; return ours. Raises HostError."""
        what = f"event channel {port} of domain {domid}"
        return call(self._fd, _BIND_INTERDOMAIN, bytearray(_PAIR.pack(domid, port)), what)

    def bind_unbound(self, domid: int) -> int:
        """Offer a domain a port; return it. Raises HostError."""
        what = f"event channel for domain {domid}"
        return call(self._fd, _BIND_UNBOUND_PORT, bytearray(_PORT.pack(domid)), what)

    def bind_virq(self, virq: int) -> int:
        """Bind to one of Xen's own events. Raises HostError, with EEXIST when it has an owner."""
        return call(self._fd, _BIND_VIRQ, bytearray(_PORT.pack(virq)), f"virtual IRQ {virq}")

    def unbind(self, port: int) -> None:
        """Close a port of ours. Raises HostError when it is none."""
        call(self._fd, _UNBIND, bytearray(_PORT.pack(port)), f"event channel {port}")

    def notify(self, port: int) -> None:
        """Fire the other end of a port. Raises HostError when it is none."""
        call(self._fd, _NOTIFY, bytearray(_PORT.pack(port)), f"event channel {port}")

    def fired(self) -> list[int]:
        """Return ports that have fired, and unmask them; none does not block."""
        ports = self.taken()
        self.unmask(ports)
        return ports

    def taken(self) -> list[int]:
        """Return ports that have fired; they do not again until they are unmasked."""
        try:
            data = os.read(self._fd, _BATCH * _PORT.size)
        except BlockingIOError:
            return []
        except (
            OSError
        ) as error:  # EFBIG: the kernel has lost some; only more ports than it can count
            raise HostError(f"/dev/xen/evtchn: {error.strerror}") from error
        return [port for (port,) in _PORT.iter_unpack(data)]

    def unmask(self, ports: Sequence[int]) -> None:
        """Let ports fire again."""
        with suppress(OSError):  # one has been closed meanwhile
            os.write(self._fd, b"".join(map(_PORT.pack, ports)))

    def close(self) -> None:
        """Close all ports."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
