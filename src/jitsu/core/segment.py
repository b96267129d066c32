"""Segments in frames: a TCP segment with all that is around it, for one pair of ends."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv4, tcp


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
    if outer.ethertype != ethernet.EtherType.IPV4:
        raise WireError(f"a frame of type {outer.ethertype:#06x} has no segment")
    packet = ipv4.decode(outer.payload)
    if packet.is_fragment or packet.protocol != ipv4.Protocol.TCP:
        raise WireError("a packet without a whole segment")
    segment = tcp.decode(packet.payload, packet.source, packet.destination, verify=verify)
    ends = Ends(
        mac=outer.destination,
        local=packet.destination,
        port=segment.destination_port,
        peer_mac=outer.source,
        peer=packet.source,
        peer_port=segment.source_port,
    )
    return ends, segment


def encode(ends: Ends, segment: tcp.Segment) -> bytes:
    """Render the frame of a service's segment to its client."""
    payload = tcp.encode(segment, ends.local, ends.peer)
    assert isinstance(ends.local, IPv4Address)
    assert isinstance(ends.peer, IPv4Address)
    packet = ipv4.encode(ipv4.Packet(ends.local, ends.peer, ipv4.Protocol.TCP, payload))
    frame = ethernet.Frame(ends.peer_mac, ends.mac, ethernet.EtherType.IPV4, packet)
    return ethernet.encode(frame)
