"""Every request, its replies and its errors, by tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.xenstore.conversation import Conversation, Line
from jitsu.core.xenstore import calls
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.journal import Introduced
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.space import Space
from jitsu.core.xenstore.store import Close, Persist, Released, Send
from jitsu.wire.xenstore import HEADER, PAYLOAD_MAX, Message, Messages, Op, encode, join

LONG = "x" * 3072

TREE: list[Line] = [
    ("dom0", "READ /|", ""),
    ("dom0", "WRITE /a/b|hello", "OK|"),
    ("dom0", "READ /a/b|", "hello"),
    ("dom0", "READ /a|", ""),
    ("dom0", "WRITE /a/b|", "OK|"),
    ("dom0", "READ /a/b|", ""),
    ("dom0", "WRITE /a/b|\x00\xff|\x00", "OK|"),
    ("dom0", "READ /a/b|", "|\xff||"),
    ("dom0", "MKDIR /a/c|", "OK|"),
    ("dom0", "MKDIR /a/b|", "OK|"),
    ("dom0", "READ /a/b|", "|\xff||"),
    ("dom0", "DIRECTORY /a|", "b|c|"),
    ("dom0", "DIRECTORY /a/b|", ""),
    ("dom0", "RM /a/b|", "OK|"),
    ("dom0", "RM /a/b|", "OK|"),
    ("dom0", "READ /a/b|", "!ENOENT"),
    ("dom0", "DIRECTORY /a/b|", "!ENOENT"),
    ("dom0", "GET_PERMS /a/b|", "!ENOENT"),
    ("dom0", "SET_PERMS /a/b|n0|", "!ENOENT"),
    ("dom0", "RM /a/b/c|", "!ENOENT"),
    ("dom0", "RM /|", "!EINVAL"),
    ("dom0", "WRITE /|top", "OK|"),
    ("dom0", "READ /|", "top"),
    # Relative paths begin at the domain's home.
    ("dom0", "WRITE name|Domain-0", "OK|"),
    ("dom0", "READ /local/domain/0/name|", "Domain-0"),
    ("dom0", "READ name|", "Domain-0"),
    # Directories are in order of their names, not of creation.
    ("dom0", "WRITE /o/2|", "OK|"),
    ("dom0", "WRITE /o/1|", "OK|"),
    ("dom0", "WRITE /o/10|", "OK|"),
    ("dom0", "DIRECTORY /o|", "1|10|2|"),
    # Permissions.
    ("dom0", "GET_PERMS /a|", "n0|"),
    ("dom0", "SET_PERMS /a|b3|r4|w5|", "OK|"),
    ("dom0", "GET_PERMS /a|", "b3|r4|w5|"),
    ("dom0", "SET_PERMS /a|", "!EINVAL"),
    ("dom0", "SET_PERMS /a", "!EINVAL"),
    ("dom0", "SET_PERMS /a|x3|", "!EINVAL"),
    ("dom0", "SET_PERMS /a|n|", "!EINVAL"),
    ("dom0", "SET_PERMS /a|n-1|", "!EINVAL"),
    ("dom0", "SET_PERMS /a|n32752|", "!EINVAL"),
    ("dom0", "SET_PERMS /a|n0000007|", "!EINVAL"),  # and not domain 0's
    ("dom0", "SET_PERMS /a|c1|", "!EINVAL"),
    ("dom0", "SET_PERMS /a|n0" + "|r1" * 33 + "|", "!ENOSPC"),
    ("dom0", "SET_PERMS /a|n0" + "|r1" * 32 + "|", "OK|"),
    ("dom0", "GET_PERMS /a|d|", "!EINVAL"),
    ("dom0", "GET_PERMS /a", "!EINVAL"),
    # Paths that are none.
    ("dom0", "READ /a/|", "!EINVAL"),
    ("dom0", "READ //a|", "!EINVAL"),
    ("dom0", "READ /a b|", "!EINVAL"),
    ("dom0", "READ |", "!EINVAL"),
    ("dom0", "READ /a", "!EINVAL"),
    ("dom0", "READ ", "!EINVAL"),
    ("dom0", "READ /a|b|", "!EINVAL"),
    ("dom0", "WRITE /a", "!EINVAL"),
    ("dom0", "WRITE /a\n|1", "!EINVAL"),
    ("dom0", "MKDIR /\xe4|", "!EINVAL"),
    ("dom0", f"READ /{LONG[1:]}|", "!ENOENT"),
    ("dom0", f"READ /{LONG}|", "!EINVAL"),
    ("dom0", f"READ {LONG[:2048]}|", "!ENOENT"),
    ("dom0", f"READ {LONG[:2049]}|", "!EINVAL"),
    ("dom0", "READ @introduceDomain|", "!EINVAL"),
    ("dom0", "READ @other|", "!EINVAL"),
    # Listings in parts.
    ("dom0", "DIRECTORY_PART /o|", "!EINVAL"),
    ("dom0", "DIRECTORY_PART /o|x|", "!EINVAL"),
    ("dom0", "DIRECTORY_PART /nothing|0|", "!ENOENT"),
]

CONNECTION: list[Line] = [
    ("dom0", "TRANSACTION_END T|", "!ENOENT"),
    ("dom0 t", "TRANSACTION_START |", ...),
    ("dom0 t", "TRANSACTION_END X|", "!EINVAL"),
    ("dom0 t", "WRITE /a|1", "OK|"),
    ("1 t", "READ /a|", "!ENOENT"),  # it is another client's
    ("dom0 t", "TRANSACTION_END F|", "OK|"),
    ("dom0 t", "TRANSACTION_END T|", "!ENOENT"),
    ("dom0 t", "READ /a|", "!ENOENT"),
    ("dom0", "READ /a|", "!ENOENT"),
    ("dom0", "WATCH /a|token|", "OK|"),
    ("dom0", "WATCH /a|token|", "!EEXIST"),
    ("dom0", "WATCH /a|other|", "OK|"),
    ("dom0", "WATCH /a|", "!EINVAL"),
    ("dom0", "WATCH /a|token|1|", "!EINVAL"),
    ("dom0", "WATCH /a|token", "!EINVAL"),
    ("dom0", "WATCH @nothing|token|", "!EINVAL"),
    ("dom0", "WATCH a//b|token|", "!EINVAL"),
    ("dom0", "UNWATCH /a|token|", "OK|"),
    ("dom0", "UNWATCH /a|token|", "!ENOENT"),
    ("dom0 t", "TRANSACTION_START |", ...),
    ("dom0", "RESET_WATCHES |", "OK|"),
    ("dom0", "UNWATCH /a|other|", "!ENOENT"),
    ("dom0 t", "READ /|", "!ENOENT"),
    # A transaction that is not there is refused by what has nothing to do with it, too.
    ("dom0 t", "WATCH /a|token|", "!ENOENT"),
    ("dom0", "UNWATCH /a|token|", "!ENOENT"),
    ("dom0 t", "RESET_WATCHES |", "!ENOENT"),
    ("dom0 t", "GET_PERMS @introduceDomain|", "!ENOENT"),
    ("dom0 t", "GET_DOMAIN_PATH 7|", "!ENOENT"),
    ("dom0 t", "INTRODUCE 7|1|1|", "!ENOENT"),
    ("dom0", "IS_DOMAIN_INTRODUCED 7|", "F|"),
]

DOMAINS: list[Line] = [
    ("dom0", "GET_DOMAIN_PATH 7|", "/local/domain/7|"),
    ("1", "GET_DOMAIN_PATH 7|", "/local/domain/7|"),
    ("dom0", "GET_DOMAIN_PATH x|", "!EINVAL"),
    ("dom0", "GET_DOMAIN_PATH 32752|", "!EINVAL"),
    ("dom0", "GET_DOMAIN_PATH 7", "!EINVAL"),
    ("dom0", "IS_DOMAIN_INTRODUCED 0|", "T|"),
    ("dom0", "IS_DOMAIN_INTRODUCED 7|", "F|"),
    ("dom0", "INTRODUCE 7|1234|5|", "OK|"),
    ("dom0", "IS_DOMAIN_INTRODUCED 7|", "T|"),
    ("dom0", "INTRODUCE 7|1234|5|", "OK|"),
    ("dom0", "INTRODUCE 7|1234|6|", "OK|"),
    ("dom0", "INTRODUCE 0|1234|5|", "!EINVAL"),
    ("dom0", "INTRODUCE 8|1234|0|", "!EINVAL"),
    ("dom0", "INTRODUCE 8|1234|", "!EINVAL"),
    ("dom0", "INTRODUCE 8|99999999999999999999|1|", "!EINVAL"),
    ("dom0", "INTRODUCE 8|1|4294967296|", "!EINVAL"),
    ("1", "INTRODUCE 8|1234|5|", "!EACCES"),
    ("dom0", "SET_TARGET 7|8|", "!ENOENT"),
    ("dom0", "INTRODUCE 8|1234|5|", "OK|"),
    ("dom0", "SET_TARGET 7|8|", "OK|"),
    ("dom0", "SET_TARGET 7|", "!EINVAL"),
    ("1", "SET_TARGET 1|8|", "!EACCES"),
    ("dom0", "RESUME 7|", "OK|"),
    ("dom0", "RESUME 9|", "!ENOENT"),
    ("1", "RESUME 7|", "!EACCES"),
    ("1", "RELEASE 7|", "!EACCES"),
    ("dom0", "RELEASE 0|", "!EINVAL"),
    ("dom0", "RELEASE 7|", "OK|"),
    ("dom0", "RELEASE 7|", "!ENOENT"),
    ("dom0", "IS_DOMAIN_INTRODUCED 7|", "F|"),
]

CONTROL: list[Line] = [
    ("1", "CONTROL help|", "!EACCES"),
    ("dom0", "CONTROL nothing|", "!EINVAL"),
    ("dom0", "CONTROL check|now|", "!EINVAL"),
    ("dom0", "CONTROL help|", "help\ncheck\nquota\nstats\n|"),
    ("dom0", "CONTROL check|", "OK\n|"),
]


@pytest.mark.parametrize(
    "table",
    [TREE, CONNECTION, DOMAINS, CONTROL],
    ids=["tree", "connection", "domains", "control"],
)
def test_requests(table: list[Line]) -> None:
    Conversation().says(*table)


def test_control_tells_what_there_is() -> None:
    store = Conversation()
    store.says(
        ("dom0", "WRITE /a/b|1", "OK|"),
        ("dom0", "SET_PERMS /a/b|n1|", "OK|"),
        ("dom0", "WATCH /a|t|", "OK|"),
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "CONTROL check|", "OK\n|"),
    )
    stats = store.ask("dom0", "CONTROL stats|")
    for line in ("nodes: 3", "domains: 1", "connections: 1", "watches: 1", "conflicts: 0"):
        assert line in stats.splitlines()
    assert "nodes: 1000" in store.ask("dom0", "CONTROL quota|").splitlines()
    store.server.store.held[1] += 1
    assert store.ask("dom0", "CONTROL check|") == "counted {1: 2}, found {1: 1}\n|"


def test_a_transaction_within_a_transaction() -> None:
    store = Conversation()
    store.says(("dom0 t", "TRANSACTION_START |", "1|"))
    assert store.send("dom0", Message(Op.TRANSACTION_START, 7, 1, b"\0")) == "!EBUSY"


def test_numbers_of_transactions_begin_anew_and_pass_over_those_in_use() -> None:
    store = Conversation()
    store.says(("dom0", "TRANSACTION_START |", "1|"))
    store.client("dom0").serial = (1 << 32) - 2
    store.says(
        ("dom0", "TRANSACTION_START |", "4294967295|"),
        ("dom0", "TRANSACTION_START |", "2|"),
    )


def test_a_request_that_is_none() -> None:
    store = Conversation()
    for op in (Op.WATCH_EVENT, Op.ERROR, 20, 23, 1 << 31):
        client = store.client("dom0")
        server = store.server
        server.receive(client, HEADER.pack(op, 7, 0, 0), 0.0)
        (reply,) = Messages().feed(client.take())
        assert (reply.op, reply.payload) == (Op.ERROR, b"ENOSYS\0")


def test_special_permissions_are_set_in_a_transaction_too_as_debians_chmod_does() -> None:
    store = Conversation()
    store.says(
        ("dom0 t", "TRANSACTION_START |", ...),
        ("dom0 t", "SET_PERMS @releaseDomain|n0|r1|", "OK|"),
        ("dom0 t", "GET_PERMS @releaseDomain|", "n0|r1|"),
        ("dom0 t", "READ @releaseDomain|", "!EINVAL"),
        ("1 t", "GET_PERMS @releaseDomain|", "!ENOENT"),
        ("dom0 t", "TRANSACTION_END T|", "OK|"),
        ("1", "WATCH @releaseDomain|t|", "OK|"),
    )


def test_a_listing_that_is_too_long_comes_in_parts() -> None:
    store = Conversation()
    names = sorted(f"{i:03}-{'x' * 60}" for i in range(200))
    for name in names:
        store.says(("dom0", f"WRITE /a/{name}|", "OK|"))
    store.says(("dom0", "DIRECTORY /a|", "!E2BIG"))
    listing, generation = "", ""
    while not listing.endswith("||"):
        part = store.ask("dom0", f"DIRECTORY_PART /a|{len(listing)}|")
        assert len(part) <= PAYLOAD_MAX
        now, _, more = part.partition("|")
        assert generation in ("", now)
        generation, listing = now, listing + more
    assert listing == "|".join(names) + "||"
    assert store.ask("dom0", "DIRECTORY_PART /a|99999|") == f"{generation}||"
    second = store.ask("dom0", "DIRECTORY_PART /a|65|")
    assert store.ask("dom0", "DIRECTORY_PART /a|000000000065|") == second
    store.says(("dom0", "WRITE /a/more|", "OK|"))
    assert not store.ask("dom0", "DIRECTORY_PART /a|0|").startswith(generation + "|")


def test_a_reply_that_is_too_long() -> None:
    """Permissions of many domains fit a request, but what is added might not fit a reply."""
    store = Conversation()
    client = store.client("dom0")
    client.reply(Message(Op.READ, 7, 0, b""), Op.READ, bytes(PAYLOAD_MAX + 1))
    (reply,) = Messages().feed(client.take())
    assert (reply.op, reply.payload) == (Op.ERROR, b"E2BIG\0")


def test_pieces_of_any_size() -> None:
    server = Server()
    client = server.connect()
    requests = b"".join(
        HEADER.pack(Op.WRITE, i, 0, len(payload)) + payload
        for i, payload in enumerate([b"/a\x001", b"/b\x002", b"/c\x003"])
    )
    replies = b""
    for i in range(len(requests)):
        server.receive(client, requests[i : i + 1], 0.0)
        assert len(client.messages) < HEADER.size + 4
        replies += client.take()
    assert [message.request for message in Messages().feed(replies)] == [0, 1, 2]


def test_what_is_too_long_costs_its_client_the_connection() -> None:
    store = Conversation()
    store.says(("dom0b", "WATCH /a|t|", "OK|"))
    client = store.client("dom0")
    effects = store.server.receive(client, HEADER.pack(Op.READ, 1, 0, PAYLOAD_MAX + 1), 0.0)
    assert effects == [Close(client, "XenStore message of 4097 bytes")]
    assert store.server.receive(client, HEADER.pack(Op.READ, 1, 0, 3) + b"/a\0", 0.0) == []
    store.server.disconnect(client)  # the host does so too
    store.says(("dom0b", "WRITE /a|1", "OK|"))
    assert store.events("dom0b") == ["/a|t|", "/a|t|"]


def test_a_commit_is_written_down_before_anybody_hears_of_it() -> None:
    store = Conversation()
    store.says(("dom0b", "WATCH /a|t|", "OK|"))
    store.effects.clear()
    store.says(("dom0", "WRITE /a|1", "OK|"))
    kinds = [type(effect) for effect in store.effects]
    assert kinds[0] is Persist
    assert set(kinds[1:]) == {Send}


def test_a_client_that_does_not_read_is_dropped() -> None:
    store = Conversation()
    store.says(("1", "WATCH /a|t|", "OK|"), ("dom0", "SET_PERMS /|r0|", "OK|"))
    client = store.client("1")
    client.queued = client.quota.queued - 30  # the kernel has taken nothing for a while
    store.says(("dom0", "WRITE /a|1", "OK|"))
    assert not store.closed
    store.says(("dom0", "WRITE /a/long|1", "OK|"))
    client.queued = client.quota.queued
    store.says(("dom0", "WRITE /a|1", "OK|"))
    assert store.closed == {"1": "it does not read what it is sent"}
    store.says(("dom0", "WRITE /a|1", "OK|"))


def test_this_process_introduces_and_releases_domains_itself() -> None:
    store = Conversation()
    store.says(
        ("dom0", "WATCH @introduceDomain|i|", "OK|"), ("dom0", "WATCH @releaseDomain|r|", "OK|")
    )
    client = store.client("1")
    domain = Introduced(1, 0, 0)
    store.server.introduce(domain)
    assert store.ask("dom0", "IS_DOMAIN_INTRODUCED 1|") == "T|"
    effects = store.server.release(1)
    assert Released(1) in effects
    assert Close(client, "its domain is released") in effects
    assert store.ask("dom0", "IS_DOMAIN_INTRODUCED 1|") == "F|"
    assert store.events("dom0")[-2:] == ["@introduceDomain|i|", "@releaseDomain|r|"]


def test_who_has_a_ring_is_introduced_only_if_that_can_be_served() -> None:
    store = Conversation()
    asked: list[Introduced] = []

    def attach(domain: Introduced) -> bool:
        asked.append(domain)
        return domain.port != 13

    store.server.store.attach = attach
    store.says(
        ("dom0", "INTRODUCE 3|1234|13|", "!EINVAL"),
        ("dom0", "IS_DOMAIN_INTRODUCED 3|", "F|"),
        ("dom0", "INTRODUCE 3|1234|14|", "OK|"),
        ("dom0", "INTRODUCE 4|1234|15|", "OK|"),
        ("dom0", "SET_TARGET 3|4|", "OK|"),
        ("dom0", "INTRODUCE 3|1234|16|", "OK|"),
    )
    assert asked[-1] == Introduced(3, 1234, 16, target=4)
    with pytest.raises(StoreError):
        store.server.introduce(Introduced(5, 1, 13))
    store.server.introduce(Introduced(5, 0, 0))
    assert len(asked) == 5
    assert asked[-1].domid == 5  # the one that has a ring


def test_a_census_of_the_domains_that_xen_has() -> None:
    store = Conversation()
    store.says(
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "INTRODUCE 2|1|1|", "OK|"),
        ("dom0", "WRITE /a|", "OK|"),
        ("dom0", "SET_PERMS /a|n2|", "OK|"),
        ("dom0", "WATCH @releaseDomain|t|", "OK|"),
    )
    store.server.introduce(Introduced(9, 0, 0))  # it has no event channel: it is not Xen's
    told = "@releaseDomain|t|"

    def census(present: dict[int, bool]) -> list[str]:
        store.note(store.server.census(present))
        store.ask("dom0", "READ /|")
        return store.events("dom0")

    assert census({0: False, 1: False, 2: False}) == [told]  # the first event of the watch
    assert census({0: False, 1: False, 2: False}) == []
    assert census({1: True, 2: False}) == [told]
    assert census({1: True, 2: False}) == []
    store.says(("dom0", "RESUME 1|", "OK|"))
    assert census({1: True, 2: False}) == [told]
    assert census({1: True}) == [told]
    store.says(
        ("dom0", "READ /a|", "!ENOENT"),
        ("dom0", "IS_DOMAIN_INTRODUCED 2|", "F|"),
        ("dom0", "IS_DOMAIN_INTRODUCED 1|", "T|"),
        ("dom0", "IS_DOMAIN_INTRODUCED 9|", "T|"),
    )


def test_a_client_may_release_its_own_domain() -> None:
    server = Server()
    server.introduce(Introduced(3, 0, 0))
    client = server.connect(Actor(3, privileged=True))
    request = HEADER.pack(Op.RELEASE, 1, 0, 2) + b"3\0"
    effects = server.receive(client, request, 0.0)
    assert Close(client, "its domain is released") in effects
    assert not any(isinstance(effect, Send) for effect in effects)


def test_what_is_shown() -> None:
    store = Conversation()
    store.says(("dom0", "WATCH /a|t|", "OK|"))
    assert repr(store.client("dom0")) == "<Connection 1 of domain 0, 1 watches, 0 transactions>"


@given(
    st.lists(st.tuples(st.integers(0, 24), st.integers(0, 3), st.binary(max_size=40)), max_size=20)
)
def test_any_request_has_one_reply(requests: list[tuple[int, int, bytes]]) -> None:
    store = Conversation()
    for op, transaction, payload in requests:
        client = store.client("1")
        store.server.receive(client, HEADER.pack(op, 1, transaction, len(payload)) + payload, 0.0)
        replies = [m for m in Messages().feed(client.take()) if m.op != Op.WATCH_EVENT]
        assert len(replies) == 1


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_are_answered_or_cost_the_connection(pieces: list[bytes]) -> None:
    store = Conversation()
    client = store.client("1")
    for piece in pieces:
        store.note(store.server.receive(client, piece, 0.0))
    store.says(("dom0", "WRITE /a|1", "OK|"))
    assert calls.path_of(join(b"/a")) == b"/a"


def test_this_process_edits_the_tree_in_one_commit() -> None:
    store = Conversation()
    store.says(("dom0", "WATCH /a|t|", "OK|"))
    store.events("dom0")

    def work(space: Space) -> None:
        space.write(b"/a/b", (b"a", b"b"), b"1")
        space.write(b"/a/c", (b"a", b"c"), b"2")

    effects = store.server.edit(work)
    assert [type(effect) for effect in effects] == [Persist, Send]
    store.says(("dom0", "READ /a/c|", "2"))
    assert store.events("dom0") == ["/a/b|t|", "/a/c|t|"]
    assert store.server.edit(lambda space: None) == []


def test_requests_may_be_served_one_at_a_time() -> None:
    """For somebody who changes the tree between one request of a client's and its next."""
    talk = Conversation()
    talk.says(("dom0", "WRITE /word|", "OK|"))
    client = talk.client("dom0")
    asked = encode(Message(Op.WRITE, 1, 0, b"/word\0prepared"))
    asked += encode(Message(Op.READ, 2, 0, b"/state\0"))
    steps = talk.server.receive_apart(client, asked, 0.0)
    assert Send(client) in next(steps)
    talk.server.edit(lambda space: space.write(b"/state", (b"state",), b"committed"))
    assert Send(client) in next(steps)
    assert b"committed" in client.take()
    assert list(steps) == [[]]
