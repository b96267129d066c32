"""What a host without the service says to each frame."""

from dataclasses import replace

import pytest

from jitsu.core.refusal import answer
from jitsu.model import Mac
from jitsu.testing.peer import frame, segment
from jitsu.testing.world import SUBNET, service
from jitsu.wire import ethernet, icmp, ipv4, tcp, udp
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
