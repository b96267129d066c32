"""The guest's end of a store link, in Python, and a link that does its worst."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from jitsu.core.xenstore.link import Closed, Effect, Opened, Received, Send, StoreLink
from jitsu.wire.storelink import Segment, decode, encode

RETRY_FIRST, RETRY_MAX = 0.010, 0.640


class GuestEnd:
    """As simple as can be: it acknowledges at once, and tries for ever."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.received = bytearray()
        self.resets = 0
        self.waiting = bytearray()
        self.begin()

    def begin(self) -> None:
        self.session = self.random.randrange(1, 2**32)
        self.open = True
        self.sequence = self.expected = 0
        self.in_flight = b""
        self.retry_at = float("inf")
        self.interval = RETRY_FIRST

    def segment(self, data: bytes) -> bytes:
        sequence = self.sequence + bool(self.in_flight and not data)
        return encode(Segment(self.session, sequence, self.expected, data, self.open))

    def send(self, data: bytes, now: float) -> list[bytes]:
        self.waiting += data
        return self.flush(now)

    def flush(self, now: float) -> list[bytes]:
        if self.in_flight or not self.waiting:
            return []
        size = self.random.randint(1, 1400)
        self.in_flight = bytes(self.waiting[:size])
        del self.waiting[:size]
        return self.transmit(now)

    def transmit(self, now: float) -> list[bytes]:
        self.retry_at = now + self.interval
        self.interval = min(2 * self.interval, RETRY_MAX)
        return [self.segment(self.in_flight)]

    def tick(self, now: float) -> list[bytes]:
        return self.transmit(now) if now >= self.retry_at else []

    def input(self, payload: bytes, now: float) -> list[bytes]:
        segment = decode(payload)
        if segment.session != self.session:
            return []
        if segment.reset:
            self.resets += 1
            self.begin()
            return []
        self.open = False
        if self.in_flight and segment.acknowledged == self.sequence + 1:
            self.sequence += 1
            self.in_flight = b""
            self.retry_at = float("inf")
            self.interval = RETRY_FIRST
        if segment.data and segment.sequence == self.expected:
            self.expected += 1
            self.received += segment.data
        sent = self.flush(now)
        return sent or ([self.segment(b"")] if segment.data else [])


@dataclass(frozen=True, slots=True)
class Weather:
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: float = 0.0
    """Seconds; more than the pause between two frames reorders them."""
    delay: float = 0.001


class Between:
    """A host's end, a guest's end, the frames between them, and the time."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.random = Random(seed)
        self.weather = weather
        self.host = StoreLink()
        self.guest = GuestEnd(self.random)
        self.now = 0.0
        self.frames: list[tuple[float, int, bool, bytes]] = []
        self.order = itertools.count()
        self.received = bytearray()
        self.opened = 0
        self.closed: list[str] = []
        self.on_data: Callable[[bytes], bytes] = lambda data: b""

    def carry(self, to_host: bool, payloads: list[bytes]) -> None:
        """Send them on their way: never, once, or several times."""
        for payload in payloads:
            again = True
            while again:
                if self.random.random() >= self.weather.loss:
                    late = self.weather.delay + self.random.uniform(0, self.weather.jitter)
                    event = (self.now + late, next(self.order), to_host, payload)
                    heapq.heappush(self.frames, event)
                again = self.random.random() < self.weather.duplicate

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Opened():
                    self.opened += 1
                case Received(data):
                    self.received += data
                    if reply := self.on_data(data):
                        self.host_sends(reply)
                case Send(payload):
                    self.carry(False, [payload])
                case Closed(reason):
                    self.closed.append(reason)

    def host_sends(self, data: bytes) -> None:
        self.perform(self.host.send(data, self.now))

    def guest_sends(self, data: bytes) -> None:
        self.carry(True, self.guest.send(data, self.now))

    def step(self) -> bool:
        """Go to whatever is next; false if nothing ever is."""
        arrives = self.frames[0][0] if self.frames else float("inf")
        deadline = self.host.deadline()
        due = min(float("inf") if deadline is None else deadline, self.guest.retry_at)
        if due == arrives == float("inf"):
            return False
        if arrives < due:
            self.now, _, to_host, payload = heapq.heappop(self.frames)
            if to_host:
                self.perform(self.host.handle(payload, self.now))
            else:
                self.carry(True, self.guest.input(payload, self.now))
        else:
            self.now = max(self.now, due)
            self.perform(self.host.tick(self.now))
            self.carry(True, self.guest.tick(self.now))
        return True

    def run(self, limit: float = 3600) -> None:
        """Until nothing is under way and nobody waits."""
        while self.step():
            assert self.now < limit, "it takes for ever"
