"""Both ends of a store link, and between them a wire that does its worst."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from jitsu.core.xenstore.guest_end import GuestEnd
from jitsu.core.xenstore.link import Closed, Effect, Opened, Received, Send, StoreLink


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
        self.guest = GuestEnd(
            draw=lambda: self.random.randrange(1, 2**32), piece=lambda: self.random.randint(1, 1400)
        )
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
                self.carry(True, self.guest.handle(payload, self.now))
        else:
            self.now = max(self.now, due)
            self.perform(self.host.tick(self.now))
            self.carry(True, self.guest.tick(self.now))
        return True

    def run(self, limit: float = 3600) -> None:
        """Until nothing is under way and nobody waits."""
        while self.step():
            assert self.now < limit, "it takes for ever"
