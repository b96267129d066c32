"""The directory: DNS that summons (part 4 of the paper).

The directory is authoritative for the zones of `core.zone`. A query for a name in them is answered
from memory; a query for the *addresses of a service* also summons it:

    state of the service   client in summon_from                                anybody else
    awake                  answer                                               answer
    asleep, suspended      summon, hold                                         answer
    booting, paused, ...   summon; at-once: answer, when-ready: hold            answer
    failed                 SERVFAIL: another resolver or site may know better   SERVFAIL

A held query is answered when StateChanged says that the service has come far enough. For an at-once
service BOOTING is, since Synjitsu takes the client's packets from there on, and PAUSED, which needs
no memory any more; a when-ready one must be AWAKE. If it FAILED, or if nothing happens
within the patience of a resolver, the answer is SERVFAIL. So the daemon says "no room for it" by
FAILED too, and no client hears of an address behind which nobody is. Summoning is idempotent, and
any number of queries wait for one boot.

A and AAAA alone summon: AAAA also where the service has no such address, because a client of
two families may ask it first, and then both questions have one fate. Where services share a name,
all are summoned, and the answer waits until each of them is up or failed and lists those that are
up. What does not depend on a service's state (SOA, NS, PTR, no such name or type) never waits.

All other names are forwarded, if there are upstream resolvers and the client wants recursion, or
refused. The host must report each Forward by one Forwarded, within a bounded time.

`answer_prepared` is the fast path: whole replies by whole queries. It holds positive and NODATA
answers only, so that a flood of random names cannot fill it.

Left out: zone transfers and dynamic update (nobody else serves these zones), DNSSEC (a private zone
has no parent that would sign for it), cookies (TCP is there for those who are spoofed), a cache of
forwarded answers (that is the upstream's work).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, assert_never

import dns.opcode
from dns.edns import EDECode
from dns.rcode import Rcode
from dns.rdataclass import IN
from dns.rdatatype import AAAA, ANY, AXFR, HINFO, IXFR, NS, A

from jitsu.core.question import (
    HEADER_BYTES,
    Question,
    Reply,
    answers,
    decode,
    encode,
    encode_header,
    pointer,
    record,
    truncated,
)
from jitsu.core.zone import Node, Zones
from jitsu.errors import WireError
from jitsu.model import Answer, DirectoryConfig, Endpoint, Name, Service, State

PATIENCE = 4.5
"""Seconds that a query is held: SERVFAIL still reaches resolvers, which give up after 5."""
HELD_MAX = 1024
"""Queries held at once, about 2 KiB each. Those beyond summon, and get SERVFAIL at once."""
FORWARDS_MAX = 256
"""Queries at upstream resolvers at once, each a socket of the host. Beyond: SERVFAIL."""
PREPARED_MAX = 4096
"""Prepared replies, about 200 bytes each. When full all are dropped: each is one query away."""

_MINIMAL = b"\x07RFC8482\x00"
"""The HINFO that answers ANY (RFC 8482 section 4.2)."""
_NOT_READY = Reply(Rcode.SERVFAIL, extended=EDECode.NOT_READY)


@dataclass(frozen=True, slots=True)
class Client:
    """Who asked, and over what; `token` is the host's, to find the way back."""

    address: IPv4Address | IPv6Address
    port: int
    transport: Literal["udp", "tcp"]
    token: object


@dataclass(frozen=True, slots=True)
class Query:
    """Event: a message came in."""

    data: bytes
    client: Client


