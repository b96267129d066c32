"""Rubbish for the guest's store: `python -m unikernel.fuzz_store LIBRARY SEED ROUNDS`.

A program of its own, since a library with sanitizers wants theirs loaded before all else. It ends
with an assertion, or by the sanitizer's hand, if the guest does not bear with it.
"""

import sys
from pathlib import Path
from random import Random

from jitsu.wire.storelink import Segment, encode
from unikernel.guest import Guest, load
from unikernel.packets import GUEST_MAC
from unikernel.storehost import HostEnd, Type, frame_to_guest, is_link_frame, message
from unikernel.storeworld import Asker, Kind, StoreWorld

MS = 1_000_000


class Rubbish:
    """Frames that are nearly right, given what the guest has said so far."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.session = 1
        self.received = self.sent = self.request = 0
        self.stream = b""

    def hear(self, frames: list[bytes]) -> None:
        for frame in filter(is_link_frame, frames):
            session = int.from_bytes(frame[18:22])
            if session != self.session:
                self.session, self.received, self.sent, self.stream = session, 0, 0, b""
            if frame[16:18] != b"\0\0":
                self.received = int.from_bytes(frame[22:26]) + 1
                self.request = int.from_bytes(frame[34:38], "little")
            self.sent = int.from_bytes(frame[26:30])

    def word(self) -> int:
        choices = (0, 1, self.random.getrandbits(32), 2**32 - 1, 4096, 4097)
        return self.random.choice(choices)

    def message(self) -> bytes:
        random = self.random
        kind = random.choice([*Type, Type.ERROR, Type.ERROR, Type.WATCH_EVENT, self.word()])
        near = self.request + random.randint(-8, 8)
        request = random.choice((near, self.request, self.word())) % 2**32
        text = random.choice((b"", b"\0", b"a\0b\0", b"a\0b", b"ENOENT\0", bytes(4096)))
        payload = random.choice((text, random.randbytes(random.randint(0, 5000))))
        whole = message(kind, request, payload[:4096])
        if random.random() < 0.005:
            whole = whole[:12] + self.word().to_bytes(4, "little") + whole[16:]
        return whole

    def segment(self) -> Segment:
        random = self.random
        while not self.stream or random.random() < 0.3:
            self.stream += self.message()
        size = random.randint(0, 1400)
        data, rest = self.stream[:size], self.stream[size:]
        sequence = self.sent
        if random.random() < 0.9:
            self.stream = rest
            self.sent += size > 0
        else:
            sequence = (sequence + random.randint(-2, 2)) % 2**32
        return Segment(
            session=self.session or 1,
            sequence=sequence,
            acknowledged=random.choice((self.received, self.received, self.word())),
            data=data,
            open=random.random() < 0.05,
            reset=random.random() < 0.003,
        )

    def frame(self) -> bytes:
        random = self.random
        payload = bytearray(encode(self.segment()))
        if random.random() < 0.05:
            for _ in range(random.randint(1, 4)):
                payload[random.randrange(min(len(payload), 40))] = random.getrandbits(8)
        if random.random() < 0.03:
            del payload[random.randint(0, len(payload)) :]
        if random.random() < 0.03:
            payload += bytes(random.randint(0, 84))
        if random.random() < 0.05:
            return GUEST_MAC + random.randbytes(6) + b"\x88\xb5" + random.randbytes(60)
        return frame_to_guest(bytes(payload[:1500]))


def fuzz(guest: Guest, random: Random, rounds: int) -> int:
    """Give it rubbish, then RESET; the time when that is over. It may give up by itself."""
    rubbish, now = Rubbish(random), 0
    rubbish.hear(guest.run(0))
    for tag in range(rounds):
        if isinstance(guest, Asker) and random.random() < 0.5:
            kind = random.choice((Type.READ, Type.WRITE, Type.WATCH))
            guest.ask(tag % 256, kind, b"a\0b\0" + random.randbytes(random.randint(0, 3000)))
        if guest.status is not None:
            return now
        for _ in range(random.randint(1, 3)):
            guest.give(rubbish.frame())
        now += random.choice((0, MS, 11 * MS, 700 * MS))
        rubbish.hear(guest.run(now))
        if isinstance(guest, Asker):
            guest.events()
    if rubbish.session:
        guest.give(frame_to_guest(encode(Segment(rubbish.session, reset=True))))
        guest.run(now)
    return now


def main(library_path: str, seed: int, rounds: int) -> None:
    library = load(Path(library_path))
    for number in range(seed, seed + 20):
        random = Random(number)
        asker = Asker(library, number)
        world = StoreWorld(asker, HostEnd({"mine": b"value"}))
        world.now = fuzz(asker, random, rounds)
        assert asker.rubbish > 0
        world.run()  # what waits for the pause after a reset
        assert asker.ask(1, Type.READ, b"mine\0")
        world.run()
        assert (Kind.DONE, 1, b"value") in asker.events()
        asker.close()
        for cmdline in ("store", "ip=10.77.0.10:::255.255.255.0 store"):
            guest = Guest(library, cmdline, number)
            fuzz(guest, random, rounds)
            guest.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
