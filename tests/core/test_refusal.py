"""What a host without the service says to each frame."""

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from jitsu.core.refusal import answer
from jitsu.model import Mac
from jitsu.testing.peer import frame, segment
from jitsu.testing.world import SUBNET, service
from jitsu.wire import ethernet, icmp, icmpv6, ipv4, ipv6, ndp, tcp, udp
from jitsu.wire.icmp import Unreachable
from jitsu.wire.ipv4 import Protocol
from jitsu.wire.tcp import Flags

CLIENT = (Mac(b"\x06client"[:6]), SUBNET[100])
SERVICE = (service(0).mac, service(0).address)


def sent(flags: Flags, seq: int = 0, ack: int = 0, payload: bytes = b"") -> bytes:
    return segment(CLIENT, SERVICE, tcp.Segment(5000, 80, seq, ack, flags, 9, payload=payload))


def packet(protocol: int, payload: bytes, **changes: object) -> bytes:
    plain = ipv4.Packet(CLIENT[1], SERVICE[1], protocol, payload)
    content = ipv4.encode(replace(plain, **changes))  # type: ignore[arg-type]
    return ethernet.encode(ethernet.Frame(SERVICE[0], CLIENT[0], ethernet.EtherType.IPV4, content))


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]


DATAGRAM = packet(Protocol.UDP, udp.encode(udp.Datagram(4000, 7, b"hi"), CLIENT[1], SERVICE[1]))
UNSUMMED = packet(Protocol.UDP, DATAGRAM[34:40] + bytes(2) + b"hi")
ECHO = packet(Protocol.ICMP, icmp.encode(icmp.EchoRequest(1, 2, b"are you there?")))
SCTP = packet(132, b"association")
SYN = sent(Flags.SYN, seq=100)
ERROR = icmp.encode(icmp.unreachable(Unreachable.PORT, DATAGRAM[14:]))
BACK_IN_IP = 14 + 20
"""Where the payload of a packet without options begins."""


@pytest.mark.parametrize(
    ("asked", "flags", "seq", "ack"),
    [
        (SYN, Flags.RST | Flags.ACK, 0, 101),
        (sent(Flags.SYN, 100, payload=b"fast open"), Flags.RST | Flags.ACK, 0, 110),
        (sent(Flags.SYN, 0xFFFF_FFFF), Flags.RST | Flags.ACK, 0, 0),
        (sent(Flags.FIN, 7), Flags.RST | Flags.ACK, 0, 8),
        (sent(Flags.ACK, 7, 300, b"GET /"), Flags.RST, 300, 0),
        (sent(Flags.SYN | Flags.ACK, 7, 300), Flags.RST, 300, 0),
    ],
)
def test_a_segment_gets_a_reset(asked: bytes, flags: Flags, seq: int, ack: int) -> None:
    reset = tcp.Segment(80, 5000, seq, ack, flags, window=0)
    assert answer(asked) == segment(SERVICE, CLIENT, reset)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (DATAGRAM, Unreachable.PORT),
        (UNSUMMED, Unreachable.PORT),
        (ECHO, Unreachable.HOST),
        (SCTP, Unreachable.HOST),
    ],
    ids=["datagram", "datagram without checksum", "echo", "other protocol"],
)
def test_other_packets_are_unreachable(asked: bytes, code: Unreachable) -> None:
    error = icmp.encode(icmp.DestinationUnreachable(code, asked[14:]))
    assert answer(asked) == frame(SERVICE, CLIENT, Protocol.ICMP, error)


def test_padding_is_not_quoted() -> None:
    assert answer(SCTP + bytes(20)) == answer(SCTP)


@pytest.mark.parametrize(
    "asked",
    [
        sent(Flags.RST, 100),
        sent(Flags.RST | Flags.ACK, 100, 1),
        packet(Protocol.ICMP, ERROR),
        packet(Protocol.ICMP, icmp.encode(icmp.EchoReply(1, 2))),
        packet(Protocol.ICMP, icmp.encode(icmp.Other(13, 0, bytes(16)))),
        packet(Protocol.TCP, SYN[34:], dont_fragment=False, more_fragments=True),
        packet(Protocol.UDP, b"the second half", dont_fragment=False, fragment_offset=8),
        damaged(SYN, 14 + 8),
        damaged(SYN, BACK_IN_IP + 4),
        damaged(DATAGRAM, len(DATAGRAM) - 1),
        damaged(ECHO, len(ECHO) - 1),
        packet(Protocol.TCP, SYN[34:50]),
        packet(Protocol.UDP, b"short"),
        packet(Protocol.ICMP, b"short"),
        SYN[:13],
        SYN[:30],
        b"",
    ],
    ids=[
        "reset",
        "reset with ack",
        "error",
        "echo reply",
        "timestamp request",
        "first fragment",
        "last fragment",
        "bad IP checksum",
        "bad TCP checksum",
        "bad UDP checksum",
        "bad ICMP checksum",
        "short segment",
        "short datagram",
        "short message",
        "short Ethernet header",
        "short IP header",
        "nothing",
    ],
)
def test_silence(asked: bytes) -> None:
    assert answer(asked) is None


