"""Segments in frames: a TCP segment with all that is around it, for one pair of ends."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv4, ipv6, tcp
from jitsu.wire.ethernet import EtherType


@dataclass(frozen=True, slots=True)
class Ends:
    """Between whom a connection is: a service, here `local`, and a client, its peer."""

    mac: Mac
    local: IPv4Address | IPv6Address
    port: int
    peer_mac: Mac
    peer: IPv4Address | IPv6Address
    peer_port: int

    def turned(self) -> Self:
        """Return the ends as the other side sees them."""
        return type(self)(self.peer_mac, self.peer, self.peer_port, self.mac, self.local, self.port)


def decode(frame: bytes, *, verify: bool = True) -> tuple[Ends, tcp.Segment]:
    """Parse a client's segment to a service. Raises WireError.

    With `verify` off the segment's checksum is not looked at: a guest leaves that to the host.
    """
    outer = ethernet.decode(frame)
    source, destination, payload = _unwrapped(outer)
    segment = tcp.decode(payload, source, destination, verify=verify)
    ends = Ends(
        mac=outer.destination,
        local=destination,
        port=segment.destination_port,
        peer_mac=outer.source,
        peer=source,
        peer_port=segment.source_port,
    )
    return ends, segment


def encode(ends: Ends, segment: tcp.Segment) -> bytes:
    """Render the frame of a service's segment to its client."""
    payload = tcp.encode(segment, ends.local, ends.peer)
    ethertype, packet = _wrapped(ends.local, ends.peer, payload)
    return ethernet.encode(ethernet.Frame(ends.peer_mac, ends.mac, ethertype, packet))


_Unwrapped = tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address, bytes]


def _unwrapped(outer: ethernet.Frame) -> _Unwrapped:
    """Return from whom to whom a frame's segment goes, and the segment. Raises WireError."""
    packet: ipv4.Packet | ipv6.Packet
    if outer.ethertype == EtherType.IPV6:
        packet = ipv6.decode(outer.payload)
    elif outer.ethertype == EtherType.IPV4:
        packet = ipv4.decode(outer.payload)
    else:
        raise WireError(f"a frame of type {outer.ethertype:#06x} has no segment")
    if packet.is_fragment or packet.protocol != ipv4.Protocol.TCP:
        raise WireError("a packet without a whole segment")
    return packet.source, packet.destination, packet.payload


def _wrapped(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, payload: bytes
) -> tuple[EtherType, bytes]:
    if isinstance(source, IPv4Address):
        assert isinstance(destination, IPv4Address)
        packet = ipv4.Packet(source, destination, ipv4.Protocol.TCP, payload)
        return EtherType.IPV4, ipv4.encode(packet)
    assert isinstance(destination, IPv6Address)
    packet6 = ipv6.Packet(source, destination, ipv6.Protocol.TCP, payload)
    return EtherType.IPV6, ipv6.encode(packet6)
