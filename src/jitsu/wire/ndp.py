"""Neighbour discovery over Ethernet (RFC 4861): who has an address, and who says so.

Solicitations and advertisements are what Jitsu says itself; what routers say is for hosts to heed
and for the firewall to stop. Whatever RFC 4861 section 7.1 does not let a host believe does not
decode, and no more does what came with a fragment header (RFC 6980). Options other than link-layer
addresses are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import assert_never

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import icmpv6, ipv6
from jitsu.wire.ipv6 import Packet, Protocol

HOP_LIMIT = 255
"""Of every message: one that a router has passed on has less, so none comes from afar."""

_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOURCE_MAC, _TARGET_MAC = 1, 2
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_BODY_BYTES = 20
"""Flags or nothing, and the target; options follow."""
_SOLICITED_NODE = IPv6Address("ff02::1:ff00:0")


@dataclass(frozen=True, slots=True)
class Solicitation:
    """Asks who has `target`. The asker is at `source_mac`, if it says so."""

    target: IPv6Address
    source_mac: Mac | None = None


@dataclass(frozen=True, slots=True)
class Advertisement:
    """Tells that `target` is at `target_mac`, if it says where.

    `solicited` answers a question of one asker; `override` is to replace what the hearer knew.
    """

    target: IPv6Address
    target_mac: Mac | None = None
    router: bool = False
    solicited: bool = False
    override: bool = False


Message = Solicitation | Advertisement


def solicited_node(address: IPv6Address) -> IPv6Address:
    """Return the group in which who has `address` is asked for it (RFC 4291 section 2.7.1)."""
    return IPv6Address(_SOLICITED_NODE.packed[:-3] + address.packed[-3:])


def decode(packet: Packet) -> Message:
    """Parse what a packet carries, and check all that RFC 4861 section 7.1 demands.

    Raises WireError if it is something else, is damaged, or must not be believed.
    """
    if packet.protocol != Protocol.ICMPV6 or packet.hop_limit != HOP_LIMIT:
        raise WireError(f"protocol {packet.protocol}, hop limit {packet.hop_limit}: no neighbour's")
    if packet.source.is_multicast:
        raise WireError(f"neighbour discovery from a group: {packet.source}")
    if any(extension.kind == Protocol.FRAGMENT for extension in packet.extensions):
        raise WireError("neighbour discovery in fragments")
    content = icmpv6.decode(packet.payload, packet.source, packet.destination)
    if not isinstance(content, icmpv6.Other) or content.code != 0:
        raise WireError("ICMPv6, but no neighbour discovery")
    if len(content.body) < _BODY_BYTES:
        raise WireError(f"neighbour discovery of {len(content.body)} bytes")
    target = IPv6Address(content.body[4:_BODY_BYTES])
    if target.is_multicast:
        raise WireError(f"neighbour discovery of a group: {target}")
    macs = dict(_macs(content.body[_BODY_BYTES:]))
    if content.type == _SOLICITATION:
        return _solicitation(packet, target, macs.get(_SOURCE_MAC))
    if content.type == _ADVERTISEMENT:
        return _advertisement(packet, target, macs.get(_TARGET_MAC), content.body[0])
    raise WireError(f"ICMPv6 type {content.type}: no neighbour discovery")


def encode(message: Message, source: IPv6Address, destination: IPv6Address) -> Packet:
    """Return the packet that says `message`."""
    match message:
        case Solicitation(target, mac):
            kind, flags, option = _SOLICITATION, 0, _SOURCE_MAC
        case Advertisement(target, mac, router, solicited, override):
            kind, option = _ADVERTISEMENT, _TARGET_MAC
            flags = _ROUTER * router | _SOLICITED * solicited | _OVERRIDE * override
        case _:
            assert_never(message)
    assert mac is None or len(mac) == 6, "a MAC address has six bytes"
    body = bytes([flags, 0, 0, 0]) + target.packed + (bytes([option, 1]) + mac if mac else b"")
    payload = icmpv6.encode(icmpv6.Other(kind, 0, body), source, destination)
    return Packet(source, destination, Protocol.ICMPV6, payload, HOP_LIMIT)


def question(target: IPv6Address, source: IPv6Address, mac: Mac) -> Packet:
    """Ask who has `target`, in a frame to `ipv6.multicast_mac` of the packet's destination.

    From the unspecified address it asks whether anybody has (RFC 4862 section 5.4.2).
    """
    asker = None if source.is_unspecified else mac
    return encode(Solicitation(target, asker), source, solicited_node(target))


def answer(asked: Solicitation, asker: IPv6Address, mac: Mac) -> Packet:
    """Tell who asked from `asker` that the target is at `mac` (RFC 4861 section 7.2.4).

    One that has no address yet cannot be told alone: the answer is for all nodes.
    """
    alone = not asker.is_unspecified
    told = Advertisement(asked.target, mac, solicited=alone, override=True)
    return encode(told, asked.target, asker if alone else ipv6.ALL_NODES)


def announcement(mac: Mac, address: IPv6Address) -> Packet:
    """Tell all nodes, unasked, that `address` is at `mac` (RFC 4861 section 7.2.6)."""
    return encode(Advertisement(address, mac, override=True), address, ipv6.ALL_NODES)


def _solicitation(packet: Packet, target: IPv6Address, mac: Mac | None) -> Solicitation:
    """Judge a question. Raises WireError."""
    grouped = packet.destination.packed[:13] == _SOLICITED_NODE.packed[:13]
    if packet.source.is_unspecified and (mac is not None or not grouped):
        raise WireError("a question from no address that says where it is, or is for one alone")
    return Solicitation(target, mac)


def _advertisement(
    packet: Packet, target: IPv6Address, mac: Mac | None, flags: int
) -> Advertisement:
    """Judge an answer. Raises WireError."""
    if packet.destination.is_multicast and flags & _SOLICITED:
        raise WireError("an answer to one asker that is told to many")
    bits = (bool(flags & bit) for bit in (_ROUTER, _SOLICITED, _OVERRIDE))
    return Advertisement(target, mac, *bits)


def _macs(options: bytes) -> Iterator[tuple[int, Mac]]:
    """Yield kind and address of each option that has one. Raises WireError."""
    while options:
        length = options[1] * 8 if len(options) > 1 else 0
        if not 0 < length <= len(options):
            raise WireError(f"an option of {length} bytes, received {len(options)}")
        if options[0] in (_SOURCE_MAC, _TARGET_MAC):
            if length != 8:
                raise WireError(f"a link-layer address of {length - 2} bytes")
            yield options[0], Mac(options[2:8])
        options = options[length:]