# The same over IPv6.

CLIENT6 = (CLIENT[0], IPv6Address("fd77::64"))
SERVICE6 = (SERVICE[0], IPv6Address("fd77::10"))
ENDS6 = (CLIENT6[1], SERVICE6[1])
HOPS, FRAGMENT = ipv6.Extension(0, bytes(6)), ipv6.Extension(44, bytes.fromhex("000100000007"))
GROUP = ipv6.ALL_NODES


def sent6(flags: Flags, seq: int = 0, ack: int = 0) -> bytes:
    return segment(CLIENT6, SERVICE6, tcp.Segment(5000, 80, seq, ack, flags, 9))


def packet6(protocol: int, payload: bytes, **changes: object) -> bytes:
    plain = ipv6.Packet(*ENDS6, protocol, payload)
    content = ipv6.encode(replace(plain, **changes))  # type: ignore[arg-type]
    return ethernet.encode(ethernet.Frame(SERVICE[0], CLIENT[0], ethernet.EtherType.IPV6, content))


def message6(message: icmpv6.Message) -> bytes:
    return packet6(58, icmpv6.encode(message, *ENDS6))


HI = udp.Datagram(4000, 7, b"hi")
SYN6 = sent6(Flags.SYN, seq=100)
DATAGRAM6 = packet6(17, udp.encode(HI, *ENDS6))
ECHO6 = message6(icmp.EchoRequest(1, 2, b"are you there?"))
SCTP6 = packet6(132, b"association")


@pytest.mark.parametrize(
    ("asked", "flags", "seq", "ack"),
    [
        (SYN6, Flags.RST | Flags.ACK, 0, 101),
        (packet6(6, SYN6[54:], extensions=(HOPS,)), Flags.RST | Flags.ACK, 0, 101),
        (sent6(Flags.ACK, 7, 300), Flags.RST, 300, 0),
    ],
)
def test_a_segment_gets_a_reset_over_ipv6(asked: bytes, flags: Flags, seq: int, ack: int) -> None:
    reset = tcp.Segment(80, 5000, seq, ack, flags, window=0)
    assert answer(asked) == segment(SERVICE6, CLIENT6, reset)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (DATAGRAM6, icmpv6.Unreachable.PORT),
        (packet6(17, DATAGRAM6[54:], extensions=(HOPS,)), icmpv6.Unreachable.PORT),
        (ECHO6, icmpv6.Unreachable.ADDRESS),
        (SCTP6, icmpv6.Unreachable.ADDRESS),
    ],
    ids=["datagram", "datagram with options", "echo", "other protocol"],
)
def test_other_packets_are_unreachable_over_ipv6(asked: bytes, code: icmpv6.Unreachable) -> None:
    error = icmpv6.encode(icmpv6.DestinationUnreachable(code, asked[14:]), *reversed(ENDS6))
    assert answer(asked) == answer(asked + bytes(20)) == frame(SERVICE6, CLIENT6, 58, error)


@pytest.mark.parametrize(
    "asked",
    [
        sent6(Flags.RST, 100),
        message6(icmpv6.unreachable(icmpv6.Unreachable.PORT, DATAGRAM6[14:])),
        message6(icmp.EchoReply(1, 2)),
        message6(icmpv6.Other(2, 0, bytes(40))),
        packet6(58, ndp.question(SERVICE6[1], CLIENT6[1], CLIENT[0]).payload),
        packet6(6, SYN6[54:], extensions=(FRAGMENT,)),
        damaged(SYN6, len(SYN6) - 1),
        damaged(DATAGRAM6, len(DATAGRAM6) - 1),
        damaged(ECHO6, len(ECHO6) - 1),
        packet6(17, DATAGRAM6[54:60] + bytes(2) + b"hi"),
        packet6(17, udp.encode(HI, ENDS6[0], GROUP), destination=GROUP),
        packet6(17, udp.encode(HI, GROUP, ENDS6[1]), source=GROUP),
        packet6(17, udp.encode(HI, ipv6.UNSPECIFIED, ENDS6[1]), source=ipv6.UNSPECIFIED),
        SYN6[:50],
    ],
    ids=[
        "reset",
        "error",
        "echo reply",
        "packet too big",
        "neighbour solicitation",
        "fragment",
        "bad TCP checksum",
        "bad UDP checksum",
        "bad ICMP checksum",
        "no UDP checksum",
        "to a group",
        "from a group",
        "from no address",
        "short header",
    ],
)
def test_silence_over_ipv6(asked: bytes) -> None:
    assert answer(asked) is None
