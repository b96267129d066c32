"""What lies ready: when it is made, who gets it."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address

from jitsu.errors import HostError
from jitsu.host.ahead import Ahead, AheadOf
from jitsu.model import Mac, Name, Service

WWW = Service(Name("www"), (), "", IPv4Address("10.77.0.10"), Mac(bytes(6)))
MAIL = replace(WWW, name=Name("mail"))


def test_what_is_being_made_is_the_next_ones_or_waited_for() -> None:
    with ThreadPoolExecutor(1) as pool:
        go = threading.Event()
        ahead = Ahead(lambda: pool.submit(lambda: go.wait(10) and "it"))
        assert ahead.take() is None
        ahead.prepare()
        ahead.prepare()
        assert ahead.take() is None

        async def wait() -> object:
            taking = asyncio.create_task(ahead.taken())
            await asyncio.sleep(0)
            go.set()
            return await taking

        assert asyncio.run(wait()) == "it"
        assert ahead.take() is None, "it was taken, and there was one"


def test_what_cannot_be_made_is_not_there() -> None:
    def fail() -> str:
        raise HostError("no")

    with ThreadPoolExecutor(1) as pool:
        ahead = Ahead(lambda: pool.submit(fail))
        ahead.prepare()
        assert asyncio.run(ahead.taken()) is None
        assert asyncio.run(ahead.taken()) is None


def test_each_service_has_its_own() -> None:
    made: list[Name] = []
    again = asyncio.Event()

    def submit(service: Service) -> Future[Name]:
        done: Future[Name] = Future()
        made.append(service.name)
        again.set()
        done.set_result(service.name)
        return done

    async def story() -> None:
        ahead = AheadOf(1, submit)
        ahead.add(WWW)
        ahead.add(MAIL)
        ahead.renew(WWW.name, 0)
        await asyncio.sleep(0)
        assert made == [], "nobody was to begin"
        ahead.begin()
        assert [await ahead.taken(each) for each in (WWW.name, MAIL.name)] == [WWW.name, None]
        again.clear()
        ahead.renew(MAIL.name, 0)
        ahead.renew(WWW.name, 0)
        await asyncio.wait_for(again.wait(), 10)
        assert made == [WWW.name] * 2
        assert await ahead.taken(WWW.name) == WWW.name
        ahead.renew(WWW.name, 1e-9)
        assert await ahead.taken(WWW.name) is None, "it is called off, for one boots"
        assert made == [WWW.name] * 2

    asyncio.run(story())
