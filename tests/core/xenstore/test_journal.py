"""What is written down, and what comes of reading it."""

import itertools
import random

import pytest

from core.xenstore.conversation import Conversation
from core.xenstore.test_serial import schedule
from jitsu.core.xenstore import journal
from jitsu.core.xenstore.access import render
from jitsu.core.xenstore.journal import Introduced, Recovered
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import Effect, Persist
from jitsu.core.xenstore.tree import Node, walk
from jitsu.errors import WireError
from jitsu.wire.xenstore import Message, Op, encode


def log_of(effects: list[Effect]) -> bytes:
    return b"".join(effect.record for effect in effects if isinstance(effect, Persist))


def read(*data: bytes) -> Recovered:
    recovered = Recovered()
    for piece in data:
        assert recovered.load(piece) == len(piece)
    return recovered


def nodes(root: Node) -> dict[bytes, tuple[bytes, object]]:
    return {path: (node.value, node.perms) for path, node in walk(root, b"/")}


def lived() -> Conversation:
    """Return a store that has one of everything."""
    store = Conversation()
    store.says(
        ("dom0", "INTRODUCE 1|12345678901|5|", "OK|"),
        ("dom0", "INTRODUCE 2|2|6|", "OK|"),
        ("dom0", "INTRODUCE 3|3|7|", "OK|"),
        ("dom0", "SET_TARGET 2|1|", "OK|"),
        ("dom0", "WRITE /listen|", "OK|"),
        ("dom0", "SET_PERMS /listen|b1|r4|c1|", "OK|"),
        ("2", "WRITE /listen/two|\xff|", "OK|"),
        ("dom0", "WRITE /|top", "OK|"),
        ("dom0", "WRITE /gone/soon|", "OK|"),
        ("dom0", "WRITE /of3|", "OK|"),
        ("dom0", "SET_PERMS /of3|n3|", "OK|"),
        ("dom0", "RM /gone|", "OK|"),
        ("dom0", "SET_PERMS @releaseDomain|n0|r2|", "OK|"),
        ("dom0", "RELEASE 3|", "OK|"),
        ("dom0 t", "TRANSACTION_START |", ...),
        ("dom0 t", "WRITE /of/a/transaction|", "OK|"),
        ("dom0 t", "TRANSACTION_END T|", "OK|"),
    )
    return store


@pytest.mark.parametrize("how", ["log", "snapshot"])
def test_all_of_it_comes_back(how: str) -> None:
    store = lived()
    written = log_of(store.effects) if how == "log" else b"".join(store.server.snapshot())
    recovered = read(written)
    assert recovered.ended == (how == "snapshot")
    assert nodes(recovered.root) == nodes(store.server.store.root)
    assert recovered.domains == {
        1: Introduced(1, 12345678901, 5),
        2: Introduced(2, 2, 6, target=1),
    }
    again = Conversation(Server(recovered))
    again.says(
        ("dom0", "CONTROL check|", "OK\n|"),
        ("2", "WATCH @releaseDomain|t|", "OK|"),
        ("1", "READ /listen/two|", "\xff|"),
        ("5", "READ /listen/two|", "!EACCES"),
        ("dom0", "GET_PERMS /listen|c|", "b1|r4|c1|"),
        ("dom0", "GET_DOMAIN_PATH 1|", "/local/domain/1|"),
        ("dom0", "READ /|", "top"),
    )
    assert again.server.store.held == store.server.store.held
    assert render(recovered.special[b"@releaseDomain"]) == b"n0\0r2\0"


@pytest.mark.parametrize("seed", range(30))
def test_any_log_makes_the_same_store(seed: int) -> None:
    store = Conversation()
    store.says(("dom0", "WRITE /a|", "OK|"), ("dom0", "SET_PERMS /a|b0|", "OK|"))
    for who, step in schedule(random.Random(seed)):
        if isinstance(step, tuple):
            op, payload = step
            store.send(["dom0", "dom0b", "1", "2"][who], Message(op, 7, 0, payload))
    expected = nodes(store.server.store.root)
    assert nodes(read(log_of(store.effects)).root) == expected
    assert nodes(read(b"".join(store.server.snapshot())).root) == expected


def test_a_snapshot_of_many_nodes_has_many_records_and_goes_on_beside_the_work() -> None:
    store = Conversation()
    client = store.client("dom0")
    for i in range(2 * journal.SNAPSHOT_BATCH):
        request = encode(Message(Op.WRITE, 1, 0, b"/a/%d\0" % i))
        store.server.receive(client, request, 0.0)
    before = nodes(store.server.store.root)
    records = iter(store.server.snapshot())
    first = next(records)
    client.take()
    for i in range(2 * journal.SNAPSHOT_BATCH):
        store.says(("dom0", f"WRITE /a/{i}/later|", "OK|"))
    store.says(("dom0", "RM /a|", "OK|"))
    rest = list(records)
    assert len(rest) > 2
    assert nodes(read(first, *rest).root) == before
    assert store.server.store.snapshots == 0


def test_a_record_that_is_not_whole_is_left() -> None:
    store = lived()
    written = log_of(store.effects)
    for cut in (1, 7, 8, 9, 20):
        recovered = Recovered()
        assert recovered.load(written + written[:cut]) == len(written)
    damaged = bytearray(written)
    damaged[-1] ^= 1
    assert Recovered().load(bytes(damaged)) < len(written)  # the last: it was being written


def test_a_damaged_record_that_others_follow() -> None:
    written = bytearray(log_of(lived().effects))
    written[12] ^= 1
    with pytest.raises(WireError, match="byte 0 is damaged"):
        Recovered().load(bytes(written))


def test_a_length_that_is_damaged_is_not_taken_for_the_end() -> None:
    """Or all that follows would be cut off as if it had never been acknowledged."""
    records = [effect.record for effect in lived().effects if isinstance(effect, Persist)]
    written = b"".join(records)
    ends = list(itertools.accumulate(map(len, records), initial=0))
    for begin in ends[:-2]:
        for bit in range(32):
            damaged = bytearray(written)
            damaged[begin + 4 + bit // 8] ^= 1 << bit % 8
            with pytest.raises(WireError):
                Recovered().load(bytes(damaged))


@pytest.mark.parametrize(
    "body",
    [
        b"\x09" + bytes(6),  # a kind that is none
        b"\x01",  # cut short
        b"\x01\x01\x00\x00\x00\x00\x00/",  # no permissions
        b"\x02\x02\x00\x00\x00\x00\x00/a",  # removes what is not there
        b"\x02\x01\x00\x00\x00\x00\x00/",  # removes the root
        b"\x02\x03\x00\x00\x00\x00\x00/ b",  # no path
        b"\x03\x00\x00\x00\x00\x00\x00",  # no domain
    ],
)
def test_a_record_that_was_never_ours(body: bytes) -> None:
    with pytest.raises(WireError, match=r"makes no sense|no entry has kind"):
        Recovered().load(journal._record([body]))
