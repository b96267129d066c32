"""Which transactions merge (after the server_test of mirage's ocaml-xenstore), and at what cost."""

import pytest

from core.xenstore.conversation import Conversation, Line
from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import Persist

START = "TRANSACTION_START |"
END = "TRANSACTION_END T|"


def both(first: list[str], second: list[str], *, who: tuple[str, str] = ("dom0", "dom0b")) -> str:
    """Run two transactions side by side; return how the second ends."""
    store = Conversation()
    store.says(
        ("dom0", "WRITE /a/b/c|1", "OK|"),
        ("dom0", "WRITE /local/domain/0/name|dom0", "OK|"),
        ("dom0", "SET_PERMS /a|b0|", "OK|"),
        ("dom0", "SET_PERMS /a/b|b0|", "OK|"),
    )
    one, two = f"{who[0]} one", f"{who[1]} two"
    store.says((one, START, ...), (two, START, ...))
    for i in range(max(len(first), len(second))):
        for name, requests in ((one, first), (two, second)):
            if i < len(requests):
                store.ask(name, requests[i])
    store.says((one, END, "OK|"))
    return store.ask(two, END)


def vm(domid: int) -> list[str]:
    home, back = f"/local/domain/{domid}", f"/local/domain/0/backend/vif/{domid}/0"
    return [
        f"MKDIR {home}|",
        f"SET_PERMS {home}|n0|r{domid}|",
        f"WRITE {home}/name|vm",
        f"MKDIR {back}|",
        f"SET_PERMS {back}|n0|r{domid}|",
        f"WRITE {home}/device/vif/0/backend|{back}",
        f"READ {home}/name|",
        f"RM {home}/none|",
    ]


MERGE: dict[str, tuple[list[str], list[str]]] = {
    "elsewhere": (["WRITE /x|1"], ["WRITE /y|1"]),
    "siblings": (["WRITE /a/x|1"], ["WRITE /a/y|1"]),
    "domains": (vm(5), vm(6)),
    "devices of one domain": (
        ["WRITE /local/domain/0/backend/vbd/1/1|", "WRITE /local/domain/1/device/vbd/1|"],
        ["WRITE /local/domain/0/backend/vbd/1/2|", "WRITE /local/domain/1/device/vbd/2|"],
    ),
    "the same value": (["WRITE /a/b|x"], ["WRITE /a/b|y"]),
    "only reads": (["WRITE /a/b|x"], ["READ /a/b|", "DIRECTORY /a|"]),
    "nothing": (["WRITE /a/b|x"], []),
    "a listing of elsewhere": (["WRITE /x/y|1"], ["DIRECTORY /a|", "WRITE /a/x|1"]),
    "both make a directory": (["MKDIR /x|"], ["MKDIR /x|"]),
    "one is a directory's first": (["WRITE /x/1|"], ["WRITE /x/2|"]),
    "what cannot be read": (["WRITE /x|"], ["READ /bad//path|", "WRITE /y|"]),
    "many places": (["WRITE /x|"], [f"WRITE /y{i}|" for i in range(40)]),
    "removed by both": (["RM /a/b|"], ["RM /a/b|"]),
}
CONFLICT: dict[str, tuple[list[str], list[str]]] = {
    "a value that was read": (["WRITE /a/b|x"], ["READ /a/b|", "WRITE /y|1"]),
    "what was not there": (["WRITE /x|1"], ["READ /x|", "WRITE /y|1"]),
    "a listing": (["MKDIR /a/x|"], ["DIRECTORY /a|", "WRITE /y|1"]),
    "permissions": (["SET_PERMS /a|n0|"], ["GET_PERMS /a|", "WRITE /y|1"]),
    "a parent that is gone": (["RM /a|"], ["READ /a/b/c|", "WRITE /a/b/d|1"]),
    "removal of what is gone": (["RM /a|"], ["RM /a/b/c|", "RM /a/b/d|", "WRITE /y|"]),
    "removal of what was not there": (["WRITE /x/y|"], ["RM /x/z|", "WRITE /x/w|"]),
    "removal of what was not there, and is made": (["MKDIR /x|"], ["RM /x/z|", "WRITE /x/z|"]),
    "many places, one of them read": (
        ["WRITE /x|"],
        ["READ /x|", *[f"WRITE /y{i}|" for i in range(40)]],
    ),
}


@pytest.mark.parametrize(("first", "second"), MERGE.values(), ids=MERGE)
def test_they_merge(first: list[str], second: list[str]) -> None:
    assert both(first, second) == "OK|"


@pytest.mark.parametrize(("first", "second"), CONFLICT.values(), ids=CONFLICT)
def test_they_do_conflict(first: list[str], second: list[str]) -> None:
    assert both(first, second) == "!EAGAIN"


@pytest.mark.parametrize(("first", "second"), [*MERGE.values()][:2])
def test_guests_merge_too(first: list[str], second: list[str]) -> None:
    inside = [[line.replace(" /", " /a/b/") for line in lines] for lines in (first, second)]
    assert both(inside[0], inside[1], who=("1", "2")) == "OK|"


