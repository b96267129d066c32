"""What stands in an answer: tables of query -> rcode and sections; and bytes of any kind."""

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.resolver
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.test_directory import (
    CONFIG,
    INSIDE,
    SERVICES,
    Conversation,
    client,
    only_reply,
    query,
    read,
    service,
    summoned,
    texts,
)
from jitsu.core.directory import Respond
from jitsu.core.question import PAYLOAD
from jitsu.core.zone import Zones
from jitsu.model import State

SOA = "ns.jitsu.test. hostmaster.jitsu.test. 7 3600 600 604800 60"
V6 = IPv6Address("fd77::10").reverse_pointer
NOERROR, NXDOMAIN, REFUSED = dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.REFUSED

ANSWERS = [
    # name, type, rcode, answer, zone whose SOA denies it
    ("www.jitsu.test", "A", NOERROR, ["10.77.0.10"], None),
    ("www.jitsu.test", "AAAA", NOERROR, ["fd77::10"], None),
    ("api.jitsu.test", "AAAA", NOERROR, [], "jitsu.test."),
    ("www.jitsu.test", "MX", NOERROR, [], "jitsu.test."),
    ("www.jitsu.test", "SOA", NOERROR, [], "jitsu.test."),
    ("www.jitsu.test", "ANY", NOERROR, ['"RFC8482" ""'], None),
    ("nope.jitsu.test", "A", NXDOMAIN, [], "jitsu.test."),
    ("x.www.jitsu.test", "A", NXDOMAIN, [], "jitsu.test."),
    ("nope.jitsu.test", "ANY", NXDOMAIN, [], "jitsu.test."),
    ("jitsu.test", "A", NOERROR, [], "jitsu.test."),
    ("jitsu.test", "SOA", NOERROR, [SOA], None),
    ("jitsu.test", "NS", NOERROR, ["ns.jitsu.test."], None),
    ("ns.jitsu.test", "A", NOERROR, ["10.77.0.1"], None),
    ("ns.jitsu.test", "AAAA", NOERROR, ["fd77::1"], None),
    # Zones nest: b.c.jitsu.test is one of its own, c.jitsu.test an empty non-terminal between.
    ("a.b.c.jitsu.test", "A", NOERROR, ["10.77.0.14"], None),
    ("b.c.jitsu.test", "NS", NOERROR, ["ns.b.c.jitsu.test."], None),
    ("b.c.jitsu.test", "A", NOERROR, [], "b.c.jitsu.test."),
    ("c.jitsu.test", "A", NOERROR, [], "jitsu.test."),
    ("c.jitsu.test", "ANY", NOERROR, [], "jitsu.test."),
    ("x.c.jitsu.test", "A", NXDOMAIN, [], "jitsu.test."),
    ("solo", "A", NOERROR, ["10.77.0.15"], None),
    ("solo", "NS", NOERROR, ["ns.solo."], None),
    ("x.solo", "A", NXDOMAIN, [], "solo."),
    # The way back: each address is a zone, its neighbours are not ours.
    ("10.0.77.10.in-addr.arpa", "PTR", NOERROR, ["www.jitsu.test."], None),
    ("12.0.77.10.in-addr.arpa", "PTR", NOERROR, ["db.jitsu.test."], None),
    ("10.0.77.10.in-addr.arpa", "NS", NOERROR, ["ns.jitsu.test."], None),
    ("10.0.77.10.in-addr.arpa", "A", NOERROR, [], "10.0.77.10.in-addr.arpa."),
    ("1.10.0.77.10.in-addr.arpa", "PTR", NXDOMAIN, [], "10.0.77.10.in-addr.arpa."),
    (V6, "PTR", NOERROR, ["www.jitsu.test."], None),
    ("16.0.77.10.in-addr.arpa", "PTR", REFUSED, [], None),
    ("0.77.10.in-addr.arpa", "SOA", REFUSED, [], None),
    # Not ours.
    ("test", "NS", REFUSED, [], None),
    ("example.com", "A", REFUSED, [], None),
    (".", "NS", REFUSED, [], None),
    ("jitsu.test", "AXFR", REFUSED, [], None),
    ("jitsu.test", "IXFR", REFUSED, [], None),
]


