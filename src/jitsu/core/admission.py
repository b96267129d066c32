"""Who may boot now: the host's memory, and how many boots run at once.

Memory is claimed when a boot is admitted and given back when the guest is gone, so what is
claimed is what is in use, never a guess. A boot that finds all slots taken waits its turn; one
that finds no memory is refused, for nobody can say when there will be some.

An instance that is prepared for a boot to come holds memory as well, from when its preparation
begins. The boot of its own service takes it, memory and all. For one of another service it gives
way, since a boot that somebody waits for is worth more than a guess; that which was prepared
longest ago is the first, for its service has been wanted least lately. Until it is really gone its
memory is in use: the boot waits in the queue, a few milliseconds, and no sum is ever exceeded.
A preparation takes only what is free, and nothing that a boot waits for.
"""

from collections import Counter, deque
from enum import Enum, auto

from jitsu.model import Name, Service

BOOTS_AT_ONCE_MAX = 8
"""More boots at once than this only make each of them slower: a boot is bound by the CPU."""


class Admission(Enum):
    """The answer to a wish to boot."""

    ADMITTED = auto()
    QUEUED = auto()
    REFUSED = auto()


class Gatekeeper:
    """Counts the memory in use and the boots that run."""

    def __init__(self, memory: int, boots_max: int = BOOTS_AT_ONCE_MAX) -> None:
        self._free = memory  # less than none while boots wait for what gives way
        self._boots_max = boots_max
        self._claims: dict[Name, int] = {}
        self._booting: set[Name] = set()
        self._queue: deque[Name] = deque()
        self._making: Service | None = None
        self._prepared: list[Service] = []  # the oldest first
        self._numbers: Counter[Name] = Counter()  # how many of them each service has
        self._promised: dict[Name, Service] = {}  # boots whose memory is that of a prepared one
        self._leaving: list[Service] = []  # prepared ones that give way, and are still there
        self._evicted: list[Service] = []  # those of them whom nobody has told

    def __repr__(self) -> str:
        """Return what an operator wants to know."""
        claimed, queued = len(self._claims), len(self._queue)
        return f"<Gatekeeper {self.memory_free >> 20}MiB free, {claimed} admitted, {queued} wait>"

    # Boots.

    def ask(self, service: Service, *, anew: bool = True) -> Admission:
        """Claim memory and a boot slot for `service`, or say why not.

        A boot `anew` takes what is prepared; a guest that was suspended does not.
        """
        assert service.name not in self._claims, "a service boots once"
        if anew and self.prepared(service):
            self._drop(service)
            self._promised[service.name] = service
        elif self._make_room(service.memory):
            self._free -= service.memory
        else:
            return Admission.REFUSED
        self._claims[service.name] = service.memory
        self._queue.append(service.name)
        return Admission.ADMITTED if self._admit() == [service.name] else Admission.QUEUED

    def booted(self, name: Name) -> list[Name]:
        """Free the boot slot of `name`; return who is admitted instead."""
        self._booting.discard(name)
        return self._admit()

    def gone(self, name: Name) -> list[Name]:
        """Give back all that `name` had; return who is admitted instead."""
        memory = self._claims.pop(name, 0)
        if name in self._queue:
            self._queue.remove(name)
        if (kept := self._promised.pop(name, None)) is not None:
            self._keep(kept)  # it never came to use it
        else:
            self._free += memory
        return self.booted(name)

    @property
    def memory_free(self) -> int:
        """Return how many bytes nobody has claimed."""
        return max(0, self._free)

    @property
    def busy(self) -> bool:
        """Say whether anything boots, or waits to."""
        return bool(self._booting or self._queue)

    # Prepared instances.

    def reserve(self, service: Service) -> bool:
        """Claim memory to prepare an instance in, one at a time, if that much is free."""
        if self._making is not None or service.memory > self._free:
            return False
        self._free -= service.memory
        self._making = service
        return True

    def made(self, service: Service) -> None:
        """The instance is prepared; it is to go at once if it has to give way."""
        if self._making is None:
            self._evicted.append(service)
        else:
            self._making = None
            self._keep(service)

    def prepared(self, service: Service) -> int:
        """Return how many instances of a service are prepared that no boot is to have yet."""
        return self._numbers[service.name]

    def evict(self) -> list[Service]:
        """Return whose prepared instances are to go, once for each."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def empty(self) -> None:
        """Have all that is prepared give way, for good."""
        self._give_way([*self._prepared, *([self._making] if self._making else [])])

    def taken(self, service: Service) -> list[Name]:
        """A boot has begun with a prepared instance; return who is admitted by that."""
        if self._promised.pop(service.name, None) is not None:
            return []
        # It was ready only after the boot had been admitted, with memory of its own.
        self._drop(service)
        return self._give_back(service)

    def failed(self, service: Service) -> list[Name]:
        """No instance could be prepared; return who is admitted instead."""
        if self._making is None:
            return self.left(service)
        self._making = None
        return self._give_back(service)

    def lost(self, service: Service) -> list[Name]:
        """A prepared instance has died; return who is admitted instead."""
        if self.prepared(service):
            self._drop(service)
            return self._give_back(service)
        # It was promised to a boot, which goes without it, in the memory that it had.
        del self._promised[service.name]
        return []

    def left(self, service: Service) -> list[Name]:
        """A prepared instance that was to go has gone; return who is admitted instead."""
        self._leaving.remove(service)
        return self._give_back(service)

    def _keep(self, service: Service) -> None:
        self._prepared.append(service)
        self._numbers[service.name] += 1

    def _drop(self, service: Service) -> None:
        self._prepared.remove(service)
        self._numbers[service.name] -= 1

    def _give_back(self, service: Service) -> list[Name]:
        self._free += service.memory
        return self._admit()

    def _make_room(self, memory: int) -> bool:
        """See to it that there will be so much memory, at the cost of what is prepared."""
        lacking = memory - self._free - sum(service.memory for service in self._leaving)
        going: list[Service] = []
        for service in (*self._prepared, *([self._making] if self._making else [])):
            if lacking <= 0:
                break
            going.append(service)
            lacking -= service.memory
        if lacking > 0:
            return False
        self._give_way(going)
        return True

    def _give_way(self, going: list[Service]) -> None:
        for service in going:
            self._leaving.append(service)
            if self.prepared(service):
                self._drop(service)
                self._evicted.append(service)
            else:
                self._making = None  # it goes as soon as it is made

    def _admit(self) -> list[Name]:
        """Let in from the queue whom there are slots for, and the memory."""
        admitted: list[Name] = []
        while self._queue and self._free >= 0 and len(self._booting) < self._boots_max:
            follower = self._queue.popleft()
            self._booting.add(follower)
            admitted.append(follower)
        return admitted
