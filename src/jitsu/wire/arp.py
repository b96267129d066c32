"""ARP for IPv4 over Ethernet (RFC 826), and what RFC 5227 says about announcements."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire.ethernet import UNKNOWN

PACKET_BYTES = 28

_PACKET = struct.Struct("!8s6s4s6s4s")
_FORMAT = struct.Struct("!HHBBH")
_ETHERNET_IPV4 = (1, 0x0800, 6, 4)
"""Hardware and protocol, and the bytes of an address of each."""


class Operation(IntEnum):
    """What a packet wants. RARP and its kin are not spoken."""

    REQUEST = 1
    REPLY = 2


@dataclass(frozen=True, slots=True)
class Arp:
    """One packet: the sender says who it is and asks, or tells, the target."""

    operation: Operation
    sender_mac: Mac
    sender_ip: IPv4Address
    target_mac: Mac
    target_ip: IPv4Address


def decode(data: bytes | memoryview) -> Arp:
    """Parse a packet, and ignore what follows it: Ethernet pads it.

    Raises WireError if it is too short, not for IPv4 over Ethernet, or neither request nor reply.
    """
    if len(data) < PACKET_BYTES:
        raise WireError(f"ARP packet of {len(data)} bytes")
    fixed, sender_mac, sender_ip, target_mac, target_ip = _PACKET.unpack_from(data)
    *addresses, operation = _FORMAT.unpack(fixed)
    if tuple(addresses) != _ETHERNET_IPV4:
        raise WireError(f"ARP for other addresses than IPv4 over Ethernet: {addresses}")
    if operation not in (Operation.REQUEST, Operation.REPLY):
        raise WireError(f"ARP operation {operation}")
    return Arp(
        operation=Operation(operation),
        sender_mac=Mac(sender_mac),
        sender_ip=IPv4Address(sender_ip),
        target_mac=Mac(target_mac),
        target_ip=IPv4Address(target_ip),
    )


def encode(arp: Arp) -> bytes:
    """Render a packet in 28 bytes."""
    assert len(arp.sender_mac) == len(arp.target_mac) == 6, "a MAC address has six bytes"
    return _PACKET.pack(
        _FORMAT.pack(*_ETHERNET_IPV4, arp.operation),
        arp.sender_mac,
        arp.sender_ip.packed,
        arp.target_mac,
        arp.target_ip.packed,
    )


def reply_to(request: Arp, mac: Mac) -> Arp:
    """Tell who sent `request` that the address it asks for is at `mac`."""
    assert request.operation is Operation.REQUEST, "only a request is answered"
    return Arp(Operation.REPLY, mac, request.target_ip, request.sender_mac, request.sender_ip)


def announcement(mac: Mac, ip: IPv4Address) -> Arp:
    """Tell all, in a frame to be broadcast, that `ip` is at `mac` (RFC 5227 section 2.3).

    It is a request for one's own address: of its two forms the one that hosts heed best.
    """
    return Arp(Operation.REQUEST, mac, ip, UNKNOWN, ip)
