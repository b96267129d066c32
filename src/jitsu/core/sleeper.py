"""What Synjitsu knows of one service, and holds for it."""

from dataclasses import dataclass, field
from enum import Enum, auto

from jitsu.core.flows import Budget, Flows, Key
from jitsu.core.handoff import Handover, Phase
from jitsu.core.splice import Splices
from jitsu.model import Cause, Handoff, Service, State
from jitsu.wire.peek import Glance, Kind, glance
from jitsu.wire.tcp import Flags

HELD_FRAMES_MAX = 4096
"""Frames held for one service: what a backlog of a busy server holds."""
HELD_DATAGRAMS_MAX = 64
"""What is not TCP among them: clients repeat it, and it may be large. Segments that come while the
entry is moved count as frames: those of a busy server's connections are many."""
HELD_BYTES_MAX = 16 << 20
"""Bytes kept for all services together: held frames, and what clients have sent."""
STRAGGLING = 0.1
"""Seconds within which what was queued at our port before a move has been read, however long."""
WAITING_MAX = 1024
"""SYNs held for want of room among the connections: of more, most are of a flood."""
WISHES = {
    Kind.TCP_SYN: Cause.SYN,
    Kind.UDP: Cause.UDP,
    Kind.ICMP_ECHO_REQUEST: Cause.ICMP,
}
"""With what clients begin, and what that is as a cause of a summons."""
_TCP = (Kind.TCP_SYN, Kind.TCP_OTHER)


class Owner(Enum):
    """Where the forwarding entry of a service points, and so what becomes of a frame for it.

    OURS     asleep, booting, failed   answered, held, or refused
    OURS     stopping, told to end     the same
    OURS     stopping, not yet         held: it may run on
    OURS     paused, suspended         held, and wakes it: its connections are its own
    OURS     from freeze to import     held, whatever it is: the connections are being handed over
    OURS     awake: about to be moved  passed to the guest on its own link
    MOVING   the entry is being moved  the same, or held where there is no such link any more
    GUEST    awake, just moved         a straggler that was queued before the move: sent on
    GUEST    later                     held: the guest has died and its entry with it, or the kernel
                                       would not have brought the frame here
    """

    OURS = auto()
    MOVING = auto()
    GUEST = auto()


@dataclass(slots=True)
class Sleeper:
    """One service. `flows` are the connections that were opened for it, where that is its mode."""

    service: Service
    budget: Budget
    flows: Flows | None = None
    state: State = State.ASLEEP
    owner: Owner = Owner.OURS
    moved_at: float = 0.0
    is_ending: bool = False
    """The guest has been told to end, and will not run on."""
    linked: bool = False
    """The guest's own link is open: what it must have at once can be sent there."""
    heard: bool = False
    handover: Handover = field(default_factory=Handover)
    splices: Splices | None = None
    """The connections that are being joined to the guest, where that is the mode."""
    tracking: int = 0
    """How many `Track` are under way."""
    held: dict[object, tuple[Kind, bytes]] = field(default_factory=dict)
    datagrams: int = 0

    def __repr__(self) -> str:
        """Say what is kept for whom."""
        flows = f", {len(self.flows)} connections" if self.flows is not None else ""
        return f"<Sleeper {self.service.name} {self.state}, {len(self.held)} frames{flows}>"

    addresses: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        own = (self.service.address, self.service.address6)
        self.addresses = tuple(address.packed for address in own if address is not None)

    @property
    def holds(self) -> bool:
        """Say whether anything is done for its clients."""
        return self.service.handoff is not Handoff.NONE

    @property
    def imports(self) -> bool:
        """Say whether its guests take connections over by the store."""
        return self.service.handoff is Handoff.IMPORT

    @property
    def is_spliced(self) -> bool:
        """Say whether its guests know nothing of connections that others have opened."""
        return self.service.handoff is Handoff.SPLICE

    @property
    def is_kept(self) -> bool:
        """Say whether its guest is neither running nor gone, so that connections are its own."""
        return self.state in (State.PAUSED, State.SUSPENDED)

    @property
    def is_open(self) -> bool:
        """Say whether new connections are opened, rather than their SYNs held."""
        if self.flows is None or self.handover.phase is not Phase.PROXYING:
            return False
        return self.state in (State.ASLEEP, State.BOOTING) or self.is_ending

    def is_flooded(self, key: Key) -> bool:
        """Say whether a SYN is to be answered though there is no room for its connection.

        Most in the table do not answer, and more wait for room than a burst of honest clients
        brings; or this one, which comes once more, has waited in vain.
        """
        if self.flows is None or not self.flows.is_unanswered:
            return False
        return key in self.held or len(self.held) >= WAITING_MAX

    def hold(self, seen: Glance, frame: bytes) -> bool:
        """Keep a frame for the guest, if there is room.

        A SYN that is sent again replaces the earlier one.
        """
        key: object = key_of(seen) if seen.kind is Kind.TCP_SYN else object()
        is_datagram = seen.kind not in _TCP
        old = self.held.get(key)
        growth = len(frame) - (len(old[1]) if old else 0)
        if (
            (old is None and len(self.held) >= HELD_FRAMES_MAX)
            or growth > self.budget.room
            or (is_datagram and self.datagrams >= HELD_DATAGRAMS_MAX)
        ):
            return False
        self.held[key] = (seen.kind, frame)
        self.datagrams += is_datagram
        self.budget.used += growth
        return True

    def let_go(self, seen: Glance) -> bool:
        """Forget the SYN of a client that has given up; say whether there was one."""
        held = self.held.pop(key_of(seen), None)
        self.budget.used -= len(held[1]) if held else 0
        return held is not None

    def release(self) -> list[bytes]:
        """Hold nothing any more; return what was held, in the order of its arrival."""
        return [frame for _, frame in self._release()]

    def sift(self) -> tuple[list[bytes], list[bytes]]:
        """Go on holding with what clients begin; return the other frames, and SYNs to be answered.

        Those are the held SYNs, if connections are opened now.
        """
        strays: list[bytes] = []
        syns: list[bytes] = []
        kept: dict[object, tuple[Kind, bytes]] = {}
        for key, (kind, frame) in list(self.held.items()):
            if kind not in WISHES:
                strays.append(frame)
            elif kind is Kind.TCP_SYN and self.is_open:
                syns.append(frame)
            else:
                kept[key] = (kind, frame)
        self._release()
        self.held = kept
        self.datagrams = sum(kind not in _TCP for kind, _ in kept.values())
        self.budget.used += sum(len(frame) for _, frame in kept.values())
        return strays, syns

    def wish(self) -> Cause | None:
        """Return what there is to be woken for."""
        if self.flows or (self.is_kept and any(map(_is_of_a_connection, self.held.values()))):
            return Cause.SYN
        return next((WISHES[kind] for kind, _ in self.held.values() if kind in WISHES), None)

    def _release(self) -> list[tuple[Kind, bytes]]:
        held = list(self.held.values())
        self.budget.used -= sum(len(frame) for _, frame in held)
        self.held = {}
        self.datagrams = 0
        return held


def _is_of_a_connection(held: tuple[Kind, bytes]) -> bool:
    kind, frame = held
    seen = glance(frame) if kind is Kind.TCP_OTHER else None
    return seen is not None and not seen.flags & Flags.RST  # the end of one can wait


def key_of(seen: Glance) -> Key:
    """Return whose connection a segment is of."""
    return seen.source_ip, seen.source_port, seen.destination_port