@dataclass(frozen=True, slots=True)
class StateChanged:
    """Event: a service reached another state of its life."""

    name: Name
    state: State


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Event: what came of a Forward; None if no upstream answered."""

    ident: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Respond:
    """Effect: send `data` to `client`."""

    client: Client
    data: bytes


@dataclass(frozen=True, slots=True)
class Summon:
    """Effect: `client` wants this service up. Comes again with every query until it is AWAKE."""

    name: Name
    client: Client


@dataclass(frozen=True, slots=True)
class Forward:
    """Effect: ask the upstreams in turn, and report by Forwarded with the same `ident`."""

    ident: int
    data: bytes
    upstreams: tuple[Endpoint, ...]


Event = Query | StateChanged | Forwarded
Effect = Respond | Summon | Forward


@dataclass(slots=True)
class Counts:
    """What has happened since the start, for `jitsu ls` and the metrics."""

    queries: int = 0
    dropped_short: int = 0
    dropped_response: int = 0
    malformed: int = 0
    not_implemented: int = 0
    bad_version: int = 0
    refused: int = 0
    not_found: int = 0
    held: int = 0
    held_repeated: int = 0
    held_overflow: int = 0
    held_expired: int = 0
    failed: int = 0
    forwarded: int = 0
    forward_overflow: int = 0
    forward_failed: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query that has been understood."""

    question: Question
    data: bytes
    client: Client


@dataclass(frozen=True, slots=True)
class _Held:
    """A query that waits for the services of `node`, until `expires`."""

    asked: _Asked
    node: Node
    expires: float


class _Prepared:
    """A reply known by heart, without its identifier, and how often it was given."""

    __slots__ = ("names", "reply", "uses")

    def __init__(self, reply: bytes, names: tuple[Name, ...]) -> None:
        self.reply = reply
        self.names = names
        self.uses = 0


_HeldKey = tuple[IPv4Address | IPv6Address, int, str, bytes]


