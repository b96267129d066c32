"""How soon a service that sleeps answers, by the way that its clients are handed over.

All modes take their turns in one run, each round after a bare guest's start: the floor. Of each
cold start the client's network card says when the first byte came, and curl when it was connected.
Every body is compared with that of the first; a SYN that was sent again, a RST, or another body is
counted, and is a fault.
"""

import hashlib
import statistics
from dataclasses import dataclass, field

from jitsu.bench.demo import Demo, Offer, Request, demo

ROUNDS, ROUNDS_QUICK = 200, 20
CONNECT_WANTED = 1.5
"""Milliseconds, where the handshake is not the guest's."""
FIRST_BYTE_WANTED = 2.0
"""Milliseconds beyond the floor."""


@dataclass(slots=True)
class _Mode:
    """One way of handing over, and what was seen of it."""

    what: str
    offer: Offer
    answers_at_once: bool
    connect: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    retransmits: int = 0
    resets: int = 0
    bodies: set[str] = field(default_factory=set)

    def note(self, request: Request) -> None:
        self.connect.append(request.connect)
        self.first_byte.append(request.milliseconds)
        self.retransmits += request.seen.syn_retransmits
        self.resets += request.seen.resets
        self.bodies.add(hashlib.sha256(request.body).hexdigest())

    def rows(self, floor: list[float]) -> list[dict[str, object]]:
        connect = _row(f"{self.what}: connect", self.connect)
        if self.answers_at_once:
            connect["wanted"] = CONNECT_WANTED
        first = _row(f"{self.what}: query to first byte", self.first_byte)
        beyond = statistics.median(f - g for f, g in zip(self.first_byte, floor, strict=True))
        first |= {
            "floor": round(statistics.median(floor), 3),
            "beyond": round(beyond, 3),
            "wanted": FIRST_BYTE_WANTED,
            "syn_retransmits": self.retransmits,
            "resets": self.resets,
            "bodies": len(self.bodies),
        }
        return [connect, first]


def run(quick: bool) -> list[dict[str, object]]:
    """Return two rows for each mode. Raises HostError when a request is not answered."""
    modes = [
        _Mode("import, qemu", Offer("import", "10.77.0.20"), answers_at_once=True),
        _Mode("splice, qemu", Offer("splice", "10.77.0.22", 'handoff = "splice"'), True),
        _Mode("replay, qemu", Offer("replay", "10.77.0.21", 'handoff = "replay"'), False),
    ]
    floor: list[float] = []
    with demo([mode.offer for mode in modes]) as world:
        for number in range(ROUNDS_QUICK if quick else ROUNDS):
            floor.append(world.floor())
            for mode in modes[number % 2 :] + modes[: number % 2]:
                mode.note(_cold(world, mode.offer))
    return [row for mode in modes for row in mode.rows(floor)]


def _cold(world: Demo, offer: Offer) -> Request:
    request = world.cold(offer.name, offer.address)
    world.stop(offer.name)
    return request


def _row(what: str, values: list[float]) -> dict[str, object]:
    p99 = statistics.quantiles(values, n=100)[98]
    median = round(statistics.median(values), 3)
    return {"what": what, "n": len(values), "median": median, "p99": round(p99, 3), "unit": "ms"}
