"""The kernel's part of splicing, on one guest's link: see `core/splice.py` and `bpf/splice.c`.

Two programs at the link's clsact hook shift the numbers of the flows in their map. All of it goes
with the link, and with the descriptors, should we be killed.
"""

import struct
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from jitsu.core.segment import Ends
from jitsu.core.splice import Numbers
from jitsu.errors import HostError
from jitsu.host import bpf, netlink
from jitsu.host.rtnetlink import Requests

OBJECT = Path(__file__).parent.parent / "images" / "splice.o"
LINGER = 120.0
"""Seconds that a flow which is over is still understood: twice the segment lifetime of Linux."""
FLOWS_MAX = 8192
"""As many as Synjitsu can have at a hand-over; `bpf/splice.c` says so."""
_FLOW = struct.Struct("!16s16sHH")
_SHIFT = struct.Struct("<QIII4xBBBx4x")
_FIN, _RST = 0x01, 0x04
_MAPPED = bytes(10) + b"\xff\xff"
"""What makes an IPv4 address one of sixteen bytes (RFC 4291 section 2.5.5.2)."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Flow:
    """Between whom the kernel translates."""

    peer: Address
    peer_port: int
    local: Address
    port: int

    @classmethod
    def of(cls, ends: Ends) -> "Flow":
        """Return the flow of a connection."""
        return cls(ends.peer, ends.peer_port, ends.local, ends.port)


@dataclass(frozen=True, slots=True)
class Translation:
    """How: by `delta`, which is None while the guest is not heard.

    `seen` is when a segment last came, on the monotonic clock.
    """

    delta: int | None
    seen: float
    is_over: bool


def load() -> bpf.Loaded:
    """Load the programs for one link, which takes the kernel milliseconds. Raises HostError."""
    return bpf.load(OBJECT)


class Splicer:
    """Translates on one link until it is closed."""

    def __init__(self, index: int, loaded: bpf.Loaded | None = None) -> None:
        """Attach to link `index` what is `loaded`; blocks. Raises HostError."""
        with ExitStack() as undo:
            loaded = loaded or load()
            undo.callback(loaded.close)
            requests = Requests()
            undo.callback(requests.close)
            requests.send(netlink.hook(index))
            undo.callback(_unhook, requests, index)
            for end, name in ((netlink.INGRESS, "from_guest"), (netlink.EGRESS, "to_guest")):
                requests.send(netlink.attach(index, end, loaded.programs[name], name))
            self._undo = undo.pop_all()
        self._flows = loaded.map

    def close(self) -> None:
        """Translate no more, and leave nothing."""
        self._undo.close()

    def add(self, ends: Ends, numbers: Numbers | None) -> None:
        """Translate the guest's numbers, or while they are None do not let it be heard.

        Raises HostError where there is no room.
        """
        how = (numbers.delta, numbers.isn, numbers.acked) if numbers else (0, 0, 0)
        value = _SHIFT.pack(time.monotonic_ns(), *how, numbers is not None, 0, 0)
        try:
            self._flows.put(_key(Flow.of(ends)), value)
        except OSError as error:
            raise HostError(f"no room to splice in: {error.strerror}") from error

    def remove(self, ends: Ends) -> None:
        """Leave the segments of a flow as they are."""
        self._flows.remove(_key(Flow.of(ends)))

    def flows(self) -> dict[Flow, Translation]:
        """Return what is translated."""
        found = {}
        for key in list(self._flows.keys()):
            value = self._flows.get(key)
            if value is not None:  # else it has ended meanwhile
                found[_flow(key)] = _translation(value)
        return found

    def sweep(self, now: float) -> int:
        """Forget the flows that have long been over; return how many are left."""
        left = 0
        for flow, how in self.flows().items():
            if how.is_over and how.seen + LINGER <= now:
                self._flows.remove(_key(flow))
            else:
                left += 1
        return left


class Spliceable:
    """What a guest's link does with connections that others have opened, if it has a splicer."""

    name: str
    splicer: Splicer | None

    def shift(self, ends: Ends, numbers: Numbers | None) -> None:
        """Tell the programs on the link. Raises HostError."""
        if self.splicer is None:
            raise HostError(f"{self.name} does not splice")
        self.splicer.add(ends, numbers)

    def unshift(self, ends: Ends) -> None:
        """Tell them to leave it."""
        if self.splicer is not None:
            self.splicer.remove(ends)

    def forget(self) -> None:
        """Tell them to forget what has long been over; blocks."""
        splicer = self.splicer  # which who closes the link takes away, on another thread
        if splicer is not None:
            splicer.sweep(time.monotonic())


def _unhook(requests: Requests, index: int) -> None:
    with suppress(HostError):  # the link may have gone, and with it the hook
        requests.send(netlink.unhook(index))


def _packed(address: Address) -> bytes:
    return address.packed if address.version == 6 else _MAPPED + address.packed


def _key(flow: Flow) -> bytes:
    return _FLOW.pack(_packed(flow.peer), _packed(flow.local), flow.peer_port, flow.port)


def _flow(key: bytes) -> Flow:
    peer, local, peer_port, port = _FLOW.unpack(key)
    addresses = [a.ipv4_mapped or a for a in (IPv6Address(peer), IPv6Address(local))]
    return Flow(addresses[0], peer_port, addresses[1], port)


def _translation(value: bytes) -> Translation:
    seen, delta, _, _, known, client, guest = _SHIFT.unpack(value)
    over = bool((client | guest) & _RST or client & guest & _FIN)
    return Translation(delta if known else None, seen / 1e9, over)
