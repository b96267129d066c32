"""Synjitsu, in replay mode: who answers for a service while it sleeps.

Theory of operation.

Synjitsu is a port of the bridge. Whose frames it gets is one forwarding entry a service, so this
core sees the frames of services that it owns, broadcasts, and nothing else. For a service that is
not awake it answers ARP with the guest's own MAC address (no client's neighbour cache ever has to
change), holds the frames with which clients begin (SYN, UDP datagram, echo request), and wakes the
service by them. When the guest can serve, the held frames are sent again, in the order of their
arrival, and the entry is moved to the guest: the guest sees the client's own SYN, answers it
itself, and nothing of ours stays in the path. To the client its SYN was slow, not lost.

Who owns an address, and what becomes of a frame for it:

    OURS     asleep, booting, failed   held, or answered, or refused
    OURS     awake: about to be moved  held, whatever it is
    MOVING   the entry is being moved  held, whatever it is
    GUEST    awake, just moved         a straggler that was queued before the move: sent on
    GUEST    later                     held: the guest has died and its entry with it, or the kernel
                                       would not have brought the frame here

*A guest that boots* may need the network before it can serve. From its first frame on, frames that
are not a client's beginning are passed to it: ARP replies, segments of its own connections, and
datagrams from those to whom it has spoken. SYNs stay held until it is ready, for a guest whose
network is up before its server listens would answer them with RST.

*Ready* is the guest's first frame, or for `ready = "tcp:PORT"` the SYN-ACK to a probe. The probe
comes from an address that is nobody's (`NetworkConfig.probe`) and travels on the guest's own link,
so that no client ever sees a trace of it.

*Guests are no clients*: a frame from the MAC address of a service wakes nobody and is not answered,
be it a guest that makes sure that its address is its own. Guests answer probes on their own links.

*A refusal is honest*: a service that has failed answers SYNs with RST, datagrams with ICMP port
unreachable, echo requests with ICMP host unreachable: clients learn now, not by time-out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import assert_never

from jitsu.core import probe, refusal
from jitsu.model import (
    Cause,
    Handoff,
    Mac,
    Name,
    ReadyOnFrame,
    ReadyOnTcp,
    Service,
    State,
    mac_of,
)
from jitsu.wire import arp, ethernet, tcp
from jitsu.wire.peek import Glance, Kind, glance

HELD_FRAMES_MAX = 4096
"""Frames held for one service: what a backlog of a busy server holds."""
HELD_DATAGRAMS_MAX = 64
"""What is not TCP among them: clients repeat it, and it may be large. Segments that come while the
entry is moved count as frames: those of a busy server's connections are many."""
HELD_BYTES_MAX = 16 << 20
"""Bytes held for all services together."""
SPOKEN_MAX = 1024
"""Peers that a booting guest has spoken to; one that boots does not talk to more."""
STRAGGLING = 0.1
"""Seconds within which what was queued at our port before a move has been read, however long."""
PROBE_RETRY_FIRST, PROBE_RETRY_MAX = 0.001, 0.05
"""Seconds between probes: a server that is about to listen does so within milliseconds."""

_STORE_LINK = ethernet.EtherType.STORE_LINK.to_bytes(2, "big")
OWN_MAC = mac_of("synjitsu, the port")


class Owner(Enum):
    """Where the forwarding entry of a service points."""

    OURS = auto()
    MOVING = auto()
    GUEST = auto()


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame has reached Synjitsu's port."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class GuestSent:
    """A booting guest has sent a frame."""

    name: Name
    frame: bytes


@dataclass(frozen=True, slots=True)
class StateEntered:
    """A service is in another state now."""

    name: Name
    state: State


@dataclass(frozen=True, slots=True)
class Moving:
    """The entry of a service is about to be moved."""

    name: Name


@dataclass(frozen=True, slots=True)
class Moved:
    """The entry of a service has been moved."""

    name: Name
    to_guest: bool


Event = Arrived | GuestSent | StateEntered | Moving | Moved


