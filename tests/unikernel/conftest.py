"""The guest's stack, built for the host."""

import ctypes
from collections.abc import Callable, Iterator

import pytest

from unikernel.guest import CMDLINE, HEAP, LIBRARY, Guest, build, load
from unikernel.talk import World


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    build("host")
    return load(LIBRARY)


@pytest.fixture
def start(library: ctypes.CDLL) -> Iterator[Callable[..., Guest]]:
    """Start guests; they end with the test."""
    guests: list[Guest] = []

    def new(cmdline: str = CMDLINE, seed: int = 1, heap: int = HEAP) -> Guest:
        guests.append(Guest(library, cmdline, seed, heap))
        return guests[-1]

    yield new
    for guest in guests:
        guest.close()


@pytest.fixture
def world(start: Callable[..., Guest]) -> World:
    """A guest that has announced itself, said so on its console, and waits."""
    world = World(start())
    world.advance(1)
    world.frames.clear()
    return world