def awake() -> Conversation:
    return Conversation().states(**{each.name: State.AWAKE for each in SERVICES})


@pytest.mark.parametrize(("name", "rdtype", "rcode", "answer", "denied_by"), ANSWERS)
def test_answers(
    name: str, rdtype: str, rcode: dns.rcode.Rcode, answer: list[str], denied_by: str | None
) -> None:
    reply = awake().reply(name, rdtype)
    assert (reply.rcode(), texts(reply)) == (rcode, answer)
    assert [str(each.name) for each in reply.authority] == ([denied_by] if denied_by else [])
    for soa in reply.authority:
        assert (soa.rdtype, soa.ttl, soa[0].minimum) == (dns.rdatatype.SOA, 60, 60)
    assert bool(reply.flags & dns.flags.AA) is (rcode != REFUSED)
    assert all(each.ttl == 60 for each in reply.answer)
    assert reply.question == dns.message.make_query(name, rdtype).question
    assert (reply.edns, reply.flags & dns.flags.RA) == (-1, 0)


def test_a_name_server_comes_with_its_addresses() -> None:
    reply = awake().reply("jitsu.test", "NS")
    assert sorted(str(record) for rrset in reply.additional for record in rrset) == [
        "10.77.0.1",
        "fd77::1",
    ]
    assert {str(rrset.name) for rrset in reply.additional} == {"ns.jitsu.test."}


def test_a_resolver_understands_the_answers() -> None:
    for name, rdtype, expected in (
        ("www.jitsu.test", "A", "10.77.0.10"),
        ("10.0.77.10.in-addr.arpa", "PTR", "www.jitsu.test."),
    ):
        reply = awake().reply(name, rdtype)
        assert isinstance(reply, dns.message.QueryMessage)
        question = reply.question[0]
        answer = dns.resolver.Answer(question.name, question.rdtype, question.rdclass, reply)
        assert [str(record) for record in answer] == [expected]
        assert answer.chaining_result.minimum_ttl == 60
    denied = awake().reply("nope.jitsu.test")
    assert isinstance(denied, dns.message.QueryMessage)
    assert denied.resolve_chaining().minimum_ttl == 60


def test_a_service_called_ns_keeps_its_name() -> None:
    ns = service("ns", 20)
    talk = Conversation(
        services=[ns, service("www", 10), service("x", 21, dns=("x.ns.jitsu.test",))]
    )
    talk.states(ns=State.AWAKE)
    assert texts(talk.reply("ns.jitsu.test")) == ["10.77.0.20"]
    assert texts(talk.reply("ns.jitsu.test", "NS")) == ["ns.ns.jitsu.test."]


def test_a_zone_without_room_for_the_name_ns_is_its_own_name_server() -> None:
    origin = ".".join(["o" * 63] * 3 + ["o" * 59])
    talk = Conversation(services=[service("w", 20, dns=(f"w.{origin}",))]).states(w=State.AWAKE)
    assert texts(talk.reply(f"w.{origin}")) == ["10.77.0.20"]
    over_tcp = client(transport="tcp")  # such names do not fit twice into 512 bytes
    assert texts(talk.reply(origin, "NS", over_tcp)) == [f"{origin}."]
    assert texts(talk.reply(origin, "A", over_tcp)) == ["10.77.0.1"]
    assert len(texts(talk.reply(origin, "SOA", over_tcp))) == 1


def test_zones_show_their_names() -> None:
    zones = Zones(CONFIG, [service("www", 10)], 2**32)
    assert repr(zones) == "<Zones jitsu.test. 10.0.77.10.in-addr.arpa.>"


# --- the header ----------------------------------------------------------------------------------


