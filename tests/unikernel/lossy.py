"""A link that loses, repeats, delays and reorders, and clients that bear with it."""

import heapq
import itertools
from dataclasses import dataclass
from random import Random

from unikernel.guest import SECOND, Guest
from unikernel.packets import PEER_IP, Address, Segment

MS = SECOND // 1000
RTO = 300 * MS
WINDOW = 30000
MSS_1460 = bytes.fromhex("020405b4")


@dataclass(frozen=True, slots=True)
class Weather:
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: int = 0  # ns; more than the pause between two frames reorders them
    delay: int = MS


class Client:
    """A small TCP client: sends a request, takes the answer, closes when it may.

    It resends all it has outstanding when nothing new was acknowledged in time.
    """

    def __init__(
        self, port: int, request: bytes, *, close_after: int, address: Address = PEER_IP
    ) -> None:
        self.port = port
        self.address = address
        self.size = 1460 if address.version == 4 else 1440  # of a segment
        self.request = request
        self.close_after = close_after  # bytes of answer after which we send FIN
        self.iss = self.una = 1000 * port % 2**32
        self.rcv: int | None = None
        self.early: dict[int, bytes] = {}
        self.fin_at: int | None = None
        self.received = bytearray()
        self.finished = False  # the peer's FIN came in order
        self.reset = False
        self.timer = 0

    @property
    def closing(self) -> bool:
        return len(self.received) >= self.close_after or self.finished

    @property
    def done(self) -> bool:
        """All was said, heard and acknowledged on both sides."""
        return self.reset or (self.finished and self.una == self.end and self.closing)

    @property
    def end(self) -> int:
        return (self.iss + 1 + len(self.request) + self.closing) % 2**32

    def segment(self, flags: str, seq: int, data: bytes = b"", options: bytes = b"") -> Segment:
        return Segment(
            flags, seq, self.rcv or 0, data, WINDOW, options, self.port, peer=self.address
        )

    def outstanding(self) -> list[Segment]:
        """Everything from the first byte that is not acknowledged."""
        if self.rcv is None:
            return [self.segment("S", self.iss, options=MSS_1460)]
        segments = []
        offset = (self.una - self.iss - 1) % 2**32
        for start in range(offset, len(self.request), self.size):
            data = self.request[start : min(start + self.size, offset + 7000)]
            if data:
                segments.append(self.segment("PA", self.iss + 1 + start, data))
        if self.closing and self.una != self.end:
            segments.append(self.segment("FA", self.end - 1))
        return segments

    def input(self, segment: Segment) -> list[Segment]:
        if "R" in segment.flags:
            self.reset = True
            return []
        if "S" in segment.flags and self.rcv is None:
            self.rcv = (segment.seq + 1) % 2**32
        if self.rcv is None:
            return []
        was_closing, before = self.closing, self.una
        if (segment.ack - self.una) % 2**32 <= (self.end - self.una) % 2**32:
            self.una = segment.ack
        self._take(segment)
        moved = self.una != before or self.closing != was_closing
        if moved:
            self.timer = 0
        answers = self.outstanding() if moved else []
        if not answers and (moved or segment.length):
            answers = [self.segment("A", self.una)]
        return answers

    def _take(self, segment: Segment) -> None:
        assert self.rcv is not None
        if (segment.seq - self.rcv) % 2**32 < WINDOW:
            if segment.data:
                self.early[segment.seq] = max(
                    self.early.get(segment.seq, b""), segment.data, key=len
                )
            if "F" in segment.flags:
                self.fin_at = (segment.seq + len(segment.data)) % 2**32
        elif (overlap := (self.rcv - segment.seq) % 2**32) < len(segment.data):
            self.early[self.rcv] = segment.data[overlap:]
        while data := self.early.pop(self.rcv, b""):
            self.received += data
            self.rcv = (self.rcv + len(data)) % 2**32
        if self.fin_at == self.rcv and not self.finished:
            self.finished = True
            self.rcv = (self.rcv + 1) % 2**32


class Link:
    """The guest and its clients, and everything that is on its way between them."""

    def __init__(self, guest: Guest, clients: list[Client], weather: Weather, seed: int) -> None:
        self.guest = guest
        self.clients = {client.port: client for client in clients}
        self.weather = weather
        self.random = Random(seed)
        self.order = itertools.count()
        self.now = 0
        # To the guest go frames, to clients segments; a client alone is its timer.
        self.events: list[tuple[int, int, Segment | bytes | Client]] = []

    def at(self, when: int, what: Segment | bytes | Client) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))

    def carry(self, thing: Segment | bytes) -> None:
        """Send it on its way: never, once, or several times."""
        again = True
        while again:
            if self.random.random() >= self.weather.loss:
                late = self.weather.delay + self.random.randint(0, self.weather.jitter)
                self.at(self.now + late, thing)
            again = self.random.random() < self.weather.duplicate

    def transmit(self, client: Client) -> None:
        for segment in client.outstanding():
            self.carry(segment.frame())
        self.start_timer(client)

    def start_timer(self, client: Client) -> None:
        client.timer = self.now + RTO
        self.at(client.timer, client)

    def happen(self, what: Segment | bytes | Client) -> None:
        match what:
            case bytes():
                self.guest.give(what)
            case Segment():
                client = self.clients[what.port]
                for answer in client.input(what):
                    self.carry(answer.frame())
                if client.timer == 0:
                    self.start_timer(client)
            case Client():
                if not what.done and what.timer <= self.now:
                    self.transmit(what)

    def step(self) -> None:
        if self.events and self.events[0][0] <= self.guest.deadline:
            self.now, _, what = heapq.heappop(self.events)
            self.happen(what)
        else:
            self.now = max(self.now, self.guest.deadline)
        for frame in self.guest.run(self.now):
            segment = Segment.parse(frame)
            if segment:
                self.carry(segment)


def simulate(
    guest: Guest, clients: list[Client], weather: Weather, seed: int, limit: float = 3600
) -> float:
    """Run until every client is done; the seconds that took of virtual time."""
    link = Link(guest, clients, weather, seed)
    guest.run(0)
    for client in clients:
        link.transmit(client)
    while not all(client.done for client in clients):
        assert link.now < limit * SECOND, "it takes for ever"
        link.step()
    return link.now / SECOND
