"""Who makes others' transactions fail is held up, so that they get through."""

from core.xenstore.conversation import Conversation
from jitsu.core.xenstore.fairness import REMEMBERED, Credit
from jitsu.core.xenstore.quota import GUEST
from jitsu.core.xenstore.space import Change
from jitsu.wire.xenstore import Message, Op, encode


def disturb(store: Conversation, times: int) -> list[str]:
    """Let domain 1 disturb so many transactions of domain 2; return how these end."""
    ends = []
    for i in range(times):
        store.says(
            ("2 t", "TRANSACTION_START |", ...),
            ("2 t", "READ /shared|", ...),
            ("2 t", "WRITE /shared/of2|1", "OK|"),
        )
        store.ask("1", f"WRITE /shared|{i}")
        ends.append(store.ask("2 t", "TRANSACTION_END T|"))
    return ends


def shared() -> Conversation:
    store = Conversation()
    store.says(("dom0", "WRITE /shared|", "OK|"), ("dom0", "SET_PERMS /shared|b0|", "OK|"))
    return store


def test_who_makes_others_fail_is_held_up() -> None:
    store = shared()
    ends = disturb(store, 8)
    assert ends[:4] == ["!EAGAIN"] * 4
    assert ends[6:] == ["OK|"] * 2, "it gets through"
    # The requests of the other wait, and are done later.
    at = store.server.deadline()
    assert at is not None
    assert store.ask("1", "READ /shared|") == "nothing"
    store.tick(at - 0.001)
    assert store.collect("1", store.client("1")) == []
    store.tick(at)
    last = store.collect("1", store.client("1"))[-1]
    assert (last.op, last.payload) == (2, b"7")
    assert store.server.deadline() is None
    # In time it has all its credit back.
    store.now = at + 10.0
    assert disturb(store, 4) == ["!EAGAIN"] * 4


def test_who_sends_ever_more_while_it_is_held_up_is_dropped() -> None:
    store = shared()
    disturb(store, 6)
    store.says(*[("1", "READ /shared|", "nothing")] * (GUEST.waiting - 10))
    while "1" not in store.closed:
        store.ask("1", "READ /shared|")
    assert store.closed == {"1": "too many requests while held up for conflicts"}
    pieces = encode(Message(Op.READ, 1, 0, b"/shared\0")) * 2
    assert store.server.receive(store.client("1"), pieces, store.now) == []
    assert disturb_alone(store) == "OK|"


def disturb_alone(store: Conversation) -> str:
    store.says(("2 t", "TRANSACTION_START |", ...), ("2 t", "WRITE /shared|1", "OK|"))
    return store.ask("2 t", "TRANSACTION_END T|")


def test_who_is_held_up_may_go_away() -> None:
    store = shared()
    disturb(store, 6)
    store.says(("1", "READ /shared|", "nothing"))
    store.server.disconnect(store.client("1"))
    store.tick(1.0)
    assert store.server.deadline() is None


def test_who_is_held_up_is_not_served_on_a_new_connection_either() -> None:
    store = shared()
    disturb(store, 6)
    store.server.disconnect(store.client("1"))
    store.says(("1b", "READ /shared|", "nothing"))
    at = store.server.deadline()
    assert at is not None
    store.tick(at)
    assert [reply.op for reply in store.collect("1b", store.client("1b"))] == [Op.READ]
    store.says(("1c", "READ /shared|", ...))
    assert store.server.deadline() is None


def test_no_domain_is_held_up_for_long() -> None:
    """Who lets many transactions fail at once does not keep another away for good by that."""
    store = shared()
    for i in range(10):
        for j in range(10):
            store.says(
                (f"2 {j}", "TRANSACTION_START |", ...),
                (f"2 {j}", "READ /shared|", ...),
                (f"2 {j}", f"WRITE /shared/{j}|", "OK|"),
            )
        store.ask("1", f"WRITE /shared|{i}")
        for j in range(10):
            store.ask(f"2 {j}", "TRANSACTION_END T|")
    at = store.server.deadline()
    assert at is not None
    assert at - store.now < 0.2


def test_the_toolstack_is_never_held_up() -> None:
    store = shared()
    for i in range(20):
        store.says(
            ("2 t", "TRANSACTION_START |", ...),
            ("2 t", "READ /shared|", ...),
            ("2 t", "WRITE /shared/of2|1", "OK|"),
            ("dom0", f"WRITE /shared|{i}", "OK|"),
            ("2 t", "TRANSACTION_END T|", "!EAGAIN"),
        )
    assert store.server.deadline() is None


def test_who_touches_something_else_is_not_to_blame() -> None:
    store = shared()
    for _ in range(10):
        store.says(
            ("2 t", "TRANSACTION_START |", ...),
            ("2 t", "READ /shared/x|", ...),
            ("2 t", "WRITE /shared/of2|1", "OK|"),
            ("1", "WRITE /shared/of1|1", "OK|"),
            ("dom0", "WRITE /shared/x|1", "OK|"),
            ("2 t", "TRANSACTION_END T|", "!EAGAIN"),
            ("dom0", "RM /shared/x|", "OK|"),
        )
    assert store.server.deadline() is None


def test_credit_ends_with_its_domain() -> None:
    store = shared()
    store.says(("dom0", "INTRODUCE 1|1|1|", "OK|"))
    disturb(store, 6)
    store.says(("dom0", "RELEASE 1|", "OK|"))
    assert store.server.store.credit.points(1, store.now) == 5.0
    assert store.server.deadline() is None
    store.tick(100.0)


def test_who_began_before_what_is_remembered_blames_nobody() -> None:
    credit = Credit()

    def commit(domid: int, name: bytes, times: int) -> None:
        for _ in range(times):
            credit.commits += 1
            credit.committed(domid, [Change(b"/" + name, None, None, (name,), 1)])

    commit(1, b"a", REMEMBERED)
    commit(2, b"b", 1)
    credit.blame(0, 3, b"/b", now=0.0)
    assert credit.points(2, now=0.0) == 4.0
    commit(1, b"a", REMEMBERED)
    credit.blame(0, 3, b"/b", now=0.0)
    assert credit.points(2, now=0.0) == 4.0
    credit.forget()
    credit.blame(0, 3, b"/a", now=0.0)
    assert credit.points(1, now=0.0) == 5.0