def test_the_case_of_a_name_is_kept() -> None:
    for name, rdtype in (("wWw.JitsU.TEST", "A"), ("nOpE.jItSu.tEsT", "A"), ("JITSU.test", "NS")):
        (effect,) = awake().ask(name, rdtype)
        reply = read(effect)
        asked = dns.name.from_text(name).labels
        assert reply.question[0].name.labels == asked
        assert all(rrset.name.labels == asked for rrset in reply.answer)


@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.RD | dns.flags.CD | dns.flags.AD])
def test_recursion_desired_is_copied(flags: int) -> None:
    reply = awake().reply("www.jitsu.test", flags=flags)
    assert reply.flags == dns.flags.QR | dns.flags.AA | flags & dns.flags.RD


@pytest.mark.parametrize(
    ("spoil", "rcode"),
    [
        ({"flags": dns.opcode.to_flags(dns.opcode.NOTIFY)}, dns.rcode.NOTIMP),
        ({"flags": dns.opcode.to_flags(dns.opcode.UPDATE) | 0x0100}, dns.rcode.NOTIMP),
        ({"questions": 0}, dns.rcode.FORMERR),
        ({"questions": 2}, dns.rcode.FORMERR),
        ({"answers": 1}, dns.rcode.FORMERR),
        ({"additional": 5}, dns.rcode.FORMERR),
        ({"cut": 1}, dns.rcode.FORMERR),
        ({"more": b"x"}, dns.rcode.FORMERR),
        ({"more": bytes(PAYLOAD)}, dns.rcode.FORMERR),
    ],
)
def test_what_cannot_be_understood(spoil: dict[str, int | bytes], rcode: dns.rcode.Rcode) -> None:
    data = bytearray(query("www.jitsu.test", ident=0x1234))
    places = {"flags": 2, "questions": 4, "answers": 6, "additional": 10}
    for what, value in spoil.items():
        match what, value:
            case ("cut", int()):
                del data[-value:]
            case ("more", bytes()):
                data += value
            case _:
                assert isinstance(value, int)
                data[places[what] : places[what] + 2] = value.to_bytes(2)
    effects = awake().send(bytes(data))
    (respond,) = effects
    assert isinstance(respond, Respond)
    assert len(respond.data) == 12
    reply = only_reply(effects)
    assert (reply.id, reply.rcode()) == (0x1234, rcode)
    assert reply.opcode() == dns.opcode.from_flags(int.from_bytes(data[2:4]))
    assert reply.flags & dns.flags.RD == int.from_bytes(data[2:4]) & dns.flags.RD


