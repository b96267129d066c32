"""The honest answer to a frame that nobody will ever take: what a host without the service says."""

from ipaddress import IPv4Address, IPv6Address

from jitsu.errors import WireError
from jitsu.wire import ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp
from jitsu.wire.ethernet import EtherType


def answer(frame: bytes) -> bytes | None:
    """Return the frame that refuses `frame`, or None where silence is right.

    A segment gets the RST of RFC 9293 section 3.10.7.1, a datagram ICMP port unreachable, anything
    else ICMP host unreachable (RFC 1122 section 3.2.2.1), or address unreachable (RFC 4443 section
    3.1). An ICMP error, a fragment, and a packet that does not decode get nothing (RFC 1122 section
    3.2.2, RFC 4443 section 2.4).
    """
    try:
        outer = ethernet.decode(frame)
        if outer.ethertype == EtherType.IPV6:
            back = _refusal6(ipv6.decode(outer.payload))
        else:
            back = _refusal4(ipv4.decode(outer.payload))
    except WireError:
        return None
    if back is None:
        return None
    return ethernet.encode(ethernet.Frame(outer.source, outer.destination, outer.ethertype, back))


def _refusal4(packet: ipv4.Packet) -> bytes | None:
    if packet.is_fragment:
        return None
    protocol = int(packet.protocol)
    if protocol == ipv4.Protocol.TCP:
        payload = _reset(packet.payload, packet.source, packet.destination)
    else:
        code = icmp.Unreachable.HOST
        if protocol == ipv4.Protocol.UDP:
            udp.decode(packet.payload, packet.source, packet.destination)  # or it is not answered
            code = icmp.Unreachable.PORT
        elif protocol == ipv4.Protocol.ICMP and not isinstance(
            icmp.decode(packet.payload), icmp.EchoRequest
        ):
            return None
        protocol = ipv4.Protocol.ICMP
        payload = icmp.encode(icmp.unreachable(code, ipv4.encode(packet)))
    if payload is None:
        return None
    return ipv4.encode(ipv4.Packet(packet.destination, packet.source, protocol, payload))


def _refusal6(packet: ipv6.Packet) -> bytes | None:
    if packet.is_fragment or packet.destination.is_multicast:
        return None
    ends = packet.destination, packet.source
    protocol = int(packet.protocol)
    if protocol == ipv6.Protocol.TCP:
        payload = _reset(packet.payload, packet.source, packet.destination)
    else:
        code = icmpv6.Unreachable.ADDRESS
        if protocol == ipv6.Protocol.UDP:
            udp.decode(packet.payload, packet.source, packet.destination)
            code = icmpv6.Unreachable.PORT
        elif protocol == ipv6.Protocol.ICMPV6 and not isinstance(
            icmpv6.decode(packet.payload, packet.source, packet.destination), icmp.EchoRequest
        ):
            return None
        protocol = ipv6.Protocol.ICMPV6
        payload = icmpv6.encode(icmpv6.unreachable(code, ipv6.encode(packet)), *ends)
    return None if payload is None else ipv6.encode(ipv6.Packet(*ends, protocol, payload))


def _reset(
    payload: bytes, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address
) -> bytes | None:
    reset = tcp.reset_for(tcp.decode(payload, source, destination))
    return None if reset is None else tcp.encode(reset, destination, source)
