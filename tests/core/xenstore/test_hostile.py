"""What a guest that means harm can make the store spend: some of a host's memory, not all of it."""

import tracemalloc
from collections.abc import Iterator

import pytest

from core.xenstore.conversation import Conversation

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
    for i in range(1000):
        store.says(("1", f"READ /own/{i}/{DEEP}|", "!ENOENT"))
    assert held() < 4
