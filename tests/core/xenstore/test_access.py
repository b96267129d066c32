"""Who may do what: permissions, create-restricted directories, quotas."""

import pytest

from core.xenstore.conversation import Conversation
from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.quota import GUEST
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import Persist

GRANTS = {
    # letter: may read, may write
    "n": (False, False),
    "r": (True, False),
    "w": (False, True),
    "b": (True, True),
}


def replies(store: Conversation, who: str) -> tuple[bool, bool, bool]:
    """Return whether `who` may read /a, write it, and set its permissions as they are."""
    perms = store.ask("dom0", "GET_PERMS /a|")
    asked = ("READ /a|", "WRITE /a|x", f"SET_PERMS /a|{perms}")
    read, write, own = (store.ask(who, request) for request in asked)
    for reply in (write, own):
        assert reply in ("OK|", "!EACCES")
    assert read in ("x", "!EACCES")
    return read == "x", write == "OK|", own == "OK|"


@pytest.mark.parametrize(("letter", "may"), GRANTS.items())
def test_rights(letter: str, may: tuple[bool, bool]) -> None:
    store = Conversation()
    store.says(
        ("dom0", "WRITE /a|x", "OK|"),
        ("dom0", f"SET_PERMS /a|{letter}1|n3|", "OK|"),
    )
    assert replies(store, "dom0") == (True, True, True)
    assert replies(store, "1") == (True, True, True)
    assert replies(store, "2") == (*may, False)
    assert replies(store, "3") == (False, False, False)  # is named
    store.says(("dom0", f"SET_PERMS /a|n1|{letter}2|", "OK|"))
    assert replies(store, "2") == (*may, False)
    assert replies(store, "3") == (False, False, False)


def test_a_target_lends_its_rights() -> None:
    store = Conversation()
    store.says(
        ("dom0", "WRITE /a|x", "OK|"),
        ("dom0", "SET_PERMS /a|n1|", "OK|"),
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "INTRODUCE 2|1|2|", "OK|"),
        ("2", "READ /a|", "!EACCES"),
        ("dom0", "SET_TARGET 2|1|", "OK|"),
        ("2", "READ /a|", "x"),
        ("2b", "SET_PERMS /a|n1|", "OK|"),  # a connection that begins later
        ("1", "READ /a|", "x"),
    )


def test_what_a_guest_may_not() -> None:
    store = Conversation()
    store.says(
        ("1", "WRITE /a|1", "!EACCES"),
        ("1", "MKDIR /a|", "!EACCES"),
        ("1", "RM /a|", "!EACCES"),
        ("1", "READ /a|", "!EACCES"),  # nor learn whether it is there
        ("dom0", "WRITE /a/b|", "OK|"),
        ("1", "READ /a/b|", "!EACCES"),
        ("1", "RM /a/b|", "!EACCES"),
        ("1", "MKDIR /a/b|", "!EACCES"),
        ("dom0", "SET_PERMS /a|r0|", "OK|"),
        ("1", "READ /a/c|", "!ENOENT"),
        ("1", "READ /a/b/c|", "!EACCES"),
        ("1", "SET_PERMS /a|r1|", "!EACCES"),
    )


def test_what_a_guest_creates_is_its_own() -> None:
    store = Conversation()
    store.says(
        ("dom0", "WRITE /a|", "OK|"),
        ("dom0", "SET_PERMS /a|b0|r5|", "OK|"),
        ("1", "WRITE /a/b/c|1", "OK|"),
        ("1", "GET_PERMS /a/b|", "b1|r5|"),
        ("1", "GET_PERMS /a/b/c|", "b1|r5|"),
        ("1", "SET_PERMS /a/b|n1|", "OK|"),
        ("1", "SET_PERMS /a/b|n2|", "!EPERM"),  # nor give away
        ("2", "READ /a/b|", "!EACCES"),
        ("dom0", "WRITE /a/d|", "OK|"),
        ("dom0", "GET_PERMS /a/d|", "b0|r5|"),
        ("dom0", "SET_PERMS /a/b|n2|", "OK|"),
        ("1", "READ /a/b|", "!EACCES"),
    )


