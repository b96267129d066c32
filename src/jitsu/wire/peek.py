"""A first look at a frame: what Synjitsu needs to decide about it, at the least cost.

A flood of SYNs is met here: one pass over the headers, no addresses made, no checksum summed. What
is worth more is decoded again, whole and verified, by the other modules. Hence the contract: a
frame that they decode is never None here, and says the same.
"""

import struct
from enum import Enum, auto
from typing import NamedTuple

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import ipv6


class Kind(Enum):
    """What a frame is, as far as it matters to who answers for a sleeping service."""

    ARP_REQUEST = auto()
    ND_SOLICITATION = auto()
    """Asks the same over IPv6 (RFC 4861)."""
    TCP_SYN = auto()
    """Opens a connection: SYN without ACK, RST or FIN."""
    TCP_OTHER = auto()
    UDP = auto()
    ICMP_ECHO_REQUEST = auto()
    """Of either family."""
    OTHER = auto()
    """Well-formed as far as was looked, and none of the above: all fragments, for one."""


class Glance(NamedTuple):
    """What was seen.

    Addresses are in network order, four bytes or sixteen. Those of ARP are its sender's and its
    target's; the destination of a solicitation is what it asks for, and its source is unspecified
    where somebody asks whether that is free. They are empty in an OTHER of neither family. Ports
    are 0 but for TCP and UDP, `flags` (see `tcp.Flags`) but for TCP.
    """

    kind: Kind
    source: Mac
    destination: Mac
    source_ip: bytes = b""
    destination_ip: bytes = b""
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0


# Looking up a member of an enumeration costs as much as unpacking a header: once is enough.
_ARP_REQUEST, _OTHER, _UDP, _ICMP = Kind.ARP_REQUEST, Kind.OTHER, Kind.UDP, Kind.ICMP_ECHO_REQUEST
_TCP_SYN, _TCP_OTHER, _ND_SOLICITATION = Kind.TCP_SYN, Kind.TCP_OTHER, Kind.ND_SOLICITATION

_ETHERNET_BYTES, _ARP_BYTES, _IPV4_BYTES = 14, 28, 20
_TCP_BYTES, _UDP_BYTES, _ICMP_BYTES = 20, 8, 8
_ETHERNET_IPV4_BYTES = _ETHERNET_BYTES + _IPV4_BYTES
_ETHERNET_IPV6_BYTES, _ND_BYTES = _ETHERNET_BYTES + 40, 24
_IPV4_TYPE, _ARP_TYPE, _IPV6_TYPE = 0x0800, 0x0806, 0x86DD
_TCP_PROTOCOL, _UDP_PROTOCOL, _ICMP_PROTOCOL, _ICMPV6_PROTOCOL = 6, 17, 1, 58
_HEADERLESS = frozenset((_TCP_PROTOCOL, _UDP_PROTOCOL, _ICMPV6_PROTOCOL))
"""What is mostly the first thing in an IPv6 packet, and no extension header."""
_FRAGMENT = 0x3FFF
"""More fragments, or an offset."""
_SYN, _SYN_ACK_RST_FIN = 0x02, 0x17
_ARP_REQUEST_HEAD = bytes.fromhex("0001 0800 06 04 0001")
_ECHO_REQUEST_HEAD = b"\x08\x00"
_ECHO_REQUEST_HEAD6, _ND_SOLICITATION_HEAD = b"\x80\x00", b"\x87\x00"

_unpack_ethernet = struct.Struct("!6s6sH").unpack_from
_unpack_arp = struct.Struct("!8s6x4s6x4s").unpack_from
_unpack_ethernet_ipv4 = struct.Struct("!6s6sH BxH2xHxB2x4s4s").unpack_from
_unpack_ethernet_ipv6 = struct.Struct("!6s6s2x B3xHBx16s16s").unpack_from
_unpack_tcp = struct.Struct("!HH8xBB").unpack_from
_unpack_udp = struct.Struct("!HHH").unpack_from


def glance(frame: bytes | memoryview) -> Glance | None:
    """Look at a raw Ethernet frame; return None if it is cut short or its lengths are at odds."""
    if len(frame) < _ETHERNET_IPV4_BYTES:
        return _not_ipv4(frame)
    destination, source, ethertype, first, total, fragment, protocol, source_ip, destination_ip = (
        _unpack_ethernet_ipv4(frame)
    )
    if ethertype != _IPV4_TYPE:
        return _not_ipv4(frame)
    at = _ETHERNET_BYTES + (first & 0x0F) * 4
    end = _ETHERNET_BYTES + total
    if first >> 4 != 4 or not _ETHERNET_IPV4_BYTES <= at <= end <= len(frame):
        return None
    if fragment & _FRAGMENT:
        return Glance(_OTHER, source, destination, source_ip, destination_ip)
    seen = _tcp(frame, at, end) if protocol == _TCP_PROTOCOL else _not_tcp(frame, at, end, protocol)
    if seen is None:
        return None
    kind, source_port, destination_port, flags = seen
    return Glance(
        kind,
        source,
        destination,
        source_ip,
        destination_ip,
        source_port,
        destination_port,
        flags,
    )


