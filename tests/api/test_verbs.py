"""The verbs of a true daemon, in a simulated world."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from jitsu.api.verbs import Verbs
from jitsu.backends.fake import Script
from jitsu.errors import ControlError
from jitsu.testing import clock
from jitsu.testing.world import World, config, service

SUMMON = {"verb": "summon", "name": "s0"}
TWICE_DEAD = (Script(boots_after=1.0, dies_after=0.5),) * 2
"""A guest that dies while it boots is booted once more."""
Story = Callable[[World, Verbs], Coroutine[Any, Any, None]]
ROW = {
    *("name", "state", "backend", "dns", "addresses", "memory", "since", "summons"),
    *("last_request", "flows"),
}


def play(story: Story, *scripts: Script) -> None:
    async def main() -> None:
        www = service(0)
        world = World(Random(1), config((www,)), scripts={www.name: list(scripts)})
        await world.run(story(world, Verbs(world.daemon)))

    clock.run(main())


def test_the_life_of_a_service() -> None:
    async def story(world: World, verbs: Verbs) -> None:
        (row,) = await verbs({"verb": "ls"})
        assert set(row) >= ROW
        assert (row["since"], row["reason"]) == (None, None)
        assert (row["name"], row["state"], row["summons"]) == ("s0", "asleep", 0)
        row = await verbs({"verb": "summon", "name": "s0"})
        assert (row["state"], row["summons"]) == ("awake", 1)
        assert row["since"] > 1e9  # Unix time, where the daemon has its own
        trace = await verbs({"verb": "trace", "name": "s0"})
        assert (trace["service"], trace["cause"], trace["epoch"]) == ("s0", "operator", 1)
        assert {"name", "at_us", "took_us"} <= set(trace["stages"][0])
        assert await verbs({"verb": "logs", "name": "s0"}) == "s0 is a fake and writes nothing\n"
        stopped = await verbs({"verb": "stop", "name": "s0"})
        assert stopped == {"name": "s0", "state": "asleep"}
        assert isinstance(await verbs({"verb": "counters"}), dict)

    play(story)


def test_a_summons_that_fails_says_why() -> None:
    async def story(world: World, verbs: Verbs) -> None:
        assert await _said(verbs(SUMMON)) == "s0 failed: no such image", "no guest, no log"
        (row,) = await verbs({"verb": "ls"})
        assert row["reason"] == "no such image"
        died = "s0 failed: died by itself; see `jitsu logs s0`"
        assert await _said(verbs(SUMMON)) == died

    play(story, Script(error="no such image"), *TWICE_DEAD)


def test_why_a_service_failed_is_told_until_it_serves() -> None:
    async def story(world: World, verbs: Verbs) -> None:
        await _said(verbs(SUMMON))
        assert (await verbs({"verb": "ls"}))[0]["state"] == "failed"
        await world.query("s0.jitsu.test")  # is refused
        await asyncio.sleep(1.0)  # of simulated time: the back-off is over
        (row,) = await verbs({"verb": "ls"})
        assert (row["state"], row["reason"]) == ("asleep", "died by itself")
        trace = await verbs({"verb": "trace", "name": "s0"})
        assert trace["failed"]["reason"] == "died by itself"
        assert 500_000 <= trace["failed"]["after_us"] < 600_000, "of the second boot"
        assert {"name", "at_us", "took_us"} <= set(trace["stages"][0])
        row = await verbs(SUMMON)
        assert (row["state"], row["reason"]) == ("awake", None)
        assert (await verbs({"verb": "trace", "name": "s0"}))["failed"] is None

    play(story, *TWICE_DEAD)


def test_a_wish_that_was_kept_has_a_waterfall_of_its_own() -> None:
    async def story(world: World, verbs: Verbs) -> None:
        await verbs(SUMMON)
        async with asyncio.TaskGroup() as operators:
            operators.create_task(verbs({"verb": "stop", "name": "s0"}))
            await asyncio.sleep(0.1)  # of simulated time: while it stops
            await operators.create_task(verbs(SUMMON))
        trace = await verbs({"verb": "trace", "name": "s0"})
        assert (trace["epoch"], trace["cause"]) == (2, "operator")

    play(story, Script(boots_after=0.1, stops_after=0.5))


def test_a_summons_that_the_end_overtakes_says_so() -> None:
    async def main() -> None:
        www = service(0)
        world = World(Random(1), config((www,)), scripts={www.name: [Script(boots_after=1.0)]})

        async def story() -> None:
            summons = asyncio.create_task(_said(Verbs(world.daemon)(SUMMON)))
            await asyncio.sleep(0.5)  # of simulated time: in the middle of the boot
            world.daemon.close()
            assert await _said(Verbs(world.daemon)(SUMMON)) == "the daemon is stopping"
            assert await summons == "the daemon is stopping"

        await world.run(story())

    clock.run(main())


@pytest.mark.parametrize("again", [False, True])
def test_a_summons_that_is_called_off_says_so(again: bool) -> None:
    """Unless somebody wants the service before it is gone: then it boots, for both."""

    async def story(world: World, verbs: Verbs) -> None:
        summons = {"verb": "summon", "name": "s0"}
        async with asyncio.timeout(60.0), asyncio.TaskGroup() as operators:
            first = operators.create_task(_said(verbs(summons)))
            await asyncio.sleep(0.5)  # of simulated time: in the middle of the boot
            stopped = operators.create_task(verbs({"verb": "stop", "name": "s0"}))
            if again:
                await asyncio.sleep(0)
                assert (await verbs(summons))["state"] == "awake"
        if again:
            assert first.result() == ""
        else:
            assert first.result() == "s0 was stopped while it booted; summon it again"
            assert stopped.result()["state"] == "asleep"

    play(story, Script(boots_after=1.0, stops_after=0.5))


async def _said(work: Coroutine[Any, Any, Any]) -> str:
    try:
        await work
    except ControlError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "request_",
    [{}, {"verb": "dance"}, {"verb": "summon"}, {"verb": "stop", "name": 3}, {"verb": ["ls"]}],
)
def test_what_is_no_verb(request_: dict[str, Any]) -> None:
    async def story(world: World, verbs: Verbs) -> None:
        with pytest.raises(ControlError) as caught:
            await verbs(request_)
        assert str(caught.value) == f"not a request that this version knows: {request_}"

    play(story)


@pytest.mark.parametrize("verb", ["summon", "stop", "logs", "trace"])
def test_a_service_that_is_not_there(verb: str) -> None:
    async def story(world: World, verbs: Verbs) -> None:
        with pytest.raises(ControlError, match="nobody"):
            await verbs({"verb": verb, "name": "nobody"})

    play(story)
