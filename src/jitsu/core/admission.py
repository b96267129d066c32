"""Who may boot now: the host's memory, and how many boots run at once.

Memory is claimed when a boot is admitted and given back when the guest is gone, so what is
claimed is what is in use, never a guess. A boot that finds all slots taken waits its turn; one
that finds no memory is refused, for nobody can say when there will be some.
"""

from collections import deque
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
        self.memory_free = memory
        self._boots_max = boots_max
        self._claims: dict[Name, int] = {}
        self._booting: set[Name] = set()
        self._queue: deque[Name] = deque()

    def __repr__(self) -> str:
        """Return what an operator wants to know."""
        claimed, queued = len(self._claims), len(self._queue)
        return f"<Gatekeeper {self.memory_free >> 20}MiB free, {claimed} admitted, {queued} wait>"

    def ask(self, service: Service) -> Admission:
        """Claim memory and a boot slot for `service`, or say why not."""
        assert service.name not in self._claims, "a service boots once"
        if service.memory > self.memory_free:
            return Admission.REFUSED
        self.memory_free -= service.memory
        self._claims[service.name] = service.memory
        if len(self._booting) < self._boots_max:
            self._booting.add(service.name)
            return Admission.ADMITTED
        self._queue.append(service.name)
        return Admission.QUEUED

    def booted(self, name: Name) -> list[Name]:
        """Free the boot slot of `name`; return who is admitted instead."""
        self._booting.discard(name)
        admitted: list[Name] = []
        while self._queue and len(self._booting) < self._boots_max:
            follower = self._queue.popleft()
            self._booting.add(follower)
            admitted.append(follower)
        return admitted

    def gone(self, name: Name) -> list[Name]:
        """Give back all that `name` had; return who is admitted instead."""
        self.memory_free += self._claims.pop(name, 0)
        if name in self._queue:
            self._queue.remove(name)
        return self.booted(name)
