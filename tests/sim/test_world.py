"""Whole worlds by seed. Replay one with `make sim SEED=n`."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from jitsu.backends.fake import Script
from jitsu.core.sleeper import HELD_FRAMES_MAX
from jitsu.model import Answer, Handoff, ReadyOnTcp, Service, State, StopMode
from jitsu.testing import clock
from jitsu.testing.peer import PORT, Outcome
from jitsu.testing.world import (
    MEMORY,
    TERMS,
    World,
    config,
    page_of,
    random_services,
    service,
)

SEEDS = 200
Story = Callable[[World], Coroutine[Any, Any, None]]
Visit = Callable[[Service, float], Coroutine[Any, Any, None]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        only = metafunc.config.getoption("--seed")
        metafunc.parametrize("seed", range(SEEDS) if only is None else [only])


def test_nobody_waits_for_a_retransmission(seed: int) -> None:
    """Healthy guests: every client is served, by its first SYN, whenever it comes."""

    async def story(world: World) -> None:
        async def visit(target: Service, after: float) -> None:
            await asyncio.sleep(after)
            for _ in range(world.chance.randint(1, 5)):
                await _visit_in_good_health(world, target)
                # Come back when the guest is about to be let go, or has just been.
                await asyncio.sleep(target.idle_after + 0.03 * world.chance.uniform(-0.2, 1.0))

        await _everybody(world, visit)

    _run(seed, story)


async def _visit_in_good_health(world: World, target: Service) -> None:
    how = world.chance.choice(["dns", "syn", "syn", "syn", "ping", "datagram"])
    if how == "dns":
        reply = await world.query(target.dns[0])
        assert [str(rr.address) for rr in reply.answer[0]] == [str(target.address)]
    if how == "ping":
        assert await world.client().ping(target)
    elif how == "datagram":
        assert await world.client().datagram(target)
    else:
        linger = world.chance.choice([0.0, 0.0, 2 * target.idle_after])
        outcome = await world.client().get(target, linger=linger)
        assert outcome == Outcome(syns=1, arps=1, body=page_of(target), connected=True, closed=True)


def test_nobody_is_left_without_an_answer(seed: int) -> None:
    """Guests that fail, hang and crash: every client gets its page, a RST or a failure, in time."""

    async def story(world: World) -> None:
        for target in world.config.services:
            world.scripts[target.name] = [_trouble(world.chance) for _ in range(20)]

        async def visit(target: Service, after: float) -> None:
            await asyncio.sleep(after)
            if world.chance.random() < 0.3:
                await world.query(target.dns[0])
            elif world.chance.random() < 0.1:
                await world.daemon.dismiss(target.name)
            outcome = await world.client().get(target)
            assert outcome.body in (b"", page_of(target))
            # A guest that dies with the connection in it is silent until somebody asks again.
            assert outcome.body or outcome.refused or outcome.reset or outcome.gave_up

        await _everybody(world, visit)
        world.scripts.clear()
        for guest in world.backend.there:
            if guest not in world.backend.running.values():
                guest.die("prepared when there was trouble", False)
        await asyncio.sleep(120.0)  # any back-off is over
        for target in world.config.services:
            outcome = await world.client().get(target)
            assert outcome.body == page_of(target), "the service is back"

    _run(seed, story)


def _run(seed: int, story: Story) -> None:
    async def main() -> None:
        chance = Random(seed)
        services = random_services(chance)
        # In the lesser one there is room for what is prepared only while others sleep.
        memory = chance.choice([1 << 30, len(services) * MEMORY])
        world = World(chance, config(services, memory))
        await world.run(story(world))

    clock.run(main())


async def _everybody(world: World, visit: Visit) -> None:
    async with asyncio.TaskGroup() as visits:
        for _ in range(world.chance.randint(1, 12)):
            target = world.chance.choice(world.config.services)
            visits.create_task(
                visit(target, world.chance.choice([0.0, 0.3, 3.0]) * world.chance.random())
            )


def _trouble(chance: Random) -> Script:
    match chance.randrange(7):
        case 0:
            return Script(error="no such image")
        case 1:
            return Script(boots_after=float("inf"))
        case 2:
            return Script(dies_after=0.03 * chance.random())
        case 3:
            return Script(dies_after=0.3 * chance.random(), stops_after=0.2 * chance.random())
        case 4:
            verbs = ["pause", "resume", "suspend", "prepare", "boot"]
            cannot = frozenset(chance.sample(verbs, 3))
            return Script(boots_after=0.1 * chance.random(), cannot=cannot)
        case _:
            return Script(boots_after=0.1 * chance.random(), stops_after=0.2 * chance.random())


# Single stories.


def _tell(story: Story, *services: Service, memory: int = 1 << 30) -> None:
    async def main() -> None:
        world = World(Random(1), config(services, memory))
        await world.run(story(world))

    clock.run(main())


def test_a_thousand_queries_boot_once() -> None:
    async def story(world: World) -> None:
        replies = await asyncio.gather(*(world.query("s0.jitsu.test") for _ in range(1000)))
        assert world.backend.boots == 1
        assert all(reply.rcode() == 0 for reply in replies)

    _tell(story, service(0))


def test_a_server_that_listens_late_gives_nobody_a_reset() -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(boots_after=0.01, listens_after=0.3)]
        outcomes = await asyncio.gather(*(world.client().get(target) for _ in range(20)))
        assert all(o.body == page_of(target) and not o.refused for o in outcomes)

    target = service(0, ready=ReadyOnTcp(PORT))
    _tell(story, target)


def test_an_answer_when_ready_comes_when_it_is_ready() -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(boots_after=0.4)]
        await world.query("s0.jitsu.test")
        assert world.state(target) is State.AWAKE

    target = service(0, answer=Answer.WHEN_READY)
    _tell(story, target)


def test_who_comes_while_a_guest_dies_is_served_by_the_next() -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(boots_after=0.01, dies_after=20.0)]
        assert (await world.client().get(target)).body
        clients = [world.client() for _ in range(90)]
        assert all(await asyncio.gather(*(client.ping(target) for client in clients)))
        loop, visits = asyncio.get_running_loop(), []
        for number, client in enumerate(clients):
            # One each tenth of a millisecond: before, while nobody knows of it yet, and after.
            await asyncio.sleep(19.998 + number * 0.0001 - loop.time())
            visits.append(asyncio.create_task(client.get(target)))
        outcomes = await asyncio.gather(*visits)
        assert world.backend.boots == 2
        late = [outcome for outcome in outcomes if outcome.syns != 1]
        assert len(late) <= 2, "what was under way to the guest died with it"

    target = service(0, idle_after=600.0)
    _tell(story, target)


def test_an_open_connection_keeps_its_guest() -> None:
    async def story(world: World) -> None:
        outcome = await world.client().get(target, linger=60.0)
        assert outcome.body
        assert outcome.closed
        assert world.backend.boots == 1
        await asyncio.sleep(2.0)
        assert world.state(target) is State.ASLEEP

    target = service(0, idle_after=0.5)
    _tell(story, target)


def test_a_query_does_not_keep_a_guest() -> None:
    async def story(world: World) -> None:
        for _ in range(10):
            await world.query("s0.jitsu.test")
            await asyncio.sleep(0.2)
        assert world.backend.boots > 1, "it slept, and was summoned again"

    _tell(story, service(0, idle_after=0.5))


def test_no_memory_is_said_at_once() -> None:
    async def story(world: World) -> None:
        assert (await world.client().get(first, linger=0)).body
        reply = await world.query("s1.jitsu.test")
        assert reply.rcode() == 2  # SERVFAIL
        assert (await world.client().get(second)).refused

    first, second = service(0), service(1)
    _tell(story, first, second, memory=16 << 20)


def test_a_failed_service_refuses_then_recovers() -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(error="no such image")]
        assert (await world.client().get(target)).refused
        assert (await world.query("s0.jitsu.test")).rcode() == 2
        await asyncio.sleep(1.0)
        assert (await world.client().get(target)).body

    target = service(0)
    _tell(story, target)


def test_a_flood_of_syns_is_bounded_and_a_client_is_still_served() -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(boots_after=0.2)]
        flood = world.client()
        for number in range(3 * HELD_FRAMES_MAX):
            flood.knock(target, number)
        await asyncio.sleep(0.1)
        assert world.daemon.synjitsu.held(target.name) <= HELD_FRAMES_MAX
        assert world.daemon.counters()["no room to hold it"] >= HELD_FRAMES_MAX
        assert (await world.client().get(target)).body

    target = service(0)
    _tell(story, target)


KEPT = {StopMode.PAUSE: State.PAUSED, StopMode.SUSPEND: State.SUSPENDED}


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("mode", [{}, {"handoff": Handoff.IMPORT, "terms": TERMS}])
def test_the_same_guest_serves_again_and_again(how: StopMode, mode: dict[str, Any]) -> None:
    async def story(world: World) -> None:
        free = world.daemon.memory_free
        for _ in range(5):
            outcome = await world.client().get(target)
            assert outcome == Outcome(
                syns=1, arps=1, body=page_of(target), connected=True, closed=True
            )
            await asyncio.sleep(1.0)
            assert world.state(target) is KEPT[how]
            claimed = MEMORY if how is StopMode.PAUSE else 0
            assert world.daemon.memory_free == free - claimed
        assert world.backend.boots == 1, "it was never booted again"

    target = service(0, idle_after=0.2, stop=how, **mode)
    _tell(story, target)


@pytest.mark.parametrize("how", KEPT)
def test_an_open_connection_lives_on_with_its_guest(how: StopMode) -> None:
    async def story(world: World) -> None:
        visit = asyncio.create_task(world.client().get(target, linger=5.0))
        await asyncio.sleep(1.0)
        assert await world.daemon.dismiss(target.name) is KEPT[how]
        outcome = await visit
        assert outcome.closed, "its FIN had the guest run on, and was answered"
        assert not outcome.reset
        assert world.backend.boots == 1

    target = service(0, stop=how)
    _tell(story, target)


@pytest.mark.parametrize("how", KEPT)
def test_a_guest_that_cannot_run_on_is_booted_again(how: StopMode) -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(cannot=frozenset({"resume"}))]
        assert (await world.client().get(target)).body
        await world.daemon.dismiss(target.name)
        for file in (world.folder / "suspended").iterdir():
            file.write_text("damaged")
        outcome = await world.client().get(target)
        assert (outcome.syns, outcome.body) == (1, page_of(target)), "the client has not noticed"
        assert world.backend.boots == 2

    target = service(0, stop=how)
    _tell(story, target)


@pytest.mark.parametrize("what", ["pause", "suspend"])
def test_a_guest_that_cannot_be_kept_ends(what: str) -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(cannot=frozenset({what}))]
        assert (await world.client().get(target)).body
        assert await world.daemon.dismiss(target.name) is State.ASLEEP
        assert (await world.client().get(target)).body

    target = service(0, stop=StopMode(what))
    _tell(story, target)


def test_a_paused_guest_that_dies_is_booted_for_the_next_client() -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [Script(dies_after=5.0)]
        assert (await world.client().get(target)).body
        assert await world.daemon.dismiss(target.name) is State.PAUSED
        await asyncio.sleep(10.0)
        assert world.state(target) is State.ASLEEP
        assert (await world.client().get(target)).body

    target = service(0, stop=StopMode.PAUSE)
    _tell(story, target)


def test_a_look_at_who_is_spliced_has_its_link_swept() -> None:
    async def story(world: World) -> None:
        for target in (spliced, other):
            await world.daemon.summon(target.name)
        links = {link.service.name: link for link in world.network.links}
        await asyncio.sleep(3 * spliced.idle_after)
        assert links[spliced.name].swept > 0
        assert links[other.name].swept == 0

    spliced = service(0, handoff=Handoff.SPLICE, terms=TERMS)
    other = service(1)
    _tell(story, spliced, other)


def test_what_is_kept_holds_its_memory_or_does_not() -> None:
    async def story(world: World) -> None:
        for target, other in [(paused, State.FAILED), (suspended, State.AWAKE)]:
            await world.daemon.summon(target.name)
            await world.daemon.dismiss(target.name)
            assert await world.daemon.summon(third.name) is other
            await world.daemon.dismiss(third.name)
            await world.daemon.dismiss(target.name)
            await asyncio.sleep(2.0)

    paused = service(0, stop=StopMode.PAUSE)
    suspended, third = service(1, stop=StopMode.SUSPEND), service(2)
    _tell(story, paused, suspended, third, memory=MEMORY)


def test_boots_of_a_warm_service_take_what_is_prepared() -> None:
    async def story(world: World) -> None:
        for boots in range(1, 6):
            await asyncio.sleep(1.0)
            (row,) = await world.daemon.services()
            assert row["prepared"] == 2
            assert world.daemon.memory_free == (1 << 30) - 2 * MEMORY
            outcome = await world.client().get(target)
            assert (outcome.syns, outcome.body) == (1, page_of(target))
            assert world.backend.warm_boots == world.backend.boots == boots
            await asyncio.sleep(1.0)
            assert world.state(target) is State.ASLEEP

    target = service(0, idle_after=0.2, warm=2)
    _tell(story, target)


def test_what_is_prepared_gives_way_to_a_boot_and_is_prepared_again() -> None:
    async def story(world: World) -> None:
        await asyncio.sleep(1.0)
        assert await _prepared(world) == [1, 0]
        outcome = await world.client().get(second)
        assert (outcome.syns, outcome.body) == (1, page_of(second))
        assert await _prepared(world) == [0, 0]
        await asyncio.sleep(2.0)
        assert await _prepared(world) == [1, 0]
        assert (await world.client().get(first)).body
        assert world.backend.warm_boots == 1
        assert world.backend.memory_most == MEMORY

    first, second = service(0, idle_after=0.2, warm=1), service(1, idle_after=0.2)
    _tell(story, first, second, memory=MEMORY)


TROUBLE = {
    "it cannot be prepared": Script(cannot=frozenset({"prepare"})),
    "it dies before it is used": Script(dies_after=0.5),
    "it cannot boot": Script(cannot=frozenset({"boot"})),
    "it dies as it boots": Script(dies_after=1.0005),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_with_what_is_prepared_costs_no_client_anything(trouble: str) -> None:
    async def story(world: World) -> None:
        world.scripts[target.name] = [TROUBLE[trouble]]
        await asyncio.sleep(1.0)
        outcome = await world.client().get(target)
        assert (outcome.syns, outcome.body) == (1, page_of(target))
        await asyncio.sleep(70.0)
        assert await _prepared(world) == [1]

    target = service(0, warm=1)
    _tell(story, target)


def test_a_suspended_guest_runs_on_and_takes_nothing_that_is_prepared() -> None:
    async def story(world: World) -> None:
        for _ in range(3):
            assert (await world.client().get(target)).body
            await asyncio.sleep(1.0)
            assert world.state(target) is State.SUSPENDED
            assert await _prepared(world) == [1]
            assert world.daemon.memory_free == 0
        assert world.backend.boots == 1

    target = service(0, idle_after=0.2, warm=1, stop=StopMode.SUSPEND)
    _tell(story, target, memory=MEMORY)


async def _prepared(world: World) -> list[object]:
    return [row["prepared"] for row in await world.daemon.services()]
