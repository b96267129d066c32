from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.errors import WireError
from jitsu.wire import arp, ethernet, icmp, icmpv6, ipv4, ipv6, ndp, tcp, udp
from jitsu.wire.arp import Arp, Operation
from jitsu.wire.checksum import checksum, pseudo_header
from jitsu.wire.ethernet import EtherType, Frame
from jitsu.wire.icmp import EchoReply, EchoRequest
from jitsu.wire.ipv4 import Packet, Protocol
from jitsu.wire.peek import Glance, Kind, glance
from jitsu.wire.tcp import Flags, Segment
from jitsu.wire.udp import Datagram
from wire.strategies import (
    CLIENT,
    CLIENT6,
    CLIENT_MAC,
    SERVER,
    SERVER6,
    SERVER_MAC,
    bytes8,
    damaged,
)

QUESTION = Arp(Operation.REQUEST, CLIENT_MAC, CLIENT, ethernet.UNKNOWN, SERVER)


def framed(ethertype: int, payload: bytes) -> bytes:
    return ethernet.encode(Frame(SERVER_MAC, CLIENT_MAC, ethertype, payload))


def packed(protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    packet = Packet(CLIENT, SERVER, protocol, payload, options=options)
    return framed(EtherType.IPV4, ipv4.encode(packet))


def segment(flags: int) -> bytes:
    return tcp.encode(Segment(40000, 80, 1, 2, Flags(flags), 3), CLIENT, SERVER)


def packed6(protocol: int, payload: bytes, *extensions: ipv6.Extension) -> bytes:
    packet = ipv6.Packet(CLIENT6, SERVER6, protocol, payload, extensions=extensions)
    return framed(EtherType.IPV6, ipv6.encode(packet))


def segment6(flags: int) -> bytes:
    return tcp.encode(Segment(40000, 80, 1, 2, Flags(flags), 3), CLIENT6, SERVER6)


HOPS, WHOLE_FRAGMENT = ipv6.Extension(0, bytes(14)), ipv6.Extension(44, bytes(6))
FRAGMENTS = [ipv6.Extension(44, bytes.fromhex(text + "00000007")) for text in ("0001", "0008")]
DATAGRAM6 = udp.encode(Datagram(40000, 53, b"query"), CLIENT6, SERVER6)
PING6 = icmpv6.encode(EchoRequest(1, 2, b"ping"), CLIENT6, SERVER6)
PONG6 = icmpv6.encode(EchoReply(1, 2, b"ping"), CLIENT6, SERVER6)
QUESTION6 = ndp.question(SERVER6, CLIENT6, CLIENT_MAC)
PROBE6 = ndp.question(SERVER6, ipv6.UNSPECIFIED, CLIENT_MAC)
WHOLE6 = [
    *(framed(EtherType.IPV6, ipv6.encode(asked)) for asked in (QUESTION6, PROBE6)),
    framed(EtherType.IPV6, ipv6.encode(ndp.announcement(SERVER_MAC, SERVER6))),
    packed6(Protocol.UDP, DATAGRAM6),
    packed6(Protocol.UDP, DATAGRAM6 + b"surplus", HOPS),
    packed6(58, PING6),
    packed6(58, PING6, HOPS, WHOLE_FRAGMENT),
    packed6(58, PONG6),
    packed6(Protocol.TCP, segment6(Flags.SYN)),
    packed6(Protocol.TCP, segment6(Flags.SYN), HOPS, WHOLE_FRAGMENT),
    packed6(Protocol.ICMP, PING6),
    packed6(254, b""),
    packed6(254, b"", HOPS),
    *(packed6(Protocol.TCP, segment6(Flags.SYN), part) for part in FRAGMENTS),
]
DATAGRAM = udp.encode(Datagram(40000, 53, b"query"), CLIENT, SERVER)
PING = icmp.encode(EchoRequest(1, 2, b"ping"))
WHOLE = [
    framed(EtherType.ARP, arp.encode(QUESTION)),
    framed(EtherType.ARP, arp.encode(arp.reply_to(QUESTION, SERVER_MAC))),
    framed(EtherType.STORE_LINK, bytes(60)),
    packed(Protocol.UDP, DATAGRAM),
    packed(Protocol.UDP, DATAGRAM + b"surplus"),
    packed(Protocol.ICMP, PING),
    packed(Protocol.ICMP, icmp.encode(EchoReply(1, 2, b"ping"))),
    packed(Protocol.TCP, segment(Flags.SYN)),
    packed(Protocol.TCP, segment(Flags.SYN), options=bytes(40)),
    packed(254, b""),
    *WHOLE6,
]


def mended(frame: bytes) -> bytes:
    """Put right the checksum of an IPv4 header or an ICMPv6 message: what else is wrong shows."""
    if frame[12:14] == b"\x86\xdd":
        return mended6(frame)
    header = slice(14, 14 + (frame[14] & 15) * 4) if len(frame) >= 34 else slice(0)
    if frame[12:14] != b"\x08\x00" or not 34 <= header.stop <= len(frame):
        return frame
    data = frame[:24] + bytes(2) + frame[26:]
    return data[:24] + checksum(data[header]).to_bytes(2, "big") + data[26:]


def mended6(frame: bytes) -> bytes:
    try:
        packet = ipv6.decode(frame[14:])
    except WireError:
        return frame
    at, data = 14 + 40 + sum(len(e.content) + 2 for e in packet.extensions), packet.payload
    if packet.protocol != ipv6.Protocol.ICMPV6 or len(data) < 4:
        return frame
    extra = pseudo_header(packet.source, packet.destination, 58, len(data))
    summed = checksum(data[:2] + bytes(2) + data[4:], extra)
    return frame[: at + 2] + summed.to_bytes(2) + frame[at + 4 :]


def expected(frame: bytes) -> Glance:
    """Say what the codecs see in a frame, checksums aside. Raises WireError."""
    outer = ethernet.decode(frame)
    seen = Glance(Kind.OTHER, outer.source, outer.destination)
    if outer.ethertype == EtherType.ARP:
        asked = arp.decode(outer.payload)
        kind = Kind.ARP_REQUEST if asked.operation is Operation.REQUEST else Kind.OTHER
        ends = (asked.sender_ip.packed, asked.target_ip.packed)
        return seen._replace(kind=kind, source_ip=ends[0], destination_ip=ends[1])
    if outer.ethertype not in (EtherType.IPV4, EtherType.IPV6):
        return seen
    family = ipv4 if outer.ethertype == EtherType.IPV4 else ipv6
    packet: Packet | ipv6.Packet = family.decode(outer.payload)
    ends = (packet.source.packed, packet.destination.packed)
    seen = seen._replace(source_ip=ends[0], destination_ip=ends[1])
    return seen if packet.is_fragment else expected_inside(packet, seen)


def expected_icmp(packet: Packet | ipv6.Packet, seen: Glance) -> Glance:
    if isinstance(packet, Packet):
        ping = isinstance(icmp.decode(packet.payload), EchoRequest)
    elif packet.payload[:2] in (b"\x87\0", b"\x88\0"):
        asked = ndp.decode(packet)
        if isinstance(asked, ndp.Solicitation):
            return seen._replace(kind=Kind.ND_SOLICITATION, destination_ip=asked.target.packed)
        return seen
    else:
        message = icmpv6.decode(packet.payload, packet.source, packet.destination)
        ping = isinstance(message, EchoRequest)
    return seen._replace(kind=Kind.ICMP_ECHO_REQUEST if ping else Kind.OTHER)


def expected_inside(packet: Packet | ipv6.Packet, seen: Glance) -> Glance:
    ends = (packet.source, packet.destination)
    own = Protocol.ICMP if isinstance(packet, Packet) else ipv6.Protocol.ICMPV6
    match packet.protocol:
        case Protocol.TCP:
            part = tcp.decode(packet.payload, *ends, verify=False)
            deciding = part.flags & (Flags.SYN | Flags.ACK | Flags.RST | Flags.FIN)
            kind = Kind.TCP_SYN if deciding == Flags.SYN else Kind.TCP_OTHER
            ports = (part.source_port, part.destination_port)
            return Glance(kind, *seen[1:5], *ports, int(part.flags))
        case Protocol.UDP:
            datagram = udp.decode(packet.payload, *ends, verify=False)
            return Glance(Kind.UDP, *seen[1:5], datagram.source_port, datagram.destination_port, 0)
        case protocol if protocol == own:
            return expected_icmp(packet, seen)
        case _:
            return seen


@pytest.mark.parametrize("frame", WHOLE)
def test_agrees_with_the_codecs(frame: bytes) -> None:
    assert glance(frame) == glance(memoryview(frame)) == expected(frame)
    assert glance(frame + bytes(18)) == expected(frame)


@given(damaged(st.sampled_from(WHOLE)).map(mended))
def test_what_the_codecs_decode_is_seen_and_seen_the_same(frame: bytes) -> None:
    seen = glance(frame)
    with suppress(WireError):
        assert seen == expected(frame)


@given(st.binary(max_size=80), st.sampled_from(["0800", "0806", "86dd"]))
def test_any_bytes_may_come(data: bytes, ethertype: str) -> None:
    glance(data)
    glance(bytes(12) + bytes.fromhex(ethertype) + data)


@given(bytes8)
def test_which_segment_is_a_syn(flags: int) -> None:
    frame = packed(Protocol.TCP, segment(flags))
    seen = glance(frame)
    assert seen == expected(frame)
    syn = flags & 0x17 == 0x02
    assert seen is not None
    assert seen.kind is (Kind.TCP_SYN if syn else Kind.TCP_OTHER)
    assert seen.flags == flags


@given(bytes8)
def test_which_segment_over_ipv6_is_a_syn(flags: int) -> None:
    seen = glance(packed6(Protocol.TCP, segment6(flags)))
    four = glance(packed(Protocol.TCP, segment(flags)))
    assert four is not None
    assert seen == four._replace(source_ip=CLIENT6.packed, destination_ip=SERVER6.packed)


def test_who_has_an_ipv6_address() -> None:
    """The target is told, not the group in which it is asked for."""
    ends = (CLIENT_MAC, SERVER_MAC)
    assert glance(WHOLE6[0]) == Glance(Kind.ND_SOLICITATION, *ends, CLIENT6.packed, SERVER6.packed)
    assert glance(WHOLE6[1]) == Glance(Kind.ND_SOLICITATION, *ends, bytes(16), SERVER6.packed)


@pytest.mark.parametrize(
    ("protocol", "payload", "kind"),
    [
        (58, PING6, Kind.ICMP_ECHO_REQUEST),
        (58, PONG6, Kind.OTHER),
        (58, b"\x80\1" + PING6[2:], Kind.OTHER),
        (58, PING, Kind.OTHER),
        (Protocol.ICMP, PING, Kind.OTHER),
        (Protocol.ICMP, PING6, Kind.OTHER),
        (Protocol.UDP, DATAGRAM6, Kind.UDP),
        (254, b"", Kind.OTHER),
    ],
)
@pytest.mark.parametrize("extensions", [(), (HOPS,), (HOPS, WHOLE_FRAGMENT)])
def test_kinds_over_ipv6(
    protocol: int, payload: bytes, kind: Kind, extensions: tuple[ipv6.Extension, ...]
) -> None:
    seen = glance(packed6(protocol, payload, *extensions))
    assert seen is not None
    assert (seen.kind, seen.source_ip, seen.destination_ip) == (
        kind,
        CLIENT6.packed,
        SERVER6.packed,
    )


def test_a_syn_in_full() -> None:
    assert glance(packed(Protocol.TCP, segment(Flags.SYN))) == Glance(
        kind=Kind.TCP_SYN,
        source=CLIENT_MAC,
        destination=SERVER_MAC,
        source_ip=CLIENT.packed,
        destination_ip=SERVER.packed,
        source_port=40000,
        destination_port=80,
        flags=Flags.SYN,
    )


@pytest.mark.parametrize("frame", [frame for frame in WHOLE if frame[12:14] != b"\x88\xb5"])
def test_cut_frames_are_malformed(frame: bytes) -> None:
    for length in range(len(frame)):
        assert glance(frame[:length]) is None


@pytest.mark.parametrize(
    ("protocol", "payload"),
    [
        (Protocol.TCP, segment(Flags.SYN)[:19]),
        (Protocol.TCP, segment(Flags.SYN)[:12] + b"\x40" + bytes(7)),
        (Protocol.TCP, segment(Flags.SYN)[:12] + b"\x60" + bytes(7)),
        (Protocol.UDP, DATAGRAM[:7]),
        (Protocol.UDP, DATAGRAM[:-1]),
        (Protocol.UDP, DATAGRAM[:4] + b"\0\7" + DATAGRAM[6:]),
        (Protocol.ICMP, PING[:7]),
    ],
)
def test_lengths_inside_the_packet(protocol: Protocol, payload: bytes) -> None:
    """Padding after the packet does not make up for what it lacks."""
    assert glance(packed(protocol, payload) + bytes(60)) is None


@pytest.mark.parametrize(
    ("protocol", "payload"),
    [
        (Protocol.TCP, segment6(Flags.SYN)[:19]),
        (Protocol.UDP, DATAGRAM6[:-1]),
        (58, PING6[:7]),
        (58, QUESTION6.payload[:23]),
    ],
)
@pytest.mark.parametrize("extensions", [(), (HOPS, WHOLE_FRAGMENT)])
def test_lengths_inside_an_ipv6_packet(
    protocol: int, payload: bytes, extensions: tuple[ipv6.Extension, ...]
) -> None:
    assert glance(packed6(protocol, payload, *extensions) + bytes(60)) is None


@pytest.mark.parametrize("part", FRAGMENTS)
def test_ipv6_fragments_are_other(part: ipv6.Extension) -> None:
    seen = glance(packed6(Protocol.TCP, segment6(Flags.SYN), HOPS, part))
    assert seen == Glance(Kind.OTHER, CLIENT_MAC, SERVER_MAC, CLIENT6.packed, SERVER6.packed)


@pytest.mark.parametrize(("at", "value"), [(14, 0x40), (18, 0xFF), (20, 43)])
def test_headers_of_an_ipv6_packet(at: int, value: int) -> None:
    """Version, length, and a kind of header that then is not there."""
    frame = bytearray(packed6(Protocol.TCP, segment6(Flags.SYN)))
    frame[at] = value
    assert glance(bytes(frame)) is None


@pytest.mark.parametrize(
    ("at", "value"), [(14, 0x65), (14, 0x44), (14, 0x4F), (16, 0xFF), (17, 19), (17, 39)]
)
def test_lengths_of_the_packet(at: int, value: int) -> None:
    frame = bytearray(packed(Protocol.TCP, segment(Flags.SYN)))
    frame[at] = value
    assert glance(bytes(frame)) is None


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP, Protocol.ICMP])
@pytest.mark.parametrize(("more", "offset"), [(True, 0), (False, 8), (True, 8)])
def test_fragments_are_other(protocol: Protocol, more: bool, offset: int) -> None:
    packet = Packet(CLIENT, SERVER, protocol, b"")
    fragment = replace(packet, more_fragments=more, fragment_offset=offset)
    seen = glance(framed(EtherType.IPV4, ipv4.encode(fragment)))
    assert seen == Glance(Kind.OTHER, CLIENT_MAC, SERVER_MAC, CLIENT.packed, SERVER.packed)


def test_foreign_arp_is_other() -> None:
    frame = bytearray(framed(EtherType.ARP, arp.encode(QUESTION)))
    frame[14 + 7] = 9
    seen = glance(bytes(frame))
    assert seen is not None
    assert seen.kind is Kind.OTHER
