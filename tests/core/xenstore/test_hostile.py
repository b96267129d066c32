"""What a guest that means harm can make the store spend: some of a host's memory, not all of it."""

import tracemalloc
from collections.abc import Iterator

import pytest

from core.xenstore.conversation import Conversation
from core.xenstore.test_serial import shown
from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.store import Persist
from jitsu.core.xenstore.transaction import PLACES_MAX, tops

DEEP = "/".join(f"{i % 251:02x}" for i in range(990))
"""A path of nearly as many nodes as a guest may own."""


@pytest.fixture
def store() -> Iterator[Conversation]:
    """Return a store in which domain 1 has a place of its own."""
    conversation = Conversation()
    conversation.says(("dom0", "WRITE /own|", "OK|"), ("dom0", "SET_PERMS /own|n1|", "OK|"))
    tracemalloc.start()
    yield conversation
    tracemalloc.stop()


def held() -> float:
    """Return how many MiB are in use since the test began."""
    return tracemalloc.get_traced_memory()[0] / 2**20


def test_long_paths_are_not_remembered(store: Conversation) -> None:
    for i in range(300):
        store.says(("1", f"READ /own/{i}/{DEEP}|", "!ENOENT"))
    assert held() < 4


def test_parents_that_are_made_count_in_a_transaction(store: Conversation) -> None:
    store.says(("1 t", "TRANSACTION_START |", ...))
    done = 0
    for _ in range(20):
        done += store.ask("1 t", f"WRITE /own/{DEEP}|") == "OK|"
        store.ask("1 t", "RM /own/00|")
    assert 1 <= done <= 2
    assert held() < 10
    store.says(
        ("1 t", "WRITE /own/x|", "!ENOSPC"),
        ("1 t", "READ /own|", "!ENOSPC"),
        ("1 t", "TRANSACTION_END T|", "OK|"),
    )


def test_what_is_written_down_is_no_longer_than_what_is_asked(store: Conversation) -> None:
    request = f"WRITE /own/{DEEP}|value"
    store.says(("1", request, "OK|"))
    (record,) = [e.record for e in store.effects[-2:] if isinstance(e, Persist)]
    assert len(record) < len(request) + 100
    store.says(("1", f"SET_PERMS /own/{DEEP}|r1|", "OK|"), ("1", "SET_PERMS /own/00/01|r1|", "OK|"))
    recovered = Recovered()
    recovered.load(b"".join(e.record for e in store.effects if isinstance(e, Persist)))
    assert shown(recovered.root) == shown(store.server.store.root)


def test_of_old_commits_a_little_is_remembered(store: Conversation) -> None:
    store.says(("1 t", "TRANSACTION_START |", ...))
    for _ in range(15):
        store.says(("1", f"WRITE /own/{DEEP}|", "OK|"), ("1", "RM /own/00|", "OK|"))
        store.effects.clear()
    assert held() < 4


def test_of_a_transaction_of_many_places_not_every_two_are_compared() -> None:
    many = {(*DEEP.encode().split(b"/"), b"%d" % i) for i in range(1000)}
    assert len(tops(many)) == PLACES_MAX + 1  # enough to know that it is to be done again
