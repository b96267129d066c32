"""Just enough of ARP, IPv4, ICMP, UDP and TCP to talk to the guest."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

GUEST_MAC, PEER_MAC = bytes.fromhex("020000000010"), bytes.fromhex("020000000001")
GUEST_IP, PEER_IP = IPv4Address("10.77.0.10"), IPv4Address("10.77.0.1")
BROADCAST = b"\xff" * 6
ICMP, TCP, UDP = 1, 6, 17
FLAGS = "FSRPA"


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
    return GUEST_MAC + PEER_MAC + b"\x08\x00" + header + payload


def pseudo(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    return source + target + struct.pack("!HH", protocol, length)


def payload_of(frame: bytes, protocol: int) -> bytes | None:
    """What an IPv4 frame of the guest carries, its checksum verified."""
    if frame[12:14] != b"\x08\x00" or frame[14 + 9] != protocol:
        return None
    assert frame[14] == 0x45
    assert checksum(frame[14:34]) == 0
    return frame[34 : 14 + int.from_bytes(frame[16:18])]


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


def udp(port: int, data: bytes, source_port: int = 5000) -> bytes:
    header = struct.pack("!HHHH", source_port, port, 8 + len(data), 0)
    total = checksum(pseudo(PEER_IP.packed, GUEST_IP.packed, UDP, 8 + len(data)) + header + data)
    return ipv4(UDP, header[:6] + struct.pack("!H", total) + data)


def ping(data: bytes) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + data
    return ipv4(ICMP, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


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
    peer: IPv4Address = PEER_IP

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
        rest = options + self.data
        length = len(header) + len(rest)
        total = checksum(pseudo(self.peer.packed, GUEST_IP.packed, TCP, length) + header + rest)
        header = header[:16] + struct.pack("!H", total) + header[18:]
        return ipv4(TCP, header + rest, source=self.peer)

    @classmethod
    def parse(cls, frame: bytes) -> "Segment | None":
        """A segment of the guest, its checksum verified; None if it is something else."""
        tcp = payload_of(frame, TCP)
        if tcp is None:
            return None
        assert checksum(pseudo(frame[26:30], frame[30:34], TCP, len(tcp)) + tcp) == 0
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
            peer=IPv4Address(frame[30:34]),
        )