@dataclass(frozen=True, slots=True)
class Send:
    """Send `frame` from Synjitsu's port."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class SendToGuest:
    """Send `frame` on the link of a booting guest."""

    name: Name
    frame: bytes


@dataclass(frozen=True, slots=True)
class Wake:
    """A client at `source` wants the service."""

    name: Name
    cause: Cause
    source: IPv4Address


@dataclass(frozen=True, slots=True)
class Heard:
    """The guest has sent its first frame."""

    name: Name


@dataclass(frozen=True, slots=True)
class CanServe:
    """The guest can serve."""

    name: Name


Effect = Send | SendToGuest | Wake | Heard | CanServe

_WISHES = {
    Kind.TCP_SYN: Cause.SYN,
    Kind.UDP: Cause.UDP,
    Kind.ICMP_ECHO_REQUEST: Cause.ICMP,
}


_TCP = (Kind.TCP_SYN, Kind.TCP_OTHER)


@dataclass(slots=True)
class _Sleeper:
    """What Synjitsu knows of one service."""

    service: Service
    state: State = State.ASLEEP
    owner: Owner = Owner.OURS
    moved_at: float = 0.0
    held: dict[object, tuple[Kind, bytes]] = field(default_factory=dict)
    datagrams: int = 0
    heard: bool = False
    served: bool = False
    spoken: set[tuple[bytes, int, int]] = field(default_factory=set)
    probe_wait: float = PROBE_RETRY_FIRST

    @property
    def holds(self) -> bool:
        return self.service.handoff is not Handoff.NONE

    def reset(self) -> None:
        """Forget the guest that was."""
        self.heard = self.served = False
        self.spoken.clear()
        self.probe_wait = PROBE_RETRY_FIRST


class Synjitsu:
    """Answers for services that sleep; see the module's theory of operation."""

    def __init__(
        self,
        services: Sequence[Service],
        probe_ip: IPv4Address,
        summon_from: Sequence[IPv4Network | IPv6Network],
        secret: bytes,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._sleepers = {service.name: _Sleeper(service) for service in services}
        self._by_mac = {bytes(s.service.mac): s for s in self._sleepers.values()}
        self._by_ip = {s.service.address.packed: s for s in self._sleepers.values()}
        self._probe_ip = probe_ip
        self._allowed = [
            (int(n.network_address), int(n.netmask)) for n in summon_from if n.version == 4
        ]
        self._secret = secret
        self._held_bytes = 0
        self._probing: dict[Name, float] = {}  # when the next probe of each is due

    def held(self, name: Name) -> int:
        """Return how many frames are held for a service."""
        return len(self._sleepers[name].held)

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return min(self._probing.values(), default=None)

    def tick(self, now: float) -> list[Effect]:
        """Send the probes that are due."""
        effects: list[Effect] = []
        for name, at in sorted(self._probing.items()):
            if now >= at:
                effects += self._probe(self._sleepers[name], now)
        return effects

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Return what `event` makes necessary."""
        match event:
            case Arrived(frame):
                return self._arrived(frame, now)
            case GuestSent(name, frame):
                return self._guest_sent(self._sleepers[name], frame, now)
            case StateEntered(name, state):
                return self._entered(self._sleepers[name], state)
            case Moving(name):
                self._sleepers[name].owner = Owner.MOVING
                return []
            case Moved(name, to_guest):
                self._sleepers[name].moved_at = now
                return self._moved(self._sleepers[name], to_guest=to_guest)
            case _:
                assert_never(event)

    # Frames at our port.

    def _arrived(self, frame: bytes, now: float) -> list[Effect]:
        seen = glance(frame)
        if seen is None:
            return self._drop("malformed")
        if seen.source in self._by_mac:
            return self._drop("sent by a guest")
        if seen.kind is Kind.ARP_REQUEST:
            return self._asked(seen, frame)
        sleeper = self._by_mac.get(seen.destination)
        if sleeper is None:
            return self._drop("not for a service")
        if not sleeper.holds:
            return self._drop("hand-off is none")
        if sleeper.owner is Owner.GUEST and now < sleeper.moved_at + STRAGGLING:
            return [Send(frame)]
        if sleeper.owner is not Owner.OURS or sleeper.state is State.AWAKE:
            return self._hold(sleeper, seen, frame)
        return self._client_sent(sleeper, seen, frame)

    def _asked(self, seen: Glance, frame: bytes) -> list[Effect]:
        """Answer an ARP request for a sleeper."""
        sleeper = self._by_ip.get(seen.destination_ip)
        if sleeper is None or sleeper.owner is Owner.GUEST or not sleeper.holds:
            return self._drop("not for a service")
        return [Send(self._arp_reply(frame, sleeper.service.mac))]

    def _client_sent(self, sleeper: _Sleeper, seen: Glance, frame: bytes) -> list[Effect]:
        if seen.destination_ip != sleeper.service.address.packed:
            return self._pass(sleeper, frame)
        if seen.kind is Kind.TCP_OTHER:
            return self._stray(sleeper, seen, frame)
        cause = _WISHES.get(seen.kind)
        if cause is None or self._is_spoken_to(sleeper, seen):
            return self._pass(sleeper, frame)
        if not self._is_allowed(seen.source_ip):
            return self._drop("not within summon_from")
        if sleeper.state is State.FAILED:
            return self._refuse(frame)
        effects = self._hold(sleeper, seen, frame)
        if sleeper.state is not State.BOOTING:
            effects.append(Wake(sleeper.service.name, cause, IPv4Address(seen.source_ip)))
        return effects

    def _stray(self, sleeper: _Sleeper, seen: Glance, frame: bytes) -> list[Effect]:
        """Deal with a segment that begins nothing."""
        if seen.flags & tcp.Flags.RST and (held := sleeper.held.pop(_flow(seen), None)):
            # The client has given up waiting.
            self._held_bytes -= len(held[1])
            return self._drop("reset by client")
        if sleeper.state is State.STOPPING:
            # It may yet be the guest's, if the fence is lifted.
            return self._hold(sleeper, seen, frame)
        if sleeper.heard and sleeper.state is State.BOOTING:
            return self._pass(sleeper, frame)
        return self._refuse(frame)

    def _pass(self, sleeper: _Sleeper, frame: bytes) -> list[Effect]:
        if sleeper.heard and sleeper.state is State.BOOTING:
            return [SendToGuest(sleeper.service.name, frame)]
        return self._drop("nobody to take it")

    def _hold(self, sleeper: _Sleeper, seen: Glance, frame: bytes) -> list[Effect]:
        """Keep a frame for the guest; a SYN that is sent again replaces the earlier one."""
        key: object = _flow(seen) if seen.kind is Kind.TCP_SYN else object()
        is_datagram = seen.kind not in _TCP
        old = sleeper.held.get(key)
        growth = len(frame) - (len(old[1]) if old else 0)
        if (
            (old is None and len(sleeper.held) >= HELD_FRAMES_MAX)
            or self._held_bytes + growth > HELD_BYTES_MAX
            or (is_datagram and sleeper.datagrams >= HELD_DATAGRAMS_MAX)
        ):
            return self._drop("no room to hold it")
        sleeper.held[key] = (seen.kind, frame)
        sleeper.datagrams += is_datagram
        self._held_bytes += growth
        self.counters["held"] += 1
        return []

    # What becomes of a service.

    def _entered(self, sleeper: _Sleeper, state: State) -> list[Effect]:
        before, sleeper.state = sleeper.state, state
        self._probing.pop(sleeper.service.name, None)
        match state:
            case State.BOOTING:
                sleeper.reset()
            case State.AWAKE if before is State.BOOTING and sleeper.heard:
                return self._replay_to_guest(sleeper)
            case State.FAILED:
                return self._refuse_held(sleeper)
            case State.STOPPING | State.ASLEEP if before is State.BOOTING:
                # The operator has called it off.
                return self._refuse_held(sleeper)
            case State.ASLEEP:
                return self._sift(sleeper)
            case _:
                pass
        return []

    def _moved(self, sleeper: _Sleeper, *, to_guest: bool) -> list[Effect]:
        sleeper.owner = Owner.GUEST if to_guest else Owner.OURS
        if not to_guest:
            return self._wake_for_held(sleeper)
        frames = self._release(sleeper)
        self.counters["replayed"] += len(frames)
        return [Send(frame) for frame in frames]

    def _replay_to_guest(self, sleeper: _Sleeper) -> list[Effect]:
        """Send what was held on the guest's own link, which is there until the entry is moved.

        That is sooner than by the bridge, by the time that it takes to move the entry. The guest's
        answers do not come our way; the client's next frames are held until the entry is moved.
        """
        frames = self._release(sleeper)
        self.counters["replayed"] += len(frames)
        return [SendToGuest(sleeper.service.name, frame) for frame in frames]

    def _sift(self, sleeper: _Sleeper) -> list[Effect]:
        """Keep the wishes, and say that there are some; the rest has no guest any more."""
        strays = [f for kind, f in sleeper.held.values() if kind not in _WISHES]
        kept = {key: held for key, held in sleeper.held.items() if held[0] in _WISHES}
        self._release(sleeper)
        sleeper.held = kept
        sleeper.datagrams = sum(kind not in _TCP for kind, _ in kept.values())
        self._held_bytes += sum(len(frame) for _, frame in kept.values())
        refusals = [effect for frame in strays for effect in self._refuse(frame)]
        return [*refusals, *self._wake_for_held(sleeper)]

    def _wake_for_held(self, sleeper: _Sleeper) -> list[Effect]:
        """Wake the service if one of its held frames is a wish, lest that be stranded."""
        wishes = [kind for kind, _ in sleeper.held.values() if kind in _WISHES]
        name, somebody = sleeper.service.name, IPv4Address(0)
        return [Wake(name, _WISHES[kind], somebody) for kind in wishes[:1]]

    def _refuse_held(self, sleeper: _Sleeper) -> list[Effect]:
        return [effect for f in self._release(sleeper) for effect in self._refuse(f)]

    def _release(self, sleeper: _Sleeper) -> list[bytes]:
        """Hold nothing any more; return what was held, in the order of its arrival."""
        frames = [frame for _, frame in sleeper.held.values()]
        self._held_bytes -= sum(map(len, frames))
        sleeper.held = {}
        sleeper.datagrams = 0
        return frames

    # A guest that boots.

    def _guest_sent(self, sleeper: _Sleeper, frame: bytes, now: float) -> list[Effect]:
        if frame[12:14] == _STORE_LINK:
            return []  # it may have to ask the store for its address first
        seen = glance(frame)
        if seen is None or seen.source != sleeper.service.mac:
            return self._drop("malformed by guest")
        if sleeper.state is not State.BOOTING:
            return []  # it serves already, or never will
        effects: list[Effect] = []
        if not sleeper.heard:
            sleeper.heard = True
            effects.append(Heard(sleeper.service.name))
            if isinstance(sleeper.service.ready, ReadyOnFrame):
                effects.append(self._can_serve(sleeper))
            elif isinstance(sleeper.service.ready, ReadyOnTcp):
                effects += self._probe(sleeper, now)
        if seen.kind is Kind.ARP_REQUEST and seen.destination_ip == self._probe_ip.packed:
            effects.append(SendToGuest(sleeper.service.name, self._arp_reply(frame, OWN_MAC)))
        elif seen.destination_ip == self._probe_ip.packed:
            effects += self._probe_answered(sleeper, seen, frame, now)
        elif seen.kind is Kind.UDP and len(sleeper.spoken) < SPOKEN_MAX:
            sleeper.spoken.add((seen.destination_ip, seen.destination_port, seen.source_port))
        return effects

    def _can_serve(self, sleeper: _Sleeper) -> Effect:
        sleeper.served = True
        self._probing.pop(sleeper.service.name, None)
        return CanServe(sleeper.service.name)

    def _probe(self, sleeper: _Sleeper, now: float) -> list[Effect]:
        assert isinstance(sleeper.service.ready, ReadyOnTcp)
        self._probing[sleeper.service.name] = now + sleeper.probe_wait
        sleeper.probe_wait = min(2 * sleeper.probe_wait, PROBE_RETRY_MAX)
        isn = probe.first_number(sleeper.service, self._secret)
        return [self._to_guest(sleeper, tcp.Flags.SYN, isn)]

    def _probe_answered(
        self, sleeper: _Sleeper, seen: Glance, frame: bytes, now: float
    ) -> list[Effect]:
        """Judge the answer: SYN-ACK is ready, RST is not yet."""
        ready = sleeper.service.ready
        if sleeper.served or not isinstance(ready, ReadyOnTcp):
            return []
        if seen.kind not in (Kind.TCP_OTHER, Kind.TCP_SYN) or seen.source_port != ready.port:
            return []
        if seen.flags & tcp.Flags.RST:
            # Sooner than the time-out of a lost probe: the guest's network is up.
            self._probing[sleeper.service.name] = now + PROBE_RETRY_FIRST
            return []
        if not (seen.flags & tcp.Flags.SYN and seen.flags & tcp.Flags.ACK):
            return []
        isn = probe.first_number(sleeper.service, self._secret)
        reset = self._to_guest(sleeper, tcp.Flags.RST, tcp.seq_add(isn, 1))
        return [reset, self._can_serve(sleeper)]

    def _to_guest(self, sleeper: _Sleeper, flags: tcp.Flags, seq: int) -> Effect:
        service = sleeper.service
        assert isinstance(service.ready, ReadyOnTcp)
        data = probe.frame(service, service.ready.port, (OWN_MAC, self._probe_ip), flags, seq)
        return SendToGuest(service.name, data)

    # Small questions.

    def _is_allowed(self, source: bytes) -> bool:
        address = int.from_bytes(source)
        return any(address & mask == network for network, mask in self._allowed)

    def _is_spoken_to(self, sleeper: _Sleeper, seen: Glance) -> bool:
        peer = (seen.source_ip, seen.source_port, seen.destination_port)
        # What the guest has said counts for as long as it boots.
        return sleeper.state is State.BOOTING and seen.kind is Kind.UDP and peer in sleeper.spoken

    def _arp_reply(self, frame: bytes, mac: Mac) -> bytes:
        request = ethernet.decode(frame)
        reply = arp.encode(arp.reply_to(arp.decode(request.payload), mac))
        return ethernet.encode(ethernet.Frame(request.source, mac, ethernet.EtherType.ARP, reply))

    def _refuse(self, frame: bytes) -> list[Effect]:
        answer = refusal.answer(frame)
        if answer is None:
            return self._drop("not refusable")
        self.counters["refused"] += 1
        return [Send(answer)]

    def _drop(self, reason: str) -> list[Effect]:
        self.counters[reason] += 1
        return []


def _flow(seen: Glance) -> tuple[bytes, int, int]:
    return seen.source_ip, seen.source_port, seen.destination_port
