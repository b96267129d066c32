"""Rubbish for the guest's network: `python -m unikernel.fuzz_net LIBRARY SEED ROUNDS`.

A program of its own for the reason that fuzz_store has. Checksums are right more often than not,
so that what is behind them is reached.
"""

import sys
from ipaddress import IPv6Address
from pathlib import Path
from random import Random

from unikernel.guest import BOTH, Guest, load
from unikernel.packets import (
    ALL_NODES,
    GUEST_IP,
    GUEST_IP6,
    GUEST_LINK_LOCAL,
    ICMPV6,
    NOBODY,
    PEER_IP,
    PEER_IP6,
    TCP,
    UDP,
    Address,
    Segment,
    arp,
    icmpv6,
    ipv6,
    ping,
    to_guest,
    udp,
)
from unikernel.talk import GET, Peer, World

PEERS: tuple[Address, ...] = (PEER_IP, PEER_IP6)
GROUP = IPv6Address("ff02::1:ff00:10")
EXTENSIONS = (0, 43, 44, 60)


def damaged(random: Random, data: bytes) -> bytes:
    """A few bytes of it, and perhaps its end."""
    mutant = bytearray(data)
    for _ in range(random.randint(0, 3)):
        if mutant:
            mutant[random.randrange(len(mutant))] = random.choice(
                (0, 1, 2, 255, random.randrange(256))
            )
    if random.random() < 0.2:
        del mutant[random.randint(0, len(mutant)) :]
    return bytes(mutant)


def segment(random: Random) -> bytes:
    return Segment(
        "".join(flag for flag in "FSRPA" if random.random() < 0.4),
        random.choice([0, 1, 8192, random.getrandbits(32)]),
        random.getrandbits(32),
        random.choice([b"", GET, random.randbytes(random.randint(0, 1400))]),
        random.choice([0, 1, 1000, 65535]),
        random.choice([b"", random.randbytes(random.randint(0, 40))]),
        random.choice([40000, random.randint(0, 65535)]),
        random.choice([80, 80, 80, 81, 0]),
        peer=random.choice(PEERS),
    ).frame()


def neighbours(random: Random) -> bytes:
    """A message of neighbour discovery, or another of ICMPv6."""
    options = b"".join(
        bytes([random.randint(0, 3), random.choice((0, 1, 1, 1, 2, 255))]) + random.randbytes(6)
        for _ in range(random.randint(0, 3))
    )
    target = random.choice((GUEST_IP6, GUEST_LINK_LOCAL, PEER_IP6, ALL_NODES))
    flags = random.choice((0, 0x20, 0x40, 0x60, 0xE0))
    body = bytes([flags, 0, 0, 0]) + target.packed + options
    return icmpv6(
        random.choice((1, 2, 128, 129, 133, 134, 135, 136, 137, 143, random.randrange(256))),
        damaged(random, body),
        peer=random.choice((PEER_IP6, PEER_IP6, NOBODY)),
        guest=random.choice((GUEST_IP6, GUEST_LINK_LOCAL, GROUP, ALL_NODES)),
    )


def extended(random: Random) -> bytes:
    """A packet with headers before what it carries, some of them cut."""
    protocol = random.choice((TCP, UDP, ICMPV6, 59))
    if protocol == UDP:
        payload = udp(
            random.choice((7, 9)), random.randbytes(random.randint(0, 900)), peer=PEER_IP6
        )[54:]
    else:
        payload = to_guest(protocol, random.randbytes(random.randint(24, 100)), 2, PEER_IP6, None)[
            54:
        ]
    following, headers = protocol, b""
    for _ in range(random.randint(1, 4)):
        size = random.choice((0, 0, 0, 1, 2, 31))
        headers = bytes([following, size]) + bytes(6 + 8 * size) + headers
        following = random.choice(EXTENSIONS)
    return ipv6(following, damaged(random, headers) + payload)


def frame(random: Random) -> bytes:
    good = random.choice((segment, neighbours, extended, neighbours))(random)
    choice = random.random()
    if choice < 0.02:
        return random.randbytes(random.randint(0, 1514))
    if choice < 0.05:
        good = random.choice((arp(1, GUEST_IP), ping(b"x"), udp(7, b"y"), udp(9, b"z" * 1400)))
        return damaged(random, good)
    return (damaged(random, good) if choice < 0.2 else good)[:1514]


def main(library_path: str, seed: int, rounds: int) -> None:
    library = load(Path(library_path))
    random = Random(seed)
    guest = Guest(library, BOTH, seed)
    world = World(guest)
    # These have something out that nobody acknowledges, so they look for their next hop.
    for port, address in enumerate((*PEERS, IPv6Address("2001:db8::1"))):
        Peer(world, 39990 + port, address).open().send("PA", GET)
    for _ in range(rounds):
        world.give(*(frame(random) for _ in range(20)))
        world.advance(random.random())
        world.frames.clear()
    world.advance(600)
    world.frames.clear()
    for address in PEERS:
        peer = Peer(world, 50000, address).open()
        peer.send("PA", GET)
        assert b"200 OK" in peer.read()
    guest.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
