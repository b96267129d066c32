"""Whether a guest that boots can serve yet, and what else it sends before it can.

*Ready* is the guest's first frame, or for `ready = "tcp:PORT"` the SYN-ACK to a probe, or for
`ready = "key:PATH"` that a node of the store is there, or for a guest that imports connections its
own word in the store (`core.handoff`), which is not seen here.

*It may need the network before it can serve.* From its first frame on, frames that are not a
client's beginning are passed to it: ARP replies, segments of its own connections, and datagrams
from those to whom it has spoken. SYNs stay held until it is ready, for a guest whose network is up
before its server listens would answer them with RST.

A probe comes from an address that is nobody's (`NetworkConfig.probe`) and travels on the guest's
own link, so that no client ever sees a trace of it.

*A first frame may be lost*: on a host that is busy a guest announces itself before its link is up,
and has no reason to say it again. So one that is not heard for a while is asked for its address.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import cast

from jitsu.core import neighbours, probe
from jitsu.core.deadlines import Deadlines
from jitsu.core.events import CanServe, Effect, Heard, SendToGuest
from jitsu.core.sleeper import Sleeper
from jitsu.model import Mac, Name, ReadyOnFrame, ReadyOnKey, ReadyOnTcp, Service, mac_of
from jitsu.wire import arp, ethernet, tcp
from jitsu.wire.peek import Glance, Kind

SPOKEN_MAX = 1024
"""Peers that a booting guest has spoken to; one that boots does not talk to more."""
PROBE_RETRY_FIRST, PROBE_RETRY_MAX = 0.001, 0.05
"""Seconds between probes: a server that is about to listen does so within milliseconds."""
ASK_FIRST, ASK_MAX = 0.1, 1.0
"""Seconds until a guest is asked that nobody has heard, doubled with each question up to the most:
most have been heard by then."""
OWN_MAC = mac_of("synjitsu, the port")


@dataclass(slots=True)
class _Boot:
    """What is known of a guest that boots."""

    sleeper: Sleeper
    served: bool = False
    spoken: set[tuple[bytes, int, int]] = field(default_factory=set)
    probe_wait: float = PROBE_RETRY_FIRST
    ask_wait: float = ASK_FIRST


class Readiness:
    """Follows all guests that boot."""

    def __init__(self, probe_ip: IPv4Address, secret: bytes) -> None:
        self._probe_ip = probe_ip
        self._secret = secret
        self._boots: dict[Name, _Boot] = {}
        self._probing = Deadlines()

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._probing.next()

    def tick(self, now: float) -> list[Effect]:
        """Send the probes that are due."""
        effects: list[Effect] = []
        for name in self._probing.due(now):
            boot = self._boots[cast(Name, name)]
            effects += self._probe(boot, now) if boot.sleeper.heard else self._ask(boot, now)
        return effects

    def begin(self, sleeper: Sleeper, now: float) -> None:
        """A guest of the service boots."""
        boot = self._boots[sleeper.service.name] = _Boot(sleeper)
        waits = isinstance(sleeper.service.ready, ReadyOnFrame | ReadyOnTcp)
        if waits and not sleeper.imports:
            self._probing.set(sleeper.service.name, now + boot.ask_wait)

    def end(self, name: Name) -> None:
        """It boots no more: it serves, or never will."""
        self._boots.pop(name, None)
        self._probing.set(name, None)

    def is_spoken_to(self, name: Name, seen: Glance) -> bool:
        """Say whether a datagram may answer one that the booting guest has sent."""
        boot = self._boots.get(name)
        peer = (seen.source_ip, seen.source_port, seen.destination_port)
        return boot is not None and seen.kind is Kind.UDP and peer in boot.spoken

    def guest_sent(self, name: Name, seen: Glance, frame: bytes, now: float) -> list[Effect]:
        """Take a frame of the guest's."""
        boot = self._boots.get(name)
        if boot is None:
            return []
        effects: list[Effect] = []
        if not boot.sleeper.heard:
            boot.sleeper.heard = True
            effects.append(Heard(name))
            effects += self._first(boot, now)
        if seen.kind is Kind.ARP_REQUEST and seen.destination_ip == self._probe_ip.packed:
            answer = neighbours.answer(frame, OWN_MAC)
            effects += [SendToGuest(name, answer)] if answer else []
        elif seen.destination_ip == self._probe_ip.packed:
            effects += self._probe_answered(boot, seen, frame, now)
        elif seen.kind is Kind.UDP and len(boot.spoken) < SPOKEN_MAX:
            boot.spoken.add((seen.destination_ip, seen.destination_port, seen.source_port))
        return effects

    def key_appeared(self, name: Name) -> list[Effect]:
        """The store has the node for which the guest is waited."""
        boot = self._boots.get(name)
        if boot is None or boot.served or boot.sleeper.imports:
            return []
        if not isinstance(boot.sleeper.service.ready, ReadyOnKey):
            return []
        heard = [] if boot.sleeper.heard else [Heard(name)]
        boot.sleeper.heard = True  # by its word, be it sooner than its first frame
        return [*heard, self._can_serve(boot)]

    def _first(self, boot: _Boot, now: float) -> list[Effect]:
        """Deal with a first frame."""
        self._probing.set(boot.sleeper.service.name, None)
        if boot.sleeper.imports:
            return []
        if isinstance(boot.sleeper.service.ready, ReadyOnFrame):
            return [self._can_serve(boot)]
        if isinstance(boot.sleeper.service.ready, ReadyOnTcp):
            return self._probe(boot, now)
        return []

    def _can_serve(self, boot: _Boot) -> Effect:
        boot.served = True
        self._probing.set(boot.sleeper.service.name, None)
        return CanServe(boot.sleeper.service.name)

    def _ask(self, boot: _Boot, now: float) -> list[Effect]:
        """Ask a guest that has not been heard whether it has its address."""
        service = boot.sleeper.service
        boot.ask_wait = min(2 * boot.ask_wait, ASK_MAX)
        self._probing.set(service.name, now + boot.ask_wait)
        nobody = Mac(bytes(6))
        asked = arp.Arp(arp.Operation.REQUEST, OWN_MAC, self._probe_ip, nobody, service.address)
        to_all, kind = ethernet.BROADCAST, ethernet.EtherType.ARP
        frame = ethernet.Frame(to_all, OWN_MAC, kind, arp.encode(asked))
        return [SendToGuest(service.name, ethernet.encode(frame))]

    def _probe(self, boot: _Boot, now: float) -> list[Effect]:
        service = boot.sleeper.service
        self._probing.set(service.name, now + boot.probe_wait)
        boot.probe_wait = min(2 * boot.probe_wait, PROBE_RETRY_MAX)
        return [self._to_guest(service, tcp.Flags.SYN, probe.first_number(service, self._secret))]

    def _probe_answered(self, boot: _Boot, seen: Glance, frame: bytes, now: float) -> list[Effect]:
        """Judge the answer: SYN-ACK is ready, RST is not yet."""
        service = boot.sleeper.service
        ready = service.ready
        if boot.served or boot.sleeper.imports or not isinstance(ready, ReadyOnTcp):
            return []
        if seen.kind not in (Kind.TCP_OTHER, Kind.TCP_SYN) or seen.source_port != ready.port:
            return []
        if seen.flags & tcp.Flags.RST:
            # Sooner than the time-out of a lost probe: the guest's network is up.
            self._probing.set(service.name, now + PROBE_RETRY_FIRST)
            return []
        if not (seen.flags & tcp.Flags.SYN and seen.flags & tcp.Flags.ACK):
            return []
        isn = probe.first_number(service, self._secret)
        reset = self._to_guest(service, tcp.Flags.RST, tcp.seq_add(isn, 1))
        return [reset, self._can_serve(boot)]

    def _to_guest(self, service: Service, flags: tcp.Flags, seq: int) -> Effect:
        assert isinstance(service.ready, ReadyOnTcp)
        data = probe.frame(service, service.ready.port, (OWN_MAC, self._probe_ip), flags, seq)
        return SendToGuest(service.name, data)