# Create-restricted directories.


def restricted() -> Conversation:
    """Return a store where domain 1 has such a directory, and 2 and 3 have left requests."""
    store = Conversation()
    store.says(
        ("dom0", "WRITE /listen|", "OK|"),
        ("dom0", "SET_PERMS /listen|b1|", "OK|"),
        ("1", "SET_PERMS /listen|b1|c1|", "OK|"),
        ("2", "WRITE /listen/two|secret", "OK|"),
        ("3", "WRITE /listen/three|secret", "OK|"),
    )
    return store


def test_only_creator_and_owner_read_and_remove() -> None:
    store = restricted()
    store.says(
        ("2", "READ /listen/two|", "secret"),
        ("1", "READ /listen/two|", "secret"),
        ("3", "READ /listen/two|", "!EACCES"),
        ("3", "WRITE /listen/two|forged", "!EACCES"),
        ("3", "WRITE /listen/two/below|forged", "!EACCES"),
        ("3", "RM /listen/two|", "!EACCES"),
        ("3", "GET_PERMS /listen/two|", "!EACCES"),
        ("2", "WRITE /listen/two/below|mine", "OK|"),
        ("1", "READ /listen/two/below|", "mine"),
        ("3", "READ /listen/two/below|", "!EACCES"),
        ("1", "RM /listen/two|", "OK|"),
        ("3", "RM /listen/three|", "OK|"),
        ("dom0", "DIRECTORY /listen|", ""),
    )


def test_nothing_that_the_creator_sets_lets_others_in_or_the_owner_out() -> None:
    store = restricted()
    store.says(
        ("2", "SET_PERMS /listen/two|b2|b3|", "OK|"),
        ("3", "READ /listen/two|", "!EACCES"),
        ("2", "SET_PERMS /listen/two|n2|c1|", "OK|"),
        ("1", "READ /listen/two|", "secret"),
        ("1", "RM /listen/two|", "OK|"),
    )


def test_others_create_and_do_no_more() -> None:
    store = restricted()
    store.says(
        ("3", "WRITE /listen|x", "!EACCES"),
        ("3", "RM /listen|", "!EACCES"),
        ("3", "SET_PERMS /listen|b3|", "!EACCES"),
        ("3", "MKDIR /listen|", "OK|"),
        ("1", "WRITE /listen|x", "OK|"),
        ("1", "SET_PERMS /listen|r1|b3|", "OK|"),  # who may create, the permissions say as ever
        ("3", "WRITE /listen/more|", "OK|"),
        ("2", "WRITE /listen/more2|", "!EACCES"),
        ("dom0", "WRITE /listen/dom0|", "OK|"),
        ("3", "READ /listen/dom0|", "!EACCES"),
        ("1", "READ /listen/dom0|", ""),
        ("dom0", "GET_PERMS /listen/dom0|", "n0|"),
    )


def test_others_do_not_see_that_there_is_anything() -> None:
    store = restricted()
    store.says(
        ("1", "DIRECTORY /listen|", "three|two|"),
        ("2", "DIRECTORY /listen|", "two|"),
        ("4", "DIRECTORY /listen|", ""),
        ("4", "WATCH /listen|t|", "OK|"),
        ("1", "WATCH /listen|t|", "OK|"),
        ("2", "WRITE /listen/two|again", "OK|"),
    )
    assert store.events("4") == ["/listen|t|"]
    assert store.events("1") == ["/listen|t|", "/listen/two|t|"]


