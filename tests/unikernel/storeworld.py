"""A guest, the host's end of its store link, and the frames between them."""

import ctypes
import heapq
import itertools
from enum import IntEnum
from math import ceil
from random import Random

from unikernel.guest import NEVER, SECOND, Guest
from unikernel.lossy import Weather
from unikernel.storehost import HostEnd, Type, is_link_frame

EVENTS_MAX = 1 << 17


class Kind(IntEnum):
    DONE = 0
    FAILED = 1
    LOST = 2
    WATCH = 3
    ANEW = 4


Event = tuple[Kind, int, bytes]


def declare(library: ctypes.CDLL) -> None:
    """Say the second half of unikernel/platform/host/host.h."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.host_new_asker.restype = pointer
    library.host_new_asker.argtypes = [ctypes.c_uint64]
    library.host_store_request.restype = ctypes.c_bool
    library.host_store_request.argtypes = [
        pointer, ctypes.c_uint8, ctypes.c_uint32, ctypes.c_char_p, size,
    ]  # fmt: skip
    library.host_store_events.restype = size
    library.host_store_events.argtypes = [pointer, ctypes.c_char_p, size]
    library.host_store_rubbish.restype = ctypes.c_uint64
    library.host_store_rubbish.argtypes = [pointer]


class Asker(Guest):
    """A guest that asks the store what it is told to."""

    def __init__(self, library: ctypes.CDLL, seed: int = 1) -> None:
        declare(library)
        super().__init__(library, "", seed)
        library.host_free(self._handle)
        self._handle = library.host_new_asker(seed)
        self._events = ctypes.create_string_buffer(EVENTS_MAX)
        self.run(0)
        assert self.status is None

    def ask(self, tag: int, kind: Type, payload: bytes) -> bool:
        return bool(
            self._library.host_store_request(self._handle, tag, kind, payload, len(payload))
        )

    def events(self) -> list[Event]:
        """What has come of it since the last call."""
        size = self._library.host_store_events(self._handle, self._events, EVENTS_MAX)
        data = self._events.raw[:size]
        events = []
        while data:
            length = int.from_bytes(data[2:4])
            events.append((Kind(data[0]), data[1], data[4 : 4 + length]))
            data = data[4 + length :]
        return events

    @property
    def rubbish(self) -> int:
        return int(self._library.host_store_rubbish(self._handle))


class StoreWorld:
    """Time is in nanoseconds, as the guest's; `others` are the guest's frames for others."""

    def __init__(
        self,
        guest: Guest,
        host: HostEnd | None = None,
        weather: Weather | None = None,
        seed: int = 1,
    ) -> None:
        self.guest = guest
        self.host = host or HostEnd()
        self.weather = weather or Weather()
        self.random = Random(seed)
        self.now = 0
        self.frames: list[tuple[int, int, bool, bytes]] = []
        self.order = itertools.count()
        self.others: list[bytes] = []
        self.links: list[bytes] = []  # the guest's frames for the store

    def carry(self, to_host: bool, frames: list[bytes]) -> None:
        """Send them on their way: never, once, or several times."""
        for frame in frames:
            again = True
            while again:
                if self.random.random() >= self.weather.loss:
                    late = self.weather.delay + self.random.randint(0, self.weather.jitter)
                    event = (self.now + late, next(self.order), to_host, frame)
                    heapq.heappush(self.frames, event)
                again = self.random.random() < self.weather.duplicate

    def run_guest(self) -> None:
        for frame in self.guest.run(self.now):
            if is_link_frame(frame):
                self.links.append(frame)
                self.carry(True, [frame])
            else:
                self.others.append(frame)

    def host_sends(self, data: bytes) -> None:
        self.carry(False, self.host.send(data, self.now / SECOND))

    def host_due(self) -> int:
        """A nanosecond later than the float says, which may be rounded."""
        deadline = self.host.link.deadline()
        return NEVER if deadline is None else max(self.now, ceil(deadline * SECOND) + 1)

    def step(self) -> bool:
        """Go to whatever is next; false if nothing ever is."""
        arrives = self.frames[0][0] if self.frames else NEVER
        due = min(self.host_due(), self.guest.deadline)
        if due == arrives == NEVER:
            return False
        if arrives < due:
            self.now, _, to_host, frame = heapq.heappop(self.frames)
            if to_host:
                self.carry(False, self.host.input(frame, self.now / SECOND))
            else:
                self.guest.give(frame)
                self.run_guest()
        else:
            self.now = max(self.now, due)
            self.carry(False, self.host.tick(self.now / SECOND))
            self.run_guest()
        return True

    def run(self, limit: float = 3600) -> None:
        """Until nothing is under way and nobody waits."""
        self.run_guest()
        while self.step():
            assert self.now < limit * SECOND, "it takes for ever"
