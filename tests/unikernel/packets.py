"""Just enough of ARP, IPv4, IPv6, ICMP, UDP and TCP to talk to the guest."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

GUEST_MAC, PEER_MAC = bytes.fromhex("020000000010"), bytes.fromhex("020000000001")
GUEST_IP, PEER_IP = IPv4Address("10.77.0.10"), IPv4Address("10.77.0.1")
GUEST_IP6, PEER_IP6 = IPv6Address("fd77::10"), IPv6Address("fd77::1")
GUEST_LINK_LOCAL, LINK_LOCAL_PEER = IPv6Address("fe80::ff:fe00:10"), IPv6Address("fe80::77")
OURS = [GUEST_IP6, GUEST_LINK_LOCAL]
NOBODY, ALL_NODES = IPv6Address("::"), IPv6Address("ff02::1")
BROADCAST = b"\xff" * 6
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
FLAGS = "FSRPA"


Address = IPv4Address | IPv6Address


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    protocol: int,
    payload: bytes,
    *,
    source: IPv4Address = PEER_IP,
    target: IPv4Address = GUEST_IP,
    options: bytes = b"",
    fragment: int = 0x4000,
) -> bytes:
    """A whole frame from us to the guest."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        0,
        20 + len(options) + len(payload),
        1,
        fragment,
        64,
        protocol,
        0,
        source.packed,
        target.packed,
    )
    total = checksum(header + options)
    header = header[:10] + struct.pack("!H", total) + header[12:] + options
    return GUEST_MAC + PEER_MAC + IPV4 + header + payload


def ipv6(
    protocol: int,
    payload: bytes,
    *,
    source: IPv6Address = PEER_IP6,
    target: IPv6Address = GUEST_IP6,
    hop_limit: int = 64,
    to: bytes = GUEST_MAC,
) -> bytes:
    """A whole frame from us to the guest."""
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit)
    return to + PEER_MAC + IPV6 + header + source.packed + target.packed + payload


def pseudo(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    return source + target + struct.pack("!HH", protocol, length)


def ends_of(frame: bytes) -> tuple[Address, Address]:
    """Source and target of a frame of the guest, of either family."""
    if frame[12:14] == IPV4:
        return IPv4Address(frame[26:30]), IPv4Address(frame[30:34])
    return IPv6Address(frame[22:38]), IPv6Address(frame[38:54])


def payload_of(frame: bytes, protocol: int) -> bytes | None:
    """What an IP frame of the guest carries, its checksums verified."""
    if frame[12:14] == IPV4 and frame[14 + 9] == protocol:
        assert frame[14] == 0x45
        assert checksum(frame[14:34]) == 0
        payload = frame[34 : 14 + int.from_bytes(frame[16:18])]
    elif frame[12:14] == IPV6 and frame[14 + 6] == protocol:
        assert frame[14:18] == bytes.fromhex("60000000")
        payload = frame[54:]
        assert len(payload) == int.from_bytes(frame[18:20])
    else:
        return None
    head = b""
    if protocol != ICMP:
        source, target = ends_of(frame)
        head = pseudo(source.packed, target.packed, protocol, len(payload))
    assert checksum(head + payload) == 0
    return payload


def to_guest(protocol: int, payload: bytes, at: int, peer: Address, guest: Address | None) -> bytes:
    """A whole frame with the checksum put where it belongs."""
    target = guest or (GUEST_IP if isinstance(peer, IPv4Address) else GUEST_IP6)
    head = pseudo(peer.packed, target.packed, protocol, len(payload)) if protocol != ICMP else b""
    total = checksum(head + payload)
    payload = payload[:at] + struct.pack("!H", total) + payload[at + 2 :]
    if isinstance(peer, IPv4Address):
        assert isinstance(target, IPv4Address)
        return ipv4(protocol, payload, source=peer, target=target)
    assert isinstance(target, IPv6Address)
    hop_limit = 255 if protocol == ICMPV6 else 64
    group = target.packed[0] == 0xFF
    mac = b"\x33\x33" + target.packed[12:] if group else GUEST_MAC
    return ipv6(protocol, payload, source=peer, target=target, hop_limit=hop_limit, to=mac)


def arp(
    operation: int,
    target: IPv4Address,
    *,
    source: IPv4Address = PEER_IP,
    mac: bytes = PEER_MAC,
    to: bytes = BROADCAST,
) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body += mac + source.packed + bytes(6) + target.packed
    return (to + mac + b"\x08\x06" + body).ljust(60, b"\0")


def udp(
    port: int,
    data: bytes,
    source_port: int = 5000,
    *,
    peer: Address = PEER_IP,
    guest: Address | None = None,
) -> bytes:
    header = struct.pack("!HHHH", source_port, port, 8 + len(data), 0)
    return to_guest(UDP, header + data, 6, peer, guest)


def ping(data: bytes) -> bytes:
    return to_guest(ICMP, struct.pack("!BBHHH", 8, 0, 0, 7, 1) + data, 2, PEER_IP, None)


def icmpv6(
    kind: int, rest: bytes, *, peer: IPv6Address = PEER_IP6, guest: IPv6Address = GUEST_IP6
) -> bytes:
    """A message with everything behind its checksum."""
    return to_guest(ICMPV6, struct.pack("!BBH", kind, 0, 0) + rest, 2, peer, guest)


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment; flags are letters of FSRPA in that order."""

    flags: str
    seq: int = 0
    ack: int = 0
    data: bytes = b""
    window: int = 65535
    options: bytes = b""
    port: int = 40000  # the peer's
    service: int = 80
    peer: Address = PEER_IP
    guest: Address | None = None  # None: its address of the peer's family

    @property
    def length(self) -> int:
        """In sequence numbers."""
        return len(self.data) + ("S" in self.flags) + ("F" in self.flags)

    def frame(self) -> bytes:
        bits = sum(1 << FLAGS.index(flag) for flag in self.flags if flag != "A")
        bits |= 16 * ("A" in self.flags)
        options = self.options.ljust(-(-len(self.options) // 4) * 4, b"\0")
        header = struct.pack(
            "!HHIIBBHHH",
            self.port,
            self.service,
            self.seq % 2**32,
            self.ack % 2**32,
            (5 + len(options) // 4) << 4,
            bits,
            self.window,
            0,
            0,
        )
        return to_guest(TCP, header + options + self.data, 16, self.peer, self.guest)

    @classmethod
    def parse(cls, frame: bytes) -> "Segment | None":
        """A segment of the guest, its checksum verified; None if it is something else."""
        tcp = payload_of(frame, TCP)
        if tcp is None:
            return None
        service, port, seq, ack, offset, bits, window = struct.unpack_from("!HHIIBBH", tcp)
        header = (offset >> 4) * 4
        letters = "".join(
            flag for flag, bit in zip(FLAGS, (1, 2, 4, 8, 16), strict=True) if bits & bit
        )
        return cls(
            flags=letters,
            seq=seq,
            ack=ack,
            data=tcp[header:],
            window=window,
            options=tcp[20:header],
            port=port,
            service=service,
            peer=ends_of(frame)[1],
        )
