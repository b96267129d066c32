"""Conversations with the directory: who is answered what, when, and who is summoned."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.core import directory as core
from jitsu.core.directory import (
    PATIENCE,
    Client,
    Directory,
    Effect,
    Forward,
    Forwarded,
    Query,
    Respond,
    StateChanged,
    Summon,
)
from jitsu.model import Answer, DirectoryConfig, Endpoint, Mac, Name, Service, State

LISTEN = (
    Endpoint(IPv4Address("10.77.0.1"), 53),
    Endpoint(IPv4Address("10.77.0.1"), 5353),
    Endpoint(IPv6Address("fd77::1"), 53),
)
UPSTREAM = Endpoint(IPv4Address("192.0.2.53"), 53)
CONFIG = DirectoryConfig(
    listen=LISTEN, summon_from=(IPv4Network("10.77.0.0/24"), IPv6Network("fd77::/64")), ttl=60
)
WWW, API, DB = Name("www"), Name("api"), Name("db")


def service(name: str, number: int, **changes: object) -> Service:
    plain = Service(
        name=Name(name),
        dns=(f"{name}.jitsu.test",),
        image="hello.elf",
        address=IPv4Address(f"10.77.0.{number}"),
        mac=Mac(bytes(6)),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


SERVICES = (
    service("www", 10, address6=IPv6Address("fd77::10")),
    service("api", 11, answer=Answer.WHEN_READY),
    service("db", 12, dns=("db.jitsu.test", "pool.jitsu.test")),
    service("db2", 13, dns=("pool.jitsu.test",), answer=Answer.WHEN_READY),
    service("deep", 14, dns=("a.b.c.jitsu.test",)),
    service("solo", 15, dns=("solo",)),
    service("mute", 16, dns=()),
)


def client(address: str = "10.77.0.99", port: int = 4000, transport: str = "udp") -> Client:
    assert transport in ("udp", "tcp")
    return Client(ip_address(address), port, "tcp" if transport == "tcp" else "udp", None)


INSIDE, OUTSIDE = client(), client("192.0.2.1")


class Conversation:
    """A directory, and what is said to it; replies come back as dnspython sees them."""

    def __init__(
        self, config: DirectoryConfig = CONFIG, services: Iterable[Service] = SERVICES
    ) -> None:
        self.directory = Directory(config, tuple(services), serial=7)
        self.now = 100.0

    def states(self, **states: State) -> "Conversation":
        for name, state in states.items():
            assert self.change(Name(name), state) == []
        return self

    def change(self, name: Name, state: State) -> list[Effect]:
        return self.directory.handle(StateChanged(name, state), self.now)

    def send(self, data: bytes, who: Client = INSIDE) -> list[Effect]:
        return self.directory.handle(Query(data, who), self.now)

    def ask(self, name: str, rdtype: str = "A", who: Client = INSIDE, **more: int) -> list[Effect]:
        return self.send(query(name, rdtype, **more), who)

    def reply(
        self, name: str, rdtype: str = "A", who: Client = INSIDE, **more: int
    ) -> dns.message.Message:
        return only_reply(self.ask(name, rdtype, who, **more))


def query(name: str, rdtype: str = "A", ident: int = 1, **more: int) -> bytes:
    return dns.message.make_query(name, rdtype, id=ident, **more).to_wire()  # type: ignore[arg-type]


def read(effect: Effect) -> dns.message.Message:
    assert isinstance(effect, Respond)
    message = dns.message.from_wire(effect.data)
    assert message.flags & dns.flags.QR
    return message


def only_reply(effects: list[Effect]) -> dns.message.Message:
    (effect,) = effects
    return read(effect)


def summoned(effects: list[Effect]) -> list[str]:
    return [effect.name for effect in effects if isinstance(effect, Summon)]


def texts(message: dns.message.Message) -> list[str]:
    return [str(record) for rrset in message.answer for record in rrset]


def extended(message: dns.message.Message) -> list[dns.edns.EDECode]:
    return [each.code for each in message.options if isinstance(each, dns.edns.EDEOption)]


# --- life: (state, answer, who) -> effects -------------------------------------------------------

HELD, GIVEN, FAILED = "held", "given", "failed"
LIFE = [
    # state, service, summoned?, then
    (State.ASLEEP, "www", True, HELD),
    (State.PAUSED, "www", True, GIVEN),
    (State.SUSPENDED, "www", True, HELD),
    (State.BOOTING, "www", True, GIVEN),
    (State.STOPPING, "www", True, GIVEN),
    (State.AWAKE, "www", False, GIVEN),
    (State.FAILED, "www", False, FAILED),
    (State.ASLEEP, "api", True, HELD),
    (State.PAUSED, "api", True, HELD),
    (State.SUSPENDED, "api", True, HELD),
    (State.BOOTING, "api", True, HELD),
    (State.STOPPING, "api", True, HELD),
    (State.AWAKE, "api", False, GIVEN),
    (State.FAILED, "api", False, FAILED),
]


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
@pytest.mark.parametrize(("state", "name", "summons", "then"), LIFE)
def test_what_a_query_does(state: State, name: str, summons: bool, then: str, rdtype: str) -> None:
    talk = Conversation().states(**{name: state})
    effects = talk.ask(f"{name}.jitsu.test", rdtype)
    assert summoned(effects) == ([name] if summons else [])
    replies = [read(effect) for effect in effects if isinstance(effect, Respond)]
    assert len(replies) == (then != HELD)
    for reply in replies:
        wanted = dns.rcode.SERVFAIL if then == FAILED else dns.rcode.NOERROR
        assert reply.rcode() == wanted


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", ["www", "api"])
def test_an_outsider_is_answered_and_summons_nobody(state: State, name: str) -> None:
    reply = Conversation().states(**{name: state}).reply(f"{name}.jitsu.test", who=OUTSIDE)
    failed = state is State.FAILED
    assert reply.rcode() == (dns.rcode.SERVFAIL if failed else dns.rcode.NOERROR)
    assert len(reply.answer) == (not failed)


def test_insiders_of_both_families_summon() -> None:
    talk = Conversation()
    assert summoned(talk.ask("www.jitsu.test", who=client("fd77::99"))) == ["www"]
    assert summoned(talk.ask("www.jitsu.test", who=client("fd78::99"))) == []


@pytest.mark.parametrize("rdtype", ["MX", "TXT", "SOA", "NS", "PTR", "HTTPS", "ANY", "TYPE65280"])
def test_other_types_neither_summon_nor_wait(rdtype: str) -> None:
    only_reply(Conversation().ask("www.jitsu.test", rdtype))


def test_a_held_query_is_answered_when_the_boot_begins() -> None:
    talk = Conversation()
    assert talk.ask("www.jitsu.test", ident=77) == [Summon(WWW, INSIDE)]
    effects = talk.change(WWW, State.BOOTING)
    assert isinstance(effects[0], Respond)
    assert effects[0].client is INSIDE
    reply = only_reply(effects)
    assert (reply.id, texts(reply)) == (77, ["10.77.0.10"])
    assert talk.change(WWW, State.AWAKE) == []


def test_when_ready_waits_for_the_end_of_the_boot() -> None:
    talk = Conversation()
    assert talk.ask("api.jitsu.test") == [Summon(API, INSIDE)]
    assert talk.change(API, State.BOOTING) == []
    assert texts(only_reply(talk.change(API, State.AWAKE))) == ["10.77.0.11"]


def test_a_failed_boot_is_servfail_and_not_ready() -> None:
    talk = Conversation()
    talk.ask("www.jitsu.test")
    talk.ask("www.jitsu.test", ident=2, use_edns=0)
    plain, spoken = map(read, talk.change(WWW, State.FAILED))
    assert plain.rcode() == spoken.rcode() == dns.rcode.SERVFAIL
    assert (plain.edns, extended(spoken)) == (-1, [dns.edns.EDECode.NOT_READY])
    assert talk.directory.counts.failed == 2


def test_many_queries_wait_for_one_boot() -> None:
    talk = Conversation()
    for port in range(1, 101):
        assert talk.ask("www.jitsu.test", who=client(port=port)) == [Summon(WWW, client(port=port))]
    replies = talk.change(WWW, State.BOOTING)
    assert sorted(each.client.port for each in replies if isinstance(each, Respond)) == list(
        range(1, 101)
    )


def test_a_repeated_query_is_answered_once() -> None:
    talk = Conversation()
    for _ in range(3):
        assert talk.ask("www.jitsu.test") == [Summon(WWW, INSIDE)]
    only_reply(talk.change(WWW, State.BOOTING))
    assert talk.directory.counts.held_repeated == 2
    assert talk.directory.asked()[WWW] == 3


def test_the_change_of_one_service_leaves_the_queries_for_others() -> None:
    talk = Conversation()
    talk.ask("www.jitsu.test")
    assert talk.change(API, State.AWAKE) == []
    assert talk.change(Name("unheard-of"), State.AWAKE) == []
    assert talk.directory.deadline() is not None


def test_patience_ends_in_servfail() -> None:
    talk = Conversation()
    assert talk.directory.deadline() is None
    talk.ask("www.jitsu.test")
    talk.now += 1
    talk.ask("api.jitsu.test")
    assert talk.directory.deadline() == 100 + PATIENCE
    assert talk.directory.tick(100 + PATIENCE - 0.01) == []
    reply = only_reply(talk.directory.tick(100 + PATIENCE))
    assert (reply.rcode(), str(reply.question[0].name)) == (dns.rcode.SERVFAIL, "www.jitsu.test.")
    assert talk.directory.deadline() == 101 + PATIENCE
    only_reply(talk.directory.tick(200))
    assert (talk.directory.deadline(), talk.directory.counts.held_expired) == (None, 2)


def test_too_many_held_queries_are_servfail_but_summon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "HELD_MAX", 2)
    talk = Conversation()
    for port in (1, 2):
        talk.ask("www.jitsu.test", who=client(port=port))
    effects = talk.ask("api.jitsu.test", use_edns=0)
    assert summoned(effects) == ["api"]
    reply = read(effects[1])
    assert (reply.rcode(), extended(reply)) == (dns.rcode.SERVFAIL, [dns.edns.EDECode.NOT_READY])
    assert talk.ask("www.jitsu.test", who=client(port=1)) == [Summon(WWW, client(port=1))]
    assert talk.directory.counts.held_overflow == 1


# --- services that share a name ------------------------------------------------------------------


def test_all_services_of_a_name_are_summoned_and_answered() -> None:
    talk = Conversation()
    assert summoned(talk.ask("pool.jitsu.test")) == ["db", "db2"]
    assert talk.change(DB, State.BOOTING) == []
    reply = only_reply(talk.change(Name("db2"), State.AWAKE))
    assert sorted(texts(reply)) == ["10.77.0.12", "10.77.0.13"]


def test_a_failed_service_is_left_out_of_a_shared_name() -> None:
    talk = Conversation()
    talk.ask("pool.jitsu.test")
    assert talk.change(DB, State.AWAKE) == []
    assert texts(only_reply(talk.change(Name("db2"), State.FAILED))) == ["10.77.0.12"]
    assert texts(talk.reply("pool.jitsu.test")) == ["10.77.0.12"]
    only_failed = talk.change(DB, State.FAILED)
    assert only_failed == []
    assert talk.reply("pool.jitsu.test").rcode() == dns.rcode.SERVFAIL


def test_patience_ends_with_those_that_are_up() -> None:
    talk = Conversation().states(db=State.AWAKE)
    assert summoned(talk.ask("pool.jitsu.test")) == ["db2"]
    assert texts(only_reply(talk.directory.tick(200))) == ["10.77.0.12"]


# --- whatever happens ----------------------------------------------------------------------------

NAMES = [each.name for each in SERVICES]
STEPS = st.one_of(
    st.tuples(st.sampled_from(["www", "api", "pool", "jitsu", "nope"]), st.integers(1, 4)),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(State)),
    st.floats(0, PATIENCE),
)


@given(st.lists(STEPS, max_size=40))
def test_every_query_is_answered_once_and_in_time(
    steps: list[tuple[str, object] | float],
) -> None:
    talk = Conversation()
    waiting: dict[tuple[int, bytes], float] = {}

    def take(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Respond):
                question = read(effect).question[0].name.to_text().encode()
                began = waiting.pop((effect.client.port, question))
                assert talk.now <= began + 2 * PATIENCE
            else:
                assert isinstance(effect, Summon)

    for step in steps:
        match step:
            case float():
                talk.now += step
                due = talk.directory.deadline()
                take(talk.directory.tick(talk.now))
                assert due is None or due > talk.now or talk.directory.deadline() != due
            case (str() as name, State() as state):
                take(talk.change(Name(name), state))
            case (name, port):
                assert isinstance(port, int)
                waiting.setdefault((port, f"{name}.jitsu.test.".encode()), talk.now)
                take(talk.ask(f"{name}.jitsu.test", who=client(port=port)))
    talk.now += PATIENCE
    take(talk.directory.tick(talk.now))
    assert (waiting, talk.directory.deadline()) == ({}, None)


# --- forwarding ----------------------------------------------------------------------------------


def forwarding() -> Conversation:
    return Conversation(replace(CONFIG, forward=(UPSTREAM,)))


def upstream_reply(data: bytes, count: int = 1) -> dns.message.Message:
    asked = dns.message.from_wire(data)
    reply = dns.message.make_response(asked, recursion_available=True)
    addresses = [f"198.51.100.{number}" for number in range(count)]
    reply.answer.append(dns.rrset.from_text(asked.question[0].name, 30, "IN", "A", *addresses))
    return reply


def test_without_upstreams_other_names_are_refused() -> None:
    reply = Conversation().reply("example.com", use_edns=0)
    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.flags & (dns.flags.AA | dns.flags.RA)
    assert extended(reply) == [dns.edns.EDECode.NOT_AUTHORITATIVE]


def test_other_names_are_forwarded() -> None:
    talk = forwarding()
    data = query("Example.COM", ident=9)
    assert talk.send(data) == [Forward(1, data, (UPSTREAM,))]
    answer = upstream_reply(data).to_wire()
    assert talk.directory.handle(Forwarded(1, answer), 0) == [Respond(INSIDE, answer)]
    assert talk.directory.handle(Forwarded(1, answer), 0) == []


def test_our_names_say_that_recursion_is_available() -> None:
    assert forwarding().reply("nope.jitsu.test").flags & dns.flags.RA


def test_who_wants_no_recursion_is_not_forwarded() -> None:
    reply = forwarding().reply("example.com", flags=0)
    assert reply.rcode() == dns.rcode.REFUSED


def spoil(reply: dns.message.Message, how: str) -> bytes | None:
    match how:
        case "no reply":
            return None
        case "other id":
            reply.id += 1
        case "other name":
            reply.question = dns.message.make_query("example.net", "A").question
        case "other type":
            reply.question = dns.message.make_query("example.com", "AAAA").question
        case "no question":
            reply.question = []
        case "a query":
            reply.flags &= ~dns.flags.QR
        case "cut short":
            return reply.to_wire()[:14]
        case _:
            raise AssertionError(how)
    return reply.to_wire()


@pytest.mark.parametrize(
    "how",
    ["no reply", "other id", "other name", "other type", "no question", "a query", "cut short"],
)
def test_a_bad_upstream_is_servfail(how: str) -> None:
    talk = forwarding()
    data = query("example.com", use_edns=0)
    talk.send(data)
    spoiled = spoil(upstream_reply(data), how)
    reply = only_reply(talk.directory.handle(Forwarded(1, spoiled), 0))
    assert (reply.rcode(), reply.id) == (dns.rcode.SERVFAIL, 1)
    assert extended(reply) == [dns.edns.EDECode.NETWORK_ERROR]
    assert talk.directory.counts.forward_failed == 1


@pytest.mark.parametrize(("transport", "cut"), [("udp", True), ("tcp", False)])
def test_a_long_upstream_answer_is_truncated_over_udp(transport: str, cut: bool) -> None:
    talk = forwarding()
    data = query("example.com")
    talk.send(data, client(transport=transport))
    answer = upstream_reply(data, count=100).to_wire()
    reply = only_reply(talk.directory.handle(Forwarded(1, answer), 0))
    assert bool(reply.flags & dns.flags.TC) is cut
    assert bool(reply.answer) is not cut
    assert reply.flags & dns.flags.RA


def test_too_many_forwarded_queries_are_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "FORWARDS_MAX", 1)
    talk = forwarding()
    talk.ask("example.com")
    assert talk.reply("example.org").rcode() == dns.rcode.SERVFAIL
    assert talk.directory.counts.forward_overflow == 1


def test_no_zone_transfer_is_forwarded() -> None:
    assert forwarding().reply("example.com", "AXFR").rcode() == dns.rcode.REFUSED


# --- the fast path -------------------------------------------------------------------------------


def prepared(talk: Conversation, name: str, rdtype: str = "A", **more: int) -> bool:
    """Ask twice, as the host does; say whether the second answer was prepared, and the same."""
    data = query(name, rdtype, ident=1, **more)
    first = [each.data for each in talk.send(data) if isinstance(each, Respond)]
    again = talk.directory.answer_prepared(b"\xab\xcd" + data[2:])
    assert again is None or [again[2:]] == [each[2:] for each in first]
    assert again is None or again[:2] == b"\xab\xcd"
    return again is not None


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("www.jitsu.test", "A", True),
        ("www.jitsu.test", "AAAA", True),
        ("www.jitsu.test", "MX", True),
        ("jitsu.test", "SOA", True),
        ("jitsu.test", "NS", True),
        ("10.0.77.10.in-addr.arpa", "PTR", True),
        ("api.jitsu.test", "A", False),  # asleep
        ("api.jitsu.test", "MX", True),
        ("pool.jitsu.test", "A", False),  # half of it awake
        ("nope.jitsu.test", "A", False),  # a flood of these must not fill the table
        ("example.com", "A", False),
        ("wWw.jitsu.test", "A", False),
    ],
)
def test_what_is_prepared(name: str, rdtype: str, expected: bool) -> None:
    talk = Conversation().states(www=State.AWAKE, db=State.AWAKE)
    assert prepared(talk, name, rdtype) is expected


def test_variants_of_a_query_are_prepared_apart() -> None:
    talk = Conversation().states(www=State.AWAKE)
    assert prepared(talk, "www.jitsu.test")
    assert prepared(talk, "www.jitsu.test", use_edns=0)
    assert prepared(talk, "www.jitsu.test", use_edns=0, payload=4096)
    cookie = dns.message.make_query("www.jitsu.test", "A", use_edns=0)
    cookie.use_edns(options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"8 bytes.")])
    talk.send(cookie.to_wire())
    assert talk.directory.answer_prepared(cookie.to_wire()) is None


def test_a_tcp_answer_is_not_prepared_for_udp() -> None:
    talk = Conversation().states(www=State.AWAKE)
    data = query("www.jitsu.test")
    talk.send(data, client(transport="tcp"))
    assert talk.directory.answer_prepared(data) is None


@pytest.mark.parametrize("state", [state for state in State if state is not State.AWAKE])
def test_a_change_of_state_drops_what_was_prepared(state: State) -> None:
    talk = Conversation().states(www=State.AWAKE, db=State.AWAKE, db2=State.AWAKE)
    for name in ("www", "db", "pool"):
        assert prepared(talk, f"{name}.jitsu.test")
    talk.states(www=state, db2=state)
    kept = {
        name: talk.directory.answer_prepared(query(f"{name}.jitsu.test"))
        for name in ("www", "db", "pool")
    }
    assert [name for name, data in kept.items() if data is not None] == ["db"]
    talk.states(db=state)
    assert talk.directory.answer_prepared(query("db.jitsu.test")) is None


def test_the_table_of_prepared_replies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PREPARED_MAX", 2)
    talk = Conversation().states(www=State.AWAKE)
    assert prepared(talk, "www.jitsu.test")
    assert prepared(talk, "www.jitsu.test", "MX")
    assert prepared(talk, "www.jitsu.test", "TXT")
    assert talk.directory.answer_prepared(query("www.jitsu.test")) is None
    assert prepared(talk, "www.jitsu.test")


def test_prepared_answers_are_counted() -> None:
    talk = Conversation().states(www=State.AWAKE)
    talk.ask("www.jitsu.test")
    for _ in range(3):
        assert talk.directory.answer_prepared(query("www.jitsu.test"))
    talk.ask("www.jitsu.test")
    assert talk.directory.asked() == {WWW: 5}
    talk.states(www=State.ASLEEP)
    assert talk.directory.asked() == {WWW: 5}


def test_shows_itself_to_the_operator() -> None:
    talk = forwarding()
    talk.ask("www.jitsu.test")
    talk.ask("example.com")
    talk.ask("jitsu.test", "SOA")
    assert repr(talk.directory) == (
        "<Directory of 7 services, 1 queries held, 1 forwarded, 1 replies prepared>"
    )
