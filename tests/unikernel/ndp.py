"""Messages of neighbour discovery, to the guest and from it."""

from ipaddress import IPv6Address

from unikernel.packets import (
    GUEST_IP6,
    GUEST_MAC,
    ICMPV6,
    NOBODY,
    PEER_IP6,
    PEER_MAC,
    ends_of,
    icmpv6,
    payload_of,
)

NEW_MAC = bytes.fromhex("020000000099")
SOLICITATION, ADVERTISEMENT = 135, 136
SOLICITED, OVERRIDE = 0x40000000, 0x20000000


def group_of(address: IPv6Address) -> IPv6Address:
    """The solicited-node group."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def mac_option(kind: int, mac: bytes = PEER_MAC) -> bytes:
    return bytes([kind, 1]) + mac


def solicitation(
    target: IPv6Address,
    *,
    peer: IPv6Address = PEER_IP6,
    to: IPv6Address | None = None,
    options: bytes | None = None,
) -> bytes:
    if options is None:
        options = b"" if peer == NOBODY else mac_option(1)
    rest = bytes(4) + target.packed + options
    return icmpv6(SOLICITATION, rest, peer=peer, guest=to or group_of(target))


def advertisement(
    target: IPv6Address,
    *,
    flags: int = SOLICITED | OVERRIDE,
    to: IPv6Address = GUEST_IP6,
    options: bytes | None = None,
) -> bytes:
    rest = flags.to_bytes(4) + target.packed
    rest += mac_option(2, NEW_MAC) if options is None else options
    return icmpv6(ADVERTISEMENT, rest, peer=target, guest=to)


def assert_advertises(frame: bytes, address: IPv6Address, flags: int, to: IPv6Address) -> None:
    body = payload_of(frame, ICMPV6)
    assert body is not None
    assert frame[21] == 255
    assert ends_of(frame) == (address, to)
    assert body[:2] == bytes([ADVERTISEMENT, 0])
    assert body[4:] == flags.to_bytes(4) + address.packed + b"\2\1" + GUEST_MAC
