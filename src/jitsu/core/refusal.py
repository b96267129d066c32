"""The honest answer to a frame that nobody will ever take: what a host without the service says."""

from jitsu.errors import WireError
from jitsu.wire import ethernet, icmp, ipv4, tcp, udp


def answer(frame: bytes) -> bytes | None:
    """Return the frame that refuses `frame`, or None where silence is right.

    A segment gets the RST of RFC 9293 section 3.10.7.1, a datagram ICMP port unreachable, anything
    else ICMP host unreachable (RFC 1122 section 3.2.2.1). An ICMP error, a fragment, and a packet
    that does not decode get nothing (RFC 1122 section 3.2.2).
    """
    try:
        outer = ethernet.decode(frame)
        packet = ipv4.decode(outer.payload)
        reply = _reply(packet)
    except WireError:
        return None
    if reply is None:
        return None
    protocol, payload = reply
    back = ipv4.encode(ipv4.Packet(packet.destination, packet.source, protocol, payload))
    return ethernet.encode(
        ethernet.Frame(outer.source, outer.destination, ethernet.EtherType.IPV4, back)
    )


def _reply(packet: ipv4.Packet) -> tuple[int, bytes] | None:
    if packet.is_fragment:
        return None
    if packet.protocol == ipv4.Protocol.TCP:
        segment = tcp.decode(packet.payload, packet.source, packet.destination)
        reset = tcp.reset_for(segment)
        if reset is None:
            return None
        return ipv4.Protocol.TCP, tcp.encode(reset, packet.destination, packet.source)
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