class Directory:
    """Answer DNS queries, and say whom they summon."""

    def __init__(self, config: DirectoryConfig, services: Sequence[Service], serial: int) -> None:
        self.counts = Counts()
        self._config = config
        self._zones = Zones(config, services, serial)
        self._states = {service.name: State.ASLEEP for service in services}
        # One patience for all: what was inserted first expires first.
        self._held: dict[_HeldKey, _Held] = {}
        self._forwards: dict[int, _Asked] = {}
        self._forward_ident = 0
        self._asked: Counter[Name] = Counter()
        self._prepared: dict[bytes, _Prepared] = {}
        self._prepared_for: dict[Name, set[bytes]] = {name: set() for name in self._states}

    def __repr__(self) -> str:
        """Show how much is under way."""
        return (
            f"<Directory of {len(self._states)} services, {len(self._held)} queries held, "
            f"{len(self._forwards)} forwarded, {len(self._prepared)} replies prepared>"
        )

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event."""
        match event:
            case Query():
                return self._receive(event.data, event.client, now)
            case StateChanged():
                return self._change(event.name, event.state)
            case Forwarded():
                return self._return(event.ident, event.data)
            case _:
                assert_never(event)

    def deadline(self) -> float | None:
        """Return when `tick` is due."""
        return next((held.expires for held in self._held.values()), None)

    def tick(self, now: float) -> list[Effect]:
        """Release the queries whose clients will not wait any longer."""
        expired = []
        for key, held in self._held.items():
            if held.expires > now:
                break
            expired.append(key)
        self.counts.held_expired += len(expired)
        return [self._release(key) for key in expired]

    def answer_prepared(self, data: bytes) -> bytes | None:
        """Answer a UDP query whose reply is known by heart; it depends on nothing but its bytes."""
        known = self._prepared.get(data[2:])
        if known is None:
            return None
        known.uses += 1
        return data[:2] + known.reply

    def asked(self) -> Counter[Name]:
        """Count how often the addresses of each service were asked for."""
        asked = self._asked.copy()
        for known in self._prepared.values():
            asked.update(dict.fromkeys(known.names, known.uses))
        return asked

    def _receive(self, data: bytes, client: Client, now: float) -> list[Effect]:
        """Drop or reject what is no query of ours to understand; answer the others."""
        if len(data) < HEADER_BYTES:
            self.counts.dropped_short += 1
            return []
        if data[2] & 0x80:  # QR: two servers must not answer each other's answers for ever
            self.counts.dropped_response += 1
            return []
        self.counts.queries += 1
        if data[2] >> 3 & 15 != dns.opcode.QUERY:
            self.counts.not_implemented += 1
            return [Respond(client, encode_header(data, Rcode.NOTIMP))]
        try:
            question = decode(data)
        except WireError:
            self.counts.malformed += 1
            return [Respond(client, encode_header(data, Rcode.FORMERR))]
        return self._answer(_Asked(question, data, client), now)

    def _answer(self, asked: _Asked, now: float) -> list[Effect]:
        """Find who has to answer: nobody, an upstream, a service or the zone."""
        question = asked.question
        if question.edns:  # a later version than 0, the only one there is
            self.counts.bad_version += 1
            return [self._respond(asked, Reply(Rcode.BADVERS))]
        if question.rdclass != IN or question.rdtype in (AXFR, IXFR):
            self.counts.refused += 1
            return [self._respond(asked, Reply(Rcode.REFUSED))]
        node = self._zones.find(question.name)
        if node is None:
            return self._forward(asked)
        if node.services and question.rdtype in (A, AAAA):
            return self._summon(asked, node, now)
        reply = self._known(question, node)
        respond = self._respond(asked, reply)
        if reply.rcode == Rcode.NOERROR:
            self._prepare(asked, respond.data, ())
        return [respond]

    def _known(self, question: Question, node: Node) -> Reply:
        """Answer from the zone what does not depend on a service's state."""
        if not node.exists:
            self.counts.not_found += 1
            return Reply(Rcode.NXDOMAIN, True, authority=_denial(question, node))
        if question.rdtype == ANY and (node.services or node.records):
            records: tuple[bytes, ...] = (record(HINFO, self._config.ttl, _MINIMAL),)
        else:
            records = node.records.get(question.rdtype, ())
        if not records:
            return Reply(authoritative=True, authority=_denial(question, node))
        owner = pointer(question)
        return Reply(
            authoritative=True,
            answer=tuple(owner + each for each in records),
            additional=node.zone.glue if question.rdtype == NS else (),
        )

    def _addresses_of(self, question: Question, node: Node, services: Sequence[Service]) -> Reply:
        """Answer the addresses of these services, of the family that was asked for."""
        if not services:
            self.counts.failed += 1
            return _NOT_READY
        owner, ttl = pointer(question), self._config.ttl
        found = [each.address if question.rdtype == A else each.address6 for each in services]
        answer = tuple(
            owner + record(question.rdtype, ttl, address.packed) for address in found if address
        )
        return Reply(
            authoritative=True,
            answer=answer,
            authority=() if answer else _denial(question, node),
        )

    def _summon(self, asked: _Asked, node: Node, now: float) -> list[Effect]:
        """Answer for services, and summon them if this client may."""
        names = tuple(service.name for service in node.services)
        self._asked.update(names)
        states = [self._states[name] for name in names]
        if all(state is State.AWAKE for state in states):
            respond = self._respond(asked, self._outcome(asked.question, node))
            self._prepare(asked, respond.data, names)
            return [respond]
        if not self._may_summon(asked.client):
            there = [each for each in node.services if self._states[each.name] != State.FAILED]
            return [self._respond(asked, self._addresses_of(asked.question, node, there))]
        effects: list[Effect] = [
            Summon(name, asked.client)
            for name, state in zip(names, states, strict=True)
            if state not in (State.AWAKE, State.FAILED)
        ]
        if self._is_settled(node):
            return [*effects, self._respond(asked, self._outcome(asked.question, node))]
        return effects + self._hold(asked, node, now)

    def _hold(self, asked: _Asked, node: Node, now: float) -> list[Effect]:
        """Keep a query until its services are settled; the same one again is kept once."""
        client = asked.client
        key = (client.address, client.port, client.transport, asked.data)
        if key in self._held:
            self.counts.held_repeated += 1
        elif len(self._held) < HELD_MAX:
            self.counts.held += 1
            self._held[key] = _Held(asked, node, now + PATIENCE)
        else:
            self.counts.held_overflow += 1
            return [self._respond(asked, _NOT_READY)]
        return []

    def _release(self, key: _HeldKey) -> Respond:
        """Answer a held query with what there is by now."""
        held = self._held.pop(key)
        return self._respond(held.asked, self._outcome(held.asked.question, held.node))

    def _change(self, name: Name, state: State) -> list[Effect]:
        """Note a service's state, and release those for whom it was the last to wait for."""
        self._states[name] = state
        for query in tuple(self._prepared_for.get(name, ())):
            self._forget(query)
        settled = [
            key
            for key, held in self._held.items()
            if any(each.name == name for each in held.node.services) and self._is_settled(held.node)
        ]
        return [self._release(key) for key in settled]

    def _is_settled(self, node: Node) -> bool:
        """Say whether waiting for the services of a name brings no more."""
        return all(
            self._is_up(each) or self._states[each.name] is State.FAILED for each in node.services
        )

    def _is_up(self, service: Service) -> bool:
        """Say whether a client may be told the service's address."""
        state = self._states[service.name]
        if service.answer is Answer.WHEN_READY:
            return state is State.AWAKE
        return state in (State.BOOTING, State.STOPPING, State.PAUSED, State.AWAKE)

    def _outcome(self, question: Question, node: Node) -> Reply:
        """Answer those of a name's services that are up."""
        up = [each for each in node.services if self._is_up(each)]
        return self._addresses_of(question, node, up)

    def _may_summon(self, client: Client) -> bool:
        """Say whether this client may start a service."""
        return any(client.address in network for network in self._config.summon_from)

    def _forward(self, asked: _Asked) -> list[Effect]:
        """Pass on a query for a name that is not ours, if somebody is there to take it.

        Only for those who may summon: a resolver open to all amplifies attacks (RFC 5358).
        """
        may = self._may_summon(asked.client)
        if not (self._config.forward and asked.question.recurse and may):
            self.counts.refused += 1
            refusal = Reply(Rcode.REFUSED, extended=EDECode.NOT_AUTHORITATIVE)
            return [self._respond(asked, refusal)]
        if len(self._forwards) >= FORWARDS_MAX:
            self.counts.forward_overflow += 1
            return [self._respond(asked, Reply(Rcode.SERVFAIL))]
        self.counts.forwarded += 1
        self._forward_ident += 1
        self._forwards[self._forward_ident] = asked
        return [Forward(self._forward_ident, asked.data, self._config.forward)]

    def _return(self, ident: int, data: bytes | None) -> list[Effect]:
        """Hand an upstream's reply to the client who waits for it."""
        asked = self._forwards.pop(ident, None)
        if asked is None:  # forwarded before a reload
            return []
        question, client = asked.question, asked.client
        if data is None or not answers(question, data):
            self.counts.forward_failed += 1
            failure = Reply(Rcode.SERVFAIL, extended=EDECode.NETWORK_ERROR)
            return [self._respond(asked, failure)]
        if len(data) > question.bytes_max(client.transport):
            data = truncated(question)
        return [Respond(client, data)]

    def _respond(self, asked: _Asked, reply: Reply) -> Respond:
        """Render a reply in the form that the query allows."""
        data = encode(
            asked.question,
            reply,
            bytes_max=asked.question.bytes_max(asked.client.transport),
            recursion=bool(self._config.forward),
        )
        return Respond(asked.client, data)

    def _prepare(self, asked: _Asked, reply: bytes, names: tuple[Name, ...]) -> None:
        """Keep a reply for `answer_prepared` while these services stay as they are."""
        query = asked.data[2:]
        once = asked.client.transport != "udp" or not asked.question.repeats
        if once or query in self._prepared:
            return
        if len(self._prepared) >= PREPARED_MAX:
            for each in tuple(self._prepared):
                self._forget(each)
        self._prepared[query] = _Prepared(reply[2:], names)
        for name in names:
            self._prepared_for[name].add(query)

    def _forget(self, query: bytes) -> None:
        """Drop a prepared reply, but not how often it was given."""
        known = self._prepared.pop(query)
        for name in known.names:
            self._asked[name] += known.uses
            self._prepared_for[name].remove(query)


def _denial(question: Question, node: Node) -> tuple[bytes]:
    """Return the SOA, which says how long to believe that there is no such thing (RFC 2308)."""
    return (pointer(question, node.zone.origin) + node.zone.soa,)
