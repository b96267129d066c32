"""The fake backend passes the contract of the real ones."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest

from jitsu.backends.fake import FakeBackend, Script
from jitsu.host.network import GuestLink
from jitsu.model import Service, StopMode
from jitsu.testing import backend_contract as contract
from jitsu.testing import clock
from jitsu.testing.backend_contract import Case, Fate, Make
from jitsu.testing.network import SimulatedLink, SimulatedNetwork
from jitsu.testing.peer import Server
from jitsu.testing.world import page_of, service

SCRIPTS = {
    Fate.LIVES: Script(),
    Fate.DIES: Script(dies_after=0.01),
    Fate.CANNOT_START: Script(error="no such image"),
}


class Actor:
    """Plays a guest that announces itself."""

    def boot(self, service: Service, link: GuestLink, listens_after: float) -> None:
        assert isinstance(link, SimulatedLink)
        Server(service.mac, service.address, link.guest_sends, page_of(service)).announce()

    def pause(self, link: GuestLink) -> None:
        """Nothing is sent to it."""

    def resume(self, link: GuestLink) -> None:
        """Nothing is sent to it."""

    def save(self, link: GuestLink) -> str:
        return "a guest"

    def restore(self, service: Service, link: GuestLink, saved: str) -> bool:
        return saved == "a guest"


@asynccontextmanager
async def make(script: Script | None, fate: Fate) -> AsyncIterator[Case]:
    www = service(0)
    network = SimulatedNetwork(Random(1), (www,))
    backend = FakeBackend(lambda _: script or SCRIPTS[fate], Actor())
    yield Case(backend, network, www, lambda: [*network.links, *backend.there])


STORIES: list[Callable[[Make], Awaitable[None]]] = [
    contract.check_backend,
    partial(contract.check_life, how=StopMode.DESTROY),
    partial(contract.check_life, how=StopMode.SHUTDOWN),
    contract.check_stop_twice,
    contract.check_stop_while_booting,
    contract.check_death,
    contract.check_cannot_start,
    contract.check_pause,
    contract.check_prepare,
]


@pytest.mark.parametrize("story", STORIES)
def test_contract(story: Callable[[Make], Awaitable[None]]) -> None:
    async def main() -> None:
        await story(partial(make, None))

    clock.run(main())


def test_contract_of_those_that_can_be_suspended(tmp_path: Path) -> None:
    async def main() -> None:
        await contract.check_suspend(partial(make, None), tmp_path / "saved")

    clock.run(main())


@pytest.mark.parametrize("dies_after", [0.0, 0.0001, 0.001, 0.01])
def test_it_dies_whenever(dies_after: float) -> None:
    """Also before its link has joined the bridge."""

    async def main() -> None:
        await contract.check_death(partial(make, Script(dies_after=dies_after)))

    clock.run(main())


def broken(story: Callable[[Make], Awaitable[None]], script: Script) -> None:
    async def main() -> None:
        await story(partial(make, script))

    with pytest.raises((AssertionError, TimeoutError)):
        clock.run(main())


def test_the_contract_finds_what_is_broken(tmp_path: Path) -> None:
    never = float("inf")
    broken(contract.check_cannot_start, Script())
    broken(contract.check_death, Script())
    broken(contract.check_stop_while_booting, Script(boots_after=never))
    broken(partial(contract.check_life, how=StopMode.DESTROY), Script(boots_after=never))
    broken(partial(contract.check_life, how=StopMode.DESTROY), Script(stops_after=1e6))
    broken(contract.check_pause, Script(rests_after=1e6))
    broken(partial(contract.check_suspend, file=tmp_path / "f"), Script(rests_after=1e6))
    broken(contract.check_prepare, Script(prepares_after=1e6))
    broken(contract.check_prepare, Script(dies_after=0.003))
    cannot = Script(cannot=frozenset({"suspend"}))
    broken(partial(contract.check_suspend, file=tmp_path / "f"), cannot)