@pytest.mark.parametrize("rdclass", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_are_refused(rdclass: str) -> None:
    data = dns.message.make_query("version.bind", "TXT", rdclass).to_wire()
    assert only_reply(awake().send(data)).rcode() == REFUSED


def test_what_is_never_answered() -> None:
    talk = awake()
    response = dns.message.make_response(dns.message.make_query("www.jitsu.test", "A"))
    assert talk.send(response.to_wire()) == []
    assert talk.send(b"") == []
    assert talk.send(query("www.jitsu.test")[:11]) == []
    counts = talk.directory.counts
    assert (counts.dropped_short, counts.dropped_response, counts.queries) == (2, 1, 0)


# --- EDNS and length -----------------------------------------------------------------------------


def test_edns_is_spoken_with_those_who_do() -> None:
    reply = awake().reply("www.jitsu.test", use_edns=0, payload=4096)
    assert (reply.edns, reply.payload, reply.ednsflags, reply.options) == (0, PAYLOAD, 0, ())
    assert awake().reply("www.jitsu.test", want_dnssec=True).ednsflags == dns.flags.DO


def test_a_later_edns_is_a_bad_version() -> None:
    talk = Conversation()
    reply = talk.reply("www.jitsu.test", use_edns=1)
    assert (reply.rcode(), reply.edns, reply.answer) == (dns.rcode.BADVERS, 0, [])
    assert talk.directory.counts.bad_version == 1


def crowd(count: int) -> Conversation:
    services = [
        service(f"s{number}", 0, dns=("pool.jitsu.test",), address=IPv4Address(0x0A4D0000 + number))
        for number in range(count)
    ]
    return Conversation(services=services).states(**{each.name: State.AWAKE for each in services})


@pytest.mark.parametrize(
    ("count", "transport", "payload", "cut"),
    [
        (29, "udp", 0, False),  # header 12, question 21, each address 16: 497 bytes
        (30, "udp", 0, True),
        (30, "udp", 100, True),
        (30, "udp", 600, False),
        (74, "udp", 65535, False),  # and EDNS 11: 1228 bytes
        (75, "udp", 65535, True),
        (75, "tcp", 0, False),
        (4093, "tcp", 0, False),
        (4094, "tcp", 0, True),
    ],
)
def test_long_answers(count: int, transport: str, payload: int, cut: bool) -> None:
    name = "pool.jitsu.test"
    data = query(name, use_edns=0, payload=payload) if payload else query(name)
    (effect,) = crowd(count).send(data, client(transport=transport))
    assert isinstance(effect, Respond)
    limit = 65535 if transport == "tcp" else max(512, min(payload, PAYLOAD))
    assert len(effect.data) <= limit
    assert bool(effect.data[2] & 2) is cut
    assert int.from_bytes(effect.data[6:8]) == (0 if cut else count)


def test_additional_records_make_room_first() -> None:
    endpoints = tuple(
        replace(CONFIG.listen[0], address=IPv4Address(0x0A4D0000 + number)) for number in range(40)
    )
    reply = Conversation(replace(CONFIG, listen=endpoints)).reply("jitsu.test", "NS")
    assert (texts(reply), reply.additional) == (["ns.jitsu.test."], [])
    assert not reply.flags & dns.flags.TC


# --- bytes of any kind ---------------------------------------------------------------------------


def check_any(talk: Conversation, data: bytes) -> None:
    """Whatever comes: nothing raises, responses are dropped, and what goes out is DNS."""
    is_query = len(data) >= 12 and not data[2] & 0x80
    effects = talk.send(data)
    if not is_query:
        assert effects == []
        assert talk.directory.answer_prepared(data) is None
        return
    assert effects
    for effect in effects:
        if isinstance(effect, Respond):
            assert effect.data[:2] == data[:2]
            assert effect.data[2] & 0x80
            assert len(effect.data) <= PAYLOAD


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    check_any(awake(), data)


@given(st.binary(max_size=60), st.integers(0, 3), st.booleans())
def test_any_bytes_after_a_header(data: bytes, records: int, response: bool) -> None:
    header = b"\x12\x34" + (b"\x81\x00" if response else b"\x01\x00")
    counts = b"\x00\x01" + bytes(4) + records.to_bytes(2)
    check_any(awake(), header + counts + data)


def mutants(count: int, seed: int) -> None:
    """Send valid queries with some of their bytes changed, cut off or doubled."""
    chance = random.Random(seed)
    names = ("www.jitsu.test", "nope.jitsu.test", "10.0.77.10.in-addr.arpa", "example.com", ".")
    originals = [
        query(name, rdtype, ident=chance.randrange(65536), **edns)
        for name in names
        for rdtype in ("A", "AAAA", "SOA", "ANY")
        for edns in ({}, {"use_edns": 0}, {"want_dnssec": 1})
    ]
    talk = awake()
    for _ in range(count):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    data[place] ^= 1 << chance.randrange(8)
                case 2:
                    del data[place + 1 :]
                case _:
                    data[place:place] = data[place : place + chance.randrange(8)]
        check_any(talk, bytes(data))
    assert talk.directory.counts.malformed > count // 10
    good = only_reply(talk.ask("www.jitsu.test", who=INSIDE))
    assert (good.rcode(), texts(good)) == (NOERROR, ["10.77.0.10"])
    assert summoned(talk.ask("www.jitsu.test")) == []


def test_10_000_malformed_packets() -> None:
    mutants(10_000, seed=1)


@pytest.mark.slow
def test_100_000_malformed_packets() -> None:
    mutants(100_000, seed=2)
