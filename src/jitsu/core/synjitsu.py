"""Synjitsu: who answers for a service while it sleeps.

Theory of operation.

Synjitsu is a port of the bridge. Whose frames it gets is one forwarding entry a service, so this
core sees the frames of services that it owns, broadcasts, and nothing else. For a service that is
not awake it answers ARP and neighbour solicitations with the guest's own MAC address (no client's
neighbour cache ever has to change), keeps what clients begin with (SYN, UDP datagram, echo
request), and wakes the service by it. How a TCP connection is kept depends on the service's mode:

- *replay*: the SYN is held. When the guest can serve it is sent again: the guest sees the client's
  own SYN, answers it itself, and nothing of ours stays in the path. To the client its SYN was
  slow, not lost.
- *import*: the SYN is answered at once, what the client sends is acknowledged and kept
  (`core.flows`, `core.connection`), and the live connection is handed over to the guest
  (`core.handoff`).
- *splice*: the same, for a guest that knows nothing of it. When it can serve it is given the SYN
  and the bytes that were kept, and the kernel makes up for the difference (`core.splice`).

All else is held, and replayed to the guest in the order of its arrival. Then the entry is moved.

Who owns an address, and what becomes of a frame for it, tells `core.sleeper.Owner`.

*Guests are no clients*: a frame from the MAC address of a service wakes nobody and is not answered,
be it a guest that makes sure that its address is its own. Guests answer probes on their own links.

*A refusal is honest*: a service that has failed answers SYNs and open connections with RST,
datagrams with ICMP port unreachable, echo requests with ICMP host unreachable: clients learn now,
not by time-out.
"""

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import assert_never, cast

from jitsu.core import neighbours, refusal, splice
from jitsu.core.allowed import Allowed
from jitsu.core.deadlines import Deadlines
from jitsu.core.events import (
    Arrived,
    CanServe,
    Clear,
    Commit,
    Committed,
    Effect,
    Ending,
    Event,
    GuestSent,
    GuestWrote,
    Heard,
    KeyAppeared,
    Moved,
    Moving,
    Remember,
    Send,
    SendToGuest,
    Shift,
    StateEntered,
    Track,
    Tracked,
    Unshift,
    Unshiftable,
    Wake,
)
from jitsu.core.flows import Budget, Flows
from jitsu.core.handoff import Phase
from jitsu.core.readiness import Readiness
from jitsu.core.segment import Ends
from jitsu.core.sleeper import HELD_BYTES_MAX, STRAGGLING, WISHES, Owner, Sleeper, key_of
from jitsu.core.splice import Splices
from jitsu.errors import WireError
from jitsu.model import Cause, Epoch, Name, Service, State
from jitsu.wire import ethernet, tcp
from jitsu.wire.peek import Glance, Kind, glance

