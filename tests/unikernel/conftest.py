"""The guest's stack, built for the host."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unikernel.guest import BOTH, CMDLINE, HEAP, LIBRARY, Guest, build, load
from unikernel.machine import IMAGE
from unikernel.packets import PEER_IP, PEER_IP6
from unikernel.talk import World


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    build("host")
    return load(LIBRARY)


@pytest.fixture(scope="session")
def image() -> Path:
    build("image")
    return IMAGE


@pytest.fixture(scope="session")
def sanitized() -> Callable[..., None]:
    """Run a fuzzer in a process of its own, on the library with sanitizers."""
    build("sanitized")
    preload = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
    if not Path(preload).is_absolute():
        pytest.skip("needs gcc's libasan")

    def run(module: str, seed: int, rounds: int, name: str = "libjitsunet-sanitized.so") -> None:
        library = LIBRARY.with_name(name)
        done = subprocess.run(
            [sys.executable, "-m", module, str(library), str(seed), str(rounds)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "LD_PRELOAD": preload,
                "ASAN_OPTIONS": "detect_leaks=0",  # Python's own are none of our business
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


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


@pytest.fixture(params=[PEER_IP, PEER_IP6], ids=["ipv4", "ipv6"])
def world_of_either(start: Callable[..., Guest], request: pytest.FixtureRequest) -> World:
    """A guest of both families that waits, and a peer of one."""
    world = World(start(BOTH), request.param)
    world.advance(1)
    world.frames.clear()
    return world
