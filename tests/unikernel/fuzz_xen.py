"""Rubbish for the guest's Xen rings: `python -m unikernel.fuzz_xen LIBRARY SEED ROUNDS`.

A program of its own for the same reason as fuzz_store. The store and the backend are honest until
a random instant, and then write what comes to their mind where they may.
"""

import sys
from pathlib import Path
from random import Random

from unikernel.packets import ping
from unikernel.storehost import Type, message
from unikernel.xenworld import DEVICE, HEADER, PAGE, RING, XenGuest, XenWorld, load_xen


class LyingWorld(XenWorld):
    """Now and then it answers what no backend would."""

    random = Random(0)

    def sent_answer(self, identifier: int) -> bytes:
        if self.random.random() < 0.02:
            identifier = self.random.choice((128, 127, self.random.getrandbits(16)))
        return super().sent_answer(identifier)

    def received_answer(self, identifier: int, size: int) -> bytes:
        honest = super().received_answer(identifier, size)
        at = 2 * self.random.randrange(4)
        lie = honest[:at] + self.random.randbytes(2) + honest[at + 2 :]
        return lie if self.random.random() < 0.02 else honest


class Liar:
    """The host's end of the rings; `world` is what it does when it is honest."""

    def __init__(self, world: XenWorld, random: Random) -> None:
        self.world = world
        self.random = random

    def index(self, near: int) -> int:
        random = self.random
        return random.choice((near, near + 1, near - 1, near + 256, 0, random.getrandbits(32)))

    def scribble_on_store(self) -> None:
        random, ring = self.random, self.world.guest.ring
        match random.randrange(4):
            case 0:
                at = 2 * RING + 4 * random.choice((0, 3))
                ring.set_word(at, self.index(ring.word(at)))
            case 1:
                ring.write(RING + random.randrange(RING - 8), random.randbytes(8))
            case _:
                kind = random.choice([*Type, random.getrandbits(32)])
                payload = random.choice((b"", b"4", b"4\0state\0", bytes(random.randrange(4097))))
                request = random.choice((random.randrange(128), random.getrandbits(32)))
                self.world.ring.waiting += message(kind, request, payload)

    def scribble_on_device(self) -> None:
        random, key = self.random, self.random.choice(("rx-ring-ref", "tx-ring-ref"))
        ring = self.world.granted(key)
        match random.randrange(4):
            case 0:
                at = 4 * random.randrange(4)
                ring.set_word(at, self.index(ring.word(at)))
            case 1:
                at = HEADER + random.randrange(PAGE - HEADER - 8)
                ring.write(at, random.randbytes(random.randint(1, 8)))
            case _:
                ring.set_word(8, ring.word(8) + random.randrange(4))

    def value(self) -> None:
        path = self.random.choice(list(DEVICE))
        self.world.store.values[path] = self.random.choice((b"", b"7", self.random.randbytes(200)))

    def round(self) -> None:
        world, random = self.world, self.random
        world.now += random.randrange(20_000_000)
        world.guest.run(world.now)
        try:  # what it has itself forged it cannot read
            world.turn()
            if world.connected and random.random() < 0.5:
                world.give(ping(random.randbytes(random.randrange(1400))))
        except (AssertionError, ValueError, MemoryError, OverflowError):
            world.ring.waiting = b""
        if random.random() < 0.02:
            self.scribble_on_store()
        if world.connected and random.random() < 0.02:
            self.scribble_on_device()


def main(library_path: str, seed: int, rounds: int) -> None:
    library = load_xen(Path(library_path))
    for number in range(seed, seed + 20):
        random = Random(number)
        guest = XenGuest(library, random.choice(("store", "ip=10.77.0.10:::255.255.255.0")), number)
        world = LyingWorld(guest, {"ip": b"10.77.0.10:::255.255.255.0"})
        world.random = random
        liar = Liar(world, random)
        if random.random() < 0.3:
            liar.value()
        for _ in range(random.randrange(20)):
            world.turn()
        for _ in range(rounds):
            liar.round()
        assert guest.status in (None, 0, 1)  # it has not crashed
        guest.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