def test_a_guest_that_might_not_look_may_look_now() -> None:
    """What is said of a node that is not there depends on the permissions of its parent."""
    store = Conversation()
    store.says(("dom0", "WRITE /a|", "OK|"), ("dom0", "SET_PERMS /a|w0|", "OK|"))
    store.says(
        ("1 t", START, ...),
        ("1 t", "READ /a/x/y|", "!EACCES"),
        ("1 t", "WRITE /a/x/y|1", "OK|"),
        ("1b", "WRITE /a/x/other|1", "OK|"),  # now /a/x is its own, and there
        ("1 t", END, "!EAGAIN"),
    )


def test_a_hundred_domains_at_once() -> None:
    store = Conversation()
    domids = range(1, 101)
    for domid in domids:
        store.says((f"dom0 {domid}", START, ...))
    for step in range(len(vm(0))):
        for domid in domids:
            store.says((f"dom0 {domid}", vm(domid)[step], ...))
    for domid in domids:
        store.says((f"dom0 {domid}", END, "OK|"))
    assert store.server.store.conflicts == 0
    assert len(store.ask("dom0", "DIRECTORY /local/domain|").split("|")) == 102


def test_a_transaction_sees_itself_and_nobody_else() -> None:
    store = Conversation()
    conversation: list[Line] = [
        ("dom0", "WRITE /a|1", "OK|"),
        ("dom0 t", START, ...),
        ("dom0b", "WRITE /a|2", "OK|"),
        ("dom0 t", "READ /a|", "1"),
        ("dom0 t", "WRITE /a|3", "OK|"),
        ("dom0 t", "READ /a|", "3"),
        ("dom0b", "READ /a|", "2"),
        ("dom0 t", END, "!EAGAIN"),
        ("dom0", "READ /a|", "2"),
    ]
    store.says(*conversation)


def test_a_transaction_finds_what_it_has_changed_as_it_is_now() -> None:
    store = Conversation()
    store.says(
        ("dom0", "WRITE /a/b|1", "OK|"),
        ("dom0 t", START, ...),
        ("dom0 t", "WRITE /a/c|", "OK|"),  # it has a copy of what is below /a, and of /
        ("dom0 t", "SET_PERMS /a|r3|", "OK|"),
        ("dom0 t", "WRITE /a/d|", "OK|"),
        ("dom0 t", "GET_PERMS /a/d|", "r3|"),
        ("dom0 t", "SET_PERMS /|r4|", "OK|"),
        ("dom0 t", "WRITE /x/y/z|1", "OK|"),
        ("dom0 t", "GET_PERMS /x/y|", "r4|"),
        ("dom0 t", "WRITE /x/y/u|2", "OK|"),
        ("dom0 t", "RM /x|", "OK|"),
        ("dom0 t", "READ /x/y/z|", "!ENOENT"),
        ("dom0 t", "MKDIR /x/y/w|", "OK|"),
        ("dom0 t", "DIRECTORY /x/y|", "w|"),
        ("dom0 t", "DIRECTORY /a|", "b|c|d|"),
        ("dom0", "DIRECTORY /|", "a|"),
        ("dom0 t", END, "OK|"),
        ("dom0", "DIRECTORY /|", "a|x|"),
    )


def test_a_transaction_works_at_any_depth() -> None:
    store = Conversation()
    deep = "/a" * 40
    store.says(
        ("dom0 t", START, ...),
        ("dom0 t", f"WRITE {deep}|1", "OK|"),
        ("dom0 t", f"WRITE {deep}/b|2", "OK|"),
        ("dom0 t", f"WRITE {deep}/c|3", "OK|"),
        ("dom0 t", f"DIRECTORY {deep}|", "b|c|"),
        ("dom0 t", END, "OK|"),
        ("dom0", f"DIRECTORY {deep}|", "b|c|"),
    )


def test_two_that_have_kept_to_the_quota_have_not_together() -> None:
    store = Conversation()
    store.says(("dom0", "WRITE /own|", "OK|"), ("dom0", "SET_PERMS /own|n1|", "OK|"))
    for name in ("one", "two"):
        store.says((f"1 {name}", START, ...))
        for i in range(600):
            store.says((f"1 {name}", f"MKDIR /own/{name}/{i}|", "OK|"))
    store.says(
        ("1 one", END, "OK|"),
        ("1 two", END, "!EAGAIN"),
        ("dom0", "CONTROL check|", "OK\n|"),
    )
    assert store.server.store.held == {1: 602}


def test_a_parent_that_both_made_is_written_down_and_counted_once() -> None:
    """The second one's is not in the tree, and what became of the first one's is kept."""
    store = Conversation()
    store.says(
        ("dom0", "WRITE /of5|", "OK|"),
        ("dom0", "SET_PERMS /of5|n5|", "OK|"),
        ("dom0 one", START, ...),
        ("dom0b two", START, ...),
        ("dom0 one", "WRITE /of5/x/1|", "OK|"),
        ("dom0b two", "WRITE /of5/x/2|", "OK|"),
        ("dom0 one", END, "OK|"),
        ("dom0", "WRITE /of5/x|kept", "OK|"),
        ("dom0b two", END, "OK|"),
        ("dom0", "CONTROL check|", "OK\n|"),
        ("dom0", "READ /of5/x|", "kept"),
    )
    recovered = Recovered()
    recovered.load(b"".join(e.record for e in store.effects if isinstance(e, Persist)))
    again = Conversation(Server(recovered))
    again.says(
        ("dom0", "READ /of5/x|", "kept"),
        ("dom0", "DIRECTORY /of5/x|", "1|2|"),
        ("dom0", "CONTROL check|", "OK\n|"),
    )