def test_who_does_not_know_of_it_never_sees_it() -> None:
    store = restricted()
    store.says(
        ("1", "GET_PERMS /listen|", "b1|"),
        ("1", "GET_PERMS /listen|c|", "b1|c1|"),
        ("1", "SET_PERMS /listen|b1|", "OK|"),  # and does not end it unknowingly
        ("1", "GET_PERMS /listen|c|", "b1|c1|"),
        ("2", "GET_PERMS /listen/two|c|", "n2|"),
        ("1", "SET_PERMS /listen|b1|c0|", "OK|"),
        ("1", "GET_PERMS /listen|c|", "b1|"),
        ("3", "WRITE /listen|x", "OK|"),
        ("3", "READ /listen/two|", "!EACCES"),  # what was left in it stays as it is
    )


# Domains that are gone.


def test_nothing_of_a_domain_outlives_it() -> None:
    store = restricted()
    store.says(
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "WRITE /mixed/its/not|", "OK|"),
        ("dom0", "SET_PERMS /mixed/its|n1|", "OK|"),
        ("dom0", "SET_PERMS /mixed/its/not|n0|r1|", "OK|"),
        ("dom0", "WRITE /mixed/its/too|", "OK|"),
        ("dom0", "WRITE /shared|x", "OK|"),
        ("dom0", "SET_PERMS /shared|n0|r1|r2|", "OK|"),
        ("dom0", "WATCH /mixed|t|", "OK|"),
        ("dom0", "RELEASE 1|", "OK|"),
        ("dom0", "READ /listen|", "!ENOENT"),
        ("dom0", "DIRECTORY /mixed|", ""),
        ("dom0", "GET_PERMS /shared|", "n0|r2|"),
        ("1b", "READ /shared|", "!EACCES"),  # the next one of this number
        ("dom0", "CONTROL check|", "OK\n|"),
    )
    assert "/mixed/its|t|" in store.events("dom0")
    assert store.closed == {"1": "its domain is released"}


def test_the_next_one_of_its_number_gets_no_special_watch() -> None:
    store = Conversation()
    store.says(
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "SET_PERMS @releaseDomain|n1|r2|", "OK|"),
        ("dom0", "SET_PERMS @introduceDomain|n0|r1|", "OK|"),
        ("dom0", "RELEASE 1|", "OK|"),
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("1b", "WATCH @introduceDomain|t|", "!EACCES"),
        ("1b", "GET_PERMS @releaseDomain|", "!EACCES"),
        ("dom0", "GET_PERMS @releaseDomain|", "n0|r2|"),
    )
    recovered = restarted(store)
    recovered.says(
        ("dom0", "GET_PERMS @introduceDomain|", "n0|"),
        ("dom0", "GET_PERMS @releaseDomain|", "n0|r2|"),
    )


def test_the_next_one_of_its_number_is_nobodys_target() -> None:
    store = Conversation()
    store.says(
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "INTRODUCE 2|1|2|", "OK|"),
        ("dom0", "INTRODUCE 3|1|3|", "OK|"),
        ("dom0", "SET_TARGET 2|1|", "OK|"),
        ("dom0", "SET_TARGET 3|2|", "OK|"),
        ("2", "READ /|", ...),
        ("dom0", "RELEASE 1|", "OK|"),
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "WRITE /of1|secret", "OK|"),
        ("dom0", "SET_PERMS /of1|n1|", "OK|"),
        ("dom0", "WRITE /of2|x", "OK|"),
        ("dom0", "SET_PERMS /of2|n2|", "OK|"),
    )
    for life in (store, restarted(store)):
        life.says(
            ("2", "READ /of1|", "!EACCES"),
            ("2b", "READ /of1|", "!EACCES"),
            ("3", "READ /of2|", "x"),
        )


def restarted(store: Conversation) -> Conversation:
    """Return the store that is made of what this one has written down."""
    recovered = Recovered()
    recovered.load(b"".join(e.record for e in store.effects if isinstance(e, Persist)))
    return Conversation(Server(recovered))


