"""The honest answer to a frame that nobody will ever take: what a host without the service says."""

from jitsu.errors import WireError
from jitsu.wire import ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp
from jitsu.wire.ethernet import EtherType


def answer(frame: bytes) -> bytes | None:
    """Return the frame that refuses `frame`, or None where silence is right.

    A segment gets the RST of RFC 9293 section 3.10.7.1, a datagram ICMP port unreachable, anything
    else ICMP host unreachable (RFC 1122 section 3.2.2.1) or, over IPv6, address unreachable (RFC
    4443 section 3.1). An ICMP error, a fragment, and a packet that does not decode get nothing
    (RFC 1122 section 3.2.2).
    """
    try:
        outer = ethernet.decode(frame)
        if outer.ethertype == EtherType.IPV6:
            back = _back6(ipv6.decode(outer.payload))
        else:
            back = _back(ipv4.decode(outer.payload))
    except WireError:
        return None
    if back is None:
        return None
    return ethernet.encode(ethernet.Frame(outer.source, outer.destination, outer.ethertype, back))


def _back(packet: ipv4.Packet) -> bytes | None:
    reply = _reply(packet)
    if reply is None:
        return None
    return ipv4.encode(ipv4.Packet(packet.destination, packet.source, *reply))


def _back6(packet: ipv6.Packet) -> bytes | None:
    # Neither is who sent it one station, nor is what is for many refused (RFC 4443 section 2.4).
    ends = (packet.source, packet.destination)
    if packet.source.is_unspecified or any(end.is_multicast for end in ends):
        return None
    reply = _reply6(packet)
    if reply is None:
        return None
    return ipv6.encode(ipv6.Packet(packet.destination, packet.source, *reply))


def _reply(packet: ipv4.Packet) -> tuple[int, bytes] | None:
    if packet.is_fragment:
        return None
    if packet.protocol == ipv4.Protocol.TCP:
        return _reset(packet)
    code = icmp.Unreachable.HOST
    if packet.protocol == ipv4.Protocol.UDP:
        udp.decode(packet.payload, packet.source, packet.destination)  # or it is not answered
        code = icmp.Unreachable.PORT
    elif packet.protocol == ipv4.Protocol.ICMP and not isinstance(
        icmp.decode(packet.payload), icmp.EchoRequest
    ):
        return None
    error = icmp.unreachable(code, ipv4.encode(packet))
    return ipv4.Protocol.ICMP, icmp.encode(error)


def _reply6(packet: ipv6.Packet) -> tuple[int, bytes] | None:
    ends = (packet.source, packet.destination)
    if packet.is_fragment:
        return None
    if packet.protocol == ipv6.Protocol.TCP:
        return _reset(packet)
    code = icmpv6.Unreachable.ADDRESS
    if packet.protocol == ipv6.Protocol.UDP:
        udp.decode(packet.payload, *ends)  # or it is not answered
        code = icmpv6.Unreachable.PORT
    elif packet.protocol == ipv6.Protocol.ICMPV6 and not isinstance(
        icmpv6.decode(packet.payload, *ends), icmp.EchoRequest
    ):
        return None
    error = icmpv6.unreachable(code, ipv6.encode(packet))
    return ipv6.Protocol.ICMPV6, icmpv6.encode(error, packet.destination, packet.source)


def _reset(packet: ipv4.Packet | ipv6.Packet) -> tuple[int, bytes] | None:
    segment = tcp.decode(packet.payload, packet.source, packet.destination)
    reset = tcp.reset_for(segment)
    if reset is None:
        return None
    return packet.protocol, tcp.encode(reset, packet.destination, packet.source)