def _tcp(frame: bytes | memoryview, at: int, end: int) -> tuple[Kind, int, int, int] | None:
    """Return kind, ports and flags of the TCP segment from `at` to `end`."""
    if end - at < _TCP_BYTES:
        return None
    source_port, destination_port, words, flags = _unpack_tcp(frame, at)
    if not _TCP_BYTES <= (words >> 4) * 4 <= end - at:
        return None
    kind = _TCP_SYN if flags & _SYN_ACK_RST_FIN == _SYN else _TCP_OTHER
    return kind, source_port, destination_port, flags


def _not_tcp(
    frame: bytes | memoryview, at: int, end: int, protocol: int
) -> tuple[Kind, int, int, int] | None:
    """Return the same of what another protocol put from `at` to `end`."""
    if protocol == _UDP_PROTOCOL:
        if end - at < _UDP_BYTES:
            return None
        source_port, destination_port, length = _unpack_udp(frame, at)
        return (
            (_UDP, source_port, destination_port, 0) if _UDP_BYTES <= length <= end - at else None
        )
    if protocol == _ICMP_PROTOCOL:
        if end - at < _ICMP_BYTES:
            return None
        return (_ICMP if frame[at : at + 2] == _ECHO_REQUEST_HEAD else _OTHER), 0, 0, 0
    return _OTHER, 0, 0, 0


def _not_ipv4(frame: bytes | memoryview) -> Glance | None:
    """Look at a frame without a whole IPv4 header."""
    if len(frame) < _ETHERNET_BYTES:
        return None
    destination, source, ethertype = _unpack_ethernet(frame)
    if ethertype == _IPV6_TYPE:
        return _ipv6(frame)
    if ethertype == _ARP_TYPE and len(frame) >= _ETHERNET_BYTES + _ARP_BYTES:
        head, sender, target = _unpack_arp(frame, _ETHERNET_BYTES)
        kind = _ARP_REQUEST if head == _ARP_REQUEST_HEAD else _OTHER
        return Glance(kind, source, destination, sender, target)
    if ethertype in (_IPV4_TYPE, _ARP_TYPE):
        return None
    return Glance(_OTHER, source, destination)


def _ipv6(frame: bytes | memoryview) -> Glance | None:
    """Look at a frame that says it is IPv6."""
    if len(frame) < _ETHERNET_IPV6_BYTES:
        return None
    destination, source, first, length, protocol, source_ip, target_ip = _unpack_ethernet_ipv6(
        frame
    )
    at, end = _ETHERNET_IPV6_BYTES, _ETHERNET_IPV6_BYTES + length
    if first >> 4 != 6 or end > len(frame):
        return None
    if protocol not in _HEADERLESS:
        try:
            extensions, protocol, payload = ipv6.split(protocol, frame[at:end])
        except WireError:
            return None
        if extensions and extensions[-1].is_fragment:
            return Glance(_OTHER, source, destination, source_ip, target_ip)
        at = end - len(payload)
    if protocol == _ICMPV6_PROTOCOL:
        kind = _icmpv6(frame, at, end)
        if kind is _ND_SOLICITATION:
            target_ip = bytes(frame[at + 8 : at + _ND_BYTES])
        return Glance(kind, source, destination, source_ip, target_ip) if kind else None
    if protocol not in _HEADERLESS:
        return Glance(_OTHER, source, destination, source_ip, target_ip)
    seen = _tcp(frame, at, end) if protocol == _TCP_PROTOCOL else _not_tcp(frame, at, end, protocol)
    if seen is None:
        return None
    kind, source_port, destination_port, flags = seen
    return Glance(
        kind, source, destination, source_ip, target_ip, source_port, destination_port, flags
    )


def _icmpv6(frame: bytes | memoryview, at: int, end: int) -> Kind | None:
    """Return what the ICMPv6 message from `at` to `end` is."""
    head = frame[at : at + 2]
    if head == _ND_SOLICITATION_HEAD:
        return _ND_SOLICITATION if end - at >= _ND_BYTES else None
    if end - at < _ICMP_BYTES:
        return None
    return _ICMP if head == _ECHO_REQUEST_HEAD6 else _OTHER