def test_what_a_keeper_has_kept_is_dom0s_then() -> None:
    store = restricted()
    store.says(
        ("dom0", "SET_PERMS /listen|b4|", "OK|"),  # 1 keeps what is in it, and owns nothing
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "RELEASE 1|", "OK|"),
        ("1b", "READ /listen/two|", "!EACCES"),
        ("2", "READ /listen/two|", "secret"),
    )


def test_the_root_stays() -> None:
    store = Conversation()
    store.says(
        ("dom0", "SET_PERMS /|n1|", "OK|"),
        ("dom0", "WRITE /a|", "OK|"),
        ("dom0", "INTRODUCE 1|1|1|", "OK|"),
        ("dom0", "RELEASE 1|", "OK|"),
        ("dom0", "GET_PERMS /|", "n0|"),
        ("dom0", "DIRECTORY /|", ""),
        ("dom0", "CONTROL check|", "OK\n|"),
    )


# Quotas.


def guest(**more: str) -> Conversation:
    """Return a store in which domain 1 has a place of its own."""
    store = Conversation()
    store.says(("dom0", "WRITE /own|", "OK|"), ("dom0", "SET_PERMS /own|n1|", "OK|"))
    return store


def test_nodes() -> None:
    store = guest()
    for i in range(GUEST.nodes - 1):  # one it has
        store.says(("1", f"MKDIR /own/{i}|", "OK|"))
    store.says(
        ("1", "MKDIR /own/more|", "!ENOSPC"),
        ("1", "WRITE /own/more|", "!ENOSPC"),
        ("1", "WRITE /own/0|still", "OK|"),
        ("1", "RM /own/0|", "OK|"),
        ("1", "WRITE /own/a/b|", "!ENOSPC"),  # would be two
        ("1", "READ /own/a|", "!ENOENT"),
        ("1", "MKDIR /own/more|", "OK|"),
        ("dom0", "WRITE /own/dom0s/more|", "OK|"),  # the toolstack may
        ("dom0", "CONTROL check|", "OK\n|"),
    )


def test_nodes_are_counted_for_their_owner() -> None:
    store = guest()
    store.says(
        ("1", "WRITE /own/a/b|", "OK|"),
        ("dom0", "SET_PERMS /own/a/b|n2|", "OK|"),
        ("dom0", "CONTROL check|", "OK\n|"),
        ("dom0", "RM /own|", "OK|"),
        ("dom0", "CONTROL check|", "OK\n|"),
    )
    assert store.server.store.held == {}


def test_a_value() -> None:
    store = guest()
    store.says(
        ("1", f"WRITE /own/a|{'x' * GUEST.value}", "OK|"),
        ("1", f"WRITE /own/a|{'x' * (GUEST.value + 1)}", "!ENOSPC"),
        ("dom0", f"WRITE /own/a|{'x' * (GUEST.value + 1)}", "OK|"),
    )


def test_watches() -> None:
    store = guest()
    for i in range(GUEST.watches):
        store.says(("1", f"WATCH /own|{i}|", "OK|"))
    store.says(
        ("1", "WATCH /own|more|", "!E2BIG"),
        ("1", "UNWATCH /own|0|", "OK|"),
        ("1", "WATCH /own|more|", "OK|"),
    )


def test_transactions() -> None:
    store = guest()
    for i in range(GUEST.transactions):
        store.says((f"1 t{i}", "TRANSACTION_START |", ...))
    store.says(
        ("1", "TRANSACTION_START |", "!ENOSPC"),
        ("1 t0", "TRANSACTION_END F|", "OK|"),
        ("1", "TRANSACTION_START |", ...),
    )


def test_requests_of_a_transaction() -> None:
    store = guest()
    store.says(("1 t", "TRANSACTION_START |", ...))
    for _ in range(GUEST.requests):
        store.says(("1 t", "READ /own|", ""))
    store.says(("1 t", "READ /own|", "!ENOSPC"), ("1 t", "TRANSACTION_END T|", "OK|"))