_STORE_LINK = ethernet.EtherType.STORE_LINK.to_bytes(2, "big")


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
        self.budget = budget = Budget(HELD_BYTES_MAX)
        self._sleepers = {
            s.name: Sleeper(s, budget, Flows(s.terms, budget, secret) if s.terms else None)
            for s in services
        }
        self._by_mac = {bytes(s.service.mac): s for s in self._sleepers.values()}
        self._by_ip = {ip: s for s in self._sleepers.values() for ip in s.addresses}
        self._readiness = Readiness(probe_ip, secret)
        self._tables = Deadlines()  # of the services' connections
        self._allowed = Allowed(summon_from)

    def held(self, name: Name) -> int:
        """Return how many frames are held for a service."""
        return len(self._sleepers[name].held)

    def connections(self, name: Name) -> int:
        """Return how many connections are open for a service, that its guest does not have yet."""
        return len(self._sleepers[name].flows or ())

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        both = (self._readiness.deadline(), self._tables.next())
        return min((at for at in both if at is not None), default=None)

    def tick(self, now: float) -> list[Effect]:
        """Send the probes and the SYN-ACKs that are due."""
        effects = self._readiness.tick(now)
        for name in self._tables.due(now):
            sleeper = self._sleepers[cast(Name, name)]
            assert sleeper.flows is not None
            if sleeper.splices is not None:
                effects += self._spliced(sleeper, sleeper.splices.tick(now))
                continue
            effects += [Send(frame) for frame in sleeper.flows.tick(now)]
            self._tables.set(name, sleeper.flows.deadline())
        return effects

    def handle(self, event: Event, now: float) -> list[Effect]:  # noqa: C901, PLR0911
        """Return what `event` makes necessary."""
        match event:
            case Arrived(frame):
                return self._arrived(frame, now)
            case GuestSent(name, frame):
                return self._guest_sent(self._sleepers[name], frame, now)
            case GuestWrote(name, epoch, word):
                return self._guest_wrote(self._sleepers[name], epoch, word, now)
            case KeyAppeared(name, epoch):
                return self._key_appeared(self._sleepers[name], epoch, now)
            case Tracked(name):
                self._sleepers[name].tracking -= 1
                return self._commit(self._sleepers[name], now)
            case Committed(name, epoch):
                self._sleepers[name].handover.committed(epoch)
                return []
            case Unshiftable(name, ends, reason):
                splices = self._sleepers[name].splices
                dropped = splices.drop(ends, reason) if splices else []
                return self._spliced(self._sleepers[name], dropped)
            case StateEntered(name, state, epoch):
                return self._entered(self._sleepers[name], state, epoch, now)
            case Ending(name):
                return self._ending(self._sleepers[name], now)
            case Moving(name):
                self._sleepers[name].owner = Owner.MOVING
                return []
            case Moved(name, to_guest):
                return self._moved(self._sleepers[name], now, to_guest=to_guest)
            case _:
                assert_never(event)

    # Frames at our port.

    def _arrived(self, frame: bytes, now: float) -> list[Effect]:
        seen = glance(frame)
        if seen is None:
            return self._drop("malformed")
        if seen.source in self._by_mac:
            return self._drop("sent by a guest")
        if seen.kind is Kind.ARP_REQUEST or seen.kind is Kind.ND_SOLICITATION:
            return self._asked(seen, frame)
        sleeper = self._by_mac.get(seen.destination)
        if sleeper is None or not sleeper.holds:
            return self._drop("not for a service")
        return self._for_service(sleeper, seen, frame, now)

    def _for_service(
        self, sleeper: Sleeper, seen: Glance, frame: bytes, now: float
    ) -> list[Effect]:
        if sleeper.owner is Owner.GUEST and now < sleeper.moved_at + STRAGGLING:
            return [Send(frame)]
        if sleeper.owner is not Owner.OURS or sleeper.state is State.AWAKE:
            return self._hasten(sleeper, seen, frame)
        if sleeper.state is State.BOOTING and sleeper.handover.phase is not Phase.PROXYING:
            # A guest that is asked may have to ask who asks.
            if seen.kind is Kind.OTHER:
                return self._pass(sleeper, frame)
            return self._hold(sleeper, seen, frame)
        return self._client_sent(sleeper, seen, frame, now)

    def _asked(self, seen: Glance, frame: bytes) -> list[Effect]:
        """Tell who asks for a sleeper's address the guest's own MAC."""
        sleeper = self._by_ip.get(seen.destination_ip)
        if sleeper is None or sleeper.owner is Owner.GUEST or not sleeper.holds:
            return self._drop("not for a service")
        answer = neighbours.answer(frame, sleeper.service.mac)
        return self._drop("malformed") if answer is None else [Send(answer)]

    def _client_sent(
        self, sleeper: Sleeper, seen: Glance, frame: bytes, now: float
    ) -> list[Effect]:
        if seen.destination_ip not in sleeper.addresses:
            return self._pass(sleeper, frame)
        if seen.kind is Kind.TCP_OTHER:
            return self._segment(sleeper, seen, frame, now)
        cause = WISHES.get(seen.kind)
        if cause is None or self._readiness.is_spoken_to(sleeper.service.name, seen):
            return self._pass(sleeper, frame)
        if seen.source_ip not in self._allowed:
            return self._drop("not within summon_from")
        if sleeper.state is State.FAILED:
            return self._refuse(frame)
        if seen.kind is Kind.TCP_SYN and sleeper.is_open:
            effects = self._open(sleeper, seen, frame, now)
        else:
            effects = self._hold(sleeper, seen, frame)
        if sleeper.state is not State.BOOTING and sleeper.wish() is not None:
            effects.append(Wake(sleeper.service.name, cause, ip_address(seen.source_ip)))
        return effects

    def _open(self, sleeper: Sleeper, seen: Glance, frame: bytes, now: float) -> list[Effect]:
        """Answer a SYN, or hold it where there is no room for its connection."""
        flows, key = sleeper.flows, key_of(seen)
        assert flows is not None
        if flows.is_full and not flows.knows(key) and not sleeper.is_flooded(key):
            return self._hold(sleeper, seen, frame)
        try:
            answers = flows.open(key, frame, now)
        except WireError:
            return self._drop("malformed")
        sleeper.let_go(seen)
        self.counters["opened"] += 1
        self._tables.set(sleeper.service.name, flows.deadline())
        who = Remember(seen.destination_ip, seen.destination_port, seen.source_ip, seen.source_port)
        return [who, *map(Send, answers)]

    def _segment(self, sleeper: Sleeper, seen: Glance, frame: bytes, now: float) -> list[Effect]:
        """Deal with a segment that begins nothing."""
        if sleeper.flows is not None and sleeper.is_open and seen.source_ip in self._allowed:
            try:
                taken = sleeper.flows.take(key_of(seen), frame, now)
            except WireError:
                return self._drop("malformed")
            if taken is not None:
                return [*map(Send, taken), *self._track(sleeper, *sleeper.flows.news())]
        return self._stray(sleeper, seen, frame)

    def _stray(self, sleeper: Sleeper, seen: Glance, frame: bytes) -> list[Effect]:
        """Deal with a segment of no connection that is known here."""
        if seen.flags & tcp.Flags.RST and sleeper.let_go(seen):
            return self._drop("reset by client")
        if sleeper.state is State.STOPPING:
            # It may yet be the guest's, if the fence is lifted.
            return self._hold(sleeper, seen, frame)
        if sleeper.is_kept:
            if seen.source_ip not in self._allowed:
                return self._drop("not within summon_from")
            wake = Wake(sleeper.service.name, Cause.SYN, ip_address(seen.source_ip))
            held = self._hold(sleeper, seen, frame)
            return held if sleeper.wish() is None else [*held, wake]
        if sleeper.heard and sleeper.state is State.BOOTING:
            return self._pass(sleeper, frame)
        return self._refuse(frame)

    def _pass(self, sleeper: Sleeper, frame: bytes) -> list[Effect]:
        if sleeper.heard and sleeper.state is State.BOOTING:
            return [SendToGuest(sleeper.service.name, frame)]
        return self._drop("nobody to take it")

    def _hasten(self, sleeper: Sleeper, seen: Glance, frame: bytes) -> list[Effect]:
        """Bring a frame to the guest that is about to own its address."""
        if sleeper.linked and sleeper.heard and sleeper.state is State.AWAKE:
            return [SendToGuest(sleeper.service.name, frame)]
        return self._hold(sleeper, seen, frame)

    def _hold(self, sleeper: Sleeper, seen: Glance, frame: bytes) -> list[Effect]:
        if not sleeper.hold(seen, frame):
            return self._drop("no room to hold it")
        self.counters["held"] += 1
        return []

    # What becomes of a service.

    def _entered(self, sleeper: Sleeper, state: State, epoch: Epoch, now: float) -> list[Effect]:
        before, sleeper.state, sleeper.is_ending = sleeper.state, state, False
        aborted = self._unsplice(sleeper, "the guest has gone")
        if state is not State.BOOTING:
            self._readiness.end(sleeper.service.name)
        match state:
            case State.BOOTING:
                sleeper.heard, sleeper.linked = False, True
                sleeper.handover.begin(epoch)
                self._readiness.begin(sleeper, now)
                kept = self._kept_for(sleeper)
                # What one that died has left is no business of the next.
                strays = self._sift(sleeper, now) if before is State.BOOTING else []
                return [*aborted, *kept, *strays]
            case State.AWAKE if before is State.BOOTING and sleeper.heard:
                return self._replay_to_guest(sleeper)
            case State.FAILED:
                return [*aborted, *self._refuse_all(sleeper)]
            case State.STOPPING | State.ASLEEP if before is State.BOOTING:
                # The operator has called it off.
                return [*aborted, *self._refuse_all(sleeper)]
            case State.PAUSED | State.SUSPENDED:
                return self._wake_for_kept(sleeper)
            case State.ASLEEP:
                sleeper.handover.begin(Epoch(0))
                return [*self._sift(sleeper, now), *self._wake_for_kept(sleeper)]
            case _:
                return []

    def _ending(self, sleeper: Sleeper, now: float) -> list[Effect]:
        """Answer the clients of a guest that ends, which may take its time, as if it slept."""
        if sleeper.state is not State.STOPPING:
            return []
        sleeper.is_ending = True
        sleeper.handover.begin(Epoch(0))
        return self._sift(sleeper, now)

    def _moved(self, sleeper: Sleeper, now: float, *, to_guest: bool) -> list[Effect]:
        sleeper.moved_at = now
        sleeper.owner = Owner.GUEST if to_guest else Owner.OURS
        sleeper.linked = False
        if not to_guest:
            return self._wake_for_kept(sleeper)
        frames = sleeper.release()
        self.counters["replayed"] += len(frames)
        return [Send(frame) for frame in frames]

    def _replay_to_guest(self, sleeper: Sleeper) -> list[Effect]:
        """Send what was held on the guest's own link, which is there until the entry is moved.

        Sooner than by the bridge: by the time that a move takes. Its answers do not come our way.
        """
        frames = sleeper.release()
        self.counters["replayed"] += len(frames)
        return [SendToGuest(sleeper.service.name, frame) for frame in frames]

    def _sift(self, sleeper: Sleeper, now: float) -> list[Effect]:
        """Look anew at what waited for a guest that has gone.

        What is of a connection that we still have goes on here, of others it is refused. SYNs are
        answered.
        """
        effects: list[Effect] = []
        strays, syns = sleeper.sift()
        for frame in strays + syns:
            seen = glance(frame)
            assert seen is not None, "what is held was understood"
            if seen.kind is Kind.TCP_SYN:
                effects += self._open(sleeper, seen, frame, now)
            elif seen.kind is Kind.TCP_OTHER:
                effects += self._segment(sleeper, seen, frame, now)
            else:
                effects += self._refuse(frame)
        return effects

    def _wake_for_kept(self, sleeper: Sleeper) -> list[Effect]:
        """Wake the service if something is kept for it, lest that be stranded."""
        cause = sleeper.wish()
        return [Wake(sleeper.service.name, cause, IPv4Address(0))] if cause else []

    def _refuse_all(self, sleeper: Sleeper) -> list[Effect]:
        """Let nobody wait any longer."""
        effects = [effect for frame in sleeper.release() for effect in self._refuse(frame)]
        if sleeper.flows is None:
            return effects
        resets = sleeper.flows.abort()
        self.counters["refused"] += len(resets)
        return [*map(Send, resets), *effects, *self._track(sleeper, *sleeper.flows.news())]

    # A guest that boots, and takes over.

    def _guest_sent(self, sleeper: Sleeper, frame: bytes, now: float) -> list[Effect]:
        if frame[12:14] == _STORE_LINK:
            return []  # it may have to ask the store for its address first
        seen = glance(frame)
        if seen is None or seen.source != sleeper.service.mac:
            return self._drop("malformed by guest")
        effects = self._readiness.guest_sent(sleeper.service.name, seen, frame, now)
        if sleeper.splices is not None:
            return [*effects, *self._spliced(sleeper, sleeper.splices.handle(frame, now))]
        return self._splice_first(sleeper, effects, now)

    def _key_appeared(self, sleeper: Sleeper, epoch: Epoch, now: float) -> list[Effect]:
        if epoch != sleeper.handover.epoch:
            return self._drop("word of a guest that is not asked")
        effects = self._readiness.key_appeared(sleeper.service.name)
        return self._splice_first(sleeper, effects, now)

    def _splice_first(self, sleeper: Sleeper, effects: list[Effect], now: float) -> list[Effect]:
        """Put off that the guest can serve until the connections are spliced, if they are to be."""
        serves = CanServe(sleeper.service.name)
        if not sleeper.is_spliced or serves not in effects:
            return effects
        effects.remove(serves)
        sleeper.handover.freeze()
        assert sleeper.flows is not None
        half_open = self._track(sleeper, sleeper.flows.half_open(), ())
        return [*effects, *half_open, *self._commit(sleeper, now)]

    def _guest_wrote(self, sleeper: Sleeper, epoch: Epoch, word: bytes, now: float) -> list[Effect]:
        """Freeze the connections for a guest that is prepared; let one serve that has them."""
        if sleeper.handover.imported(epoch, word):
            name = sleeper.service.name
            heard = [] if sleeper.heard else [Heard(name)]
            sleeper.heard = True
            return [*heard, CanServe(name), Clear(name, epoch)]
        if sleeper.state is not State.BOOTING or not sleeper.imports:
            return self._drop("word of a guest that is not asked")
        if not sleeper.handover.prepared(epoch, word):
            return self._drop("word of a guest that means nothing")
        assert sleeper.flows is not None
        half_open = self._track(sleeper, sleeper.flows.half_open(), ())
        return [*half_open, *self._commit(sleeper, now)]

    def _kept_for(self, sleeper: Sleeper) -> list[Effect]:
        """Have the connections counted that wait for a guest that begins to boot.

        With the guest before, if there was one, all its connections were forgotten.
        """
        if not sleeper.flows:
            return []
        sleeper.flows.news()
        return self._track(sleeper, sleeper.flows.established(), ())

    def _track(
        self, sleeper: Sleeper, opened: tuple[Ends, ...], ended: tuple[Ends, ...]
    ) -> list[Effect]:
        if not opened and not ended:
            return []
        sleeper.tracking += 1
        return [Track(sleeper.service.name, opened, ended)]

    def _commit(self, sleeper: Sleeper, now: float) -> list[Effect]:
        """Hand over, if it is time and every connection that is open is known to be so."""
        flows, name = sleeper.flows, sleeper.service.name
        frozen = sleeper.handover.phase is Phase.FROZEN and sleeper.splices is None
        if not frozen or sleeper.tracking or flows is None:
            return []
        self._tables.set(name, None)
        if not sleeper.is_spliced:
            return [Commit(name, sleeper.handover.epoch, flows.hand_over())]
        pairs = ((flow.tcb, flow.received) for flow in flows.lend())
        patience = sleeper.service.boot_timeout / 2  # lest the boot be given up for one of them
        sleeper.splices = Splices(sleeper.service.mac, pairs, patience)
        return self._spliced(sleeper, sleeper.splices.begin(now))

    def _spliced(self, sleeper: Sleeper, effects: Sequence[splice.Effect]) -> list[Effect]:
        """Do what splicing needs; when all connections are joined the guest can serve."""
        name, splices, flows = sleeper.service.name, sleeper.splices, sleeper.flows
        assert flows is not None
        done: list[Effect] = []
        for effect in effects:
            match effect:
                case splice.ToGuest(frame):
                    done.append(SendToGuest(name, frame))
                case splice.ToClient(frame):
                    done.append(Send(frame))
                case splice.Shift(ends, numbers):
                    done.append(Shift(name, ends, numbers))
                case splice.Failed(ends, _):
                    flows.settle(ends)
                    self.counters["not spliced"] += 1
                    done += [Unshift(name, ends), *self._track(sleeper, (), (ends,))]
                case splice.Spliced(ends):
                    flows.settle(ends)
                    self.counters["spliced"] += 1
                case _:
                    assert_never(effect)
        if splices is not None:
            self._tables.set(name, splices.deadline())
            if not splices and sleeper.handover.phase is Phase.FROZEN:
                sleeper.handover.phase = Phase.IMPORTED
                done.append(CanServe(name))
        return done

    def _unsplice(self, sleeper: Sleeper, reason: str) -> list[Effect]:
        """Join no more; the next guest gets the connections of which this one knows nothing yet."""
        splices, sleeper.splices = sleeper.splices, None
        if splices is None or sleeper.flows is None:
            return []
        sleeper.flows.take_back(splices.recall())
        self._tables.set(sleeper.service.name, sleeper.flows.deadline())
        return self._spliced(sleeper, splices.abort(reason))

    # Small questions.

    def _refuse(self, frame: bytes) -> list[Effect]:
        answer = refusal.answer(frame)
        if answer is None:
            return self._drop("not refusable")
        self.counters["refused"] += 1
        return [Send(answer)]

    def _drop(self, reason: str) -> list[Effect]:
        self.counters[reason] += 1
        return []
