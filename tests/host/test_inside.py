"""The store as a function call: a client in its own process."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import uvloop

from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.server import Server
from jitsu.errors import ControlError
from jitsu.host.inside import inside
from jitsu.host.journal import recover
from jitsu.host.log import logger
from jitsu.host.xen.store import HostStore, Remove, Write
from jitsu.host.xenstored import Xenstored
from jitsu.store import Requests


def run(story: Callable[[Xenstored], Awaitable[None]]) -> None:
    async def told() -> None:
        await story(Xenstored(Server(), None, logger()))

    uvloop.run(told())


def test_it_reads_writes_and_watches() -> None:
    async def story(xenstored: Xenstored) -> None:
        async with inside(xenstored) as client, inside(xenstored) as other:
            await client.write(b"/a/b", b"1")
            assert await other.read(b"/a/b") == b"1"
            with pytest.raises(StoreError, match="ENOENT"):
                await client.read(b"/nothing")
            async with client.watch(b"/a") as events:
                assert await anext(events) == b"/a"
                await other.write(b"/a/c", b"2")
                assert await anext(events) == b"/a/c"

            async def both(requests: Requests) -> None:
                await requests.write(b"/a/d", b"3")
                await requests.remove(b"/a/b")

            await client.atomically(both)
            assert sorted(await other.directory(b"/a")) == [b"c", b"d"]

    run(story)


def test_who_is_told_may_ask_again_at_once() -> None:
    async def story(xenstored: Xenstored) -> None:
        heard: list[bytes | None] = []
        enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with inside(xenstored) as client:

            def told(path: bytes | None) -> None:
                heard.append(path)
                if len(heard) < 5:
                    xenstored.edit(lambda space: space.write(b"/a", (b"a",), b"%d" % len(heard)))
                elif not enough.done():
                    enough.set_result(None)

            stop = client.subscribe(b"/a", told)
            await enough
            stop()
            assert await client.read(b"/a") == b"4"
        assert heard[:5] == [b"/a"] * 5

    run(story)


def test_the_toolstacks_store_on_it() -> None:
    async def story(xenstored: Xenstored) -> None:
        store = HostStore(partial(inside, xenstored))
        await store.open()
        told = asyncio.Event()
        await store.commit([Write(b"/vif/1", b"x", (b"n0", b"r1")), Write(b"/vif/1/state", b"1")])
        assert await store.read(b"/vif/1/state") == b"1"
        stop = store.watch(b"/vif", told.set)
        await told.wait()
        stop()
        await store.remove([b"/vif/1"])
        assert await store.read(b"/vif") is None
        await store.write([Remove(b"/vif")])
        await store.close()

    run(story)


def test_a_store_that_ends_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        journal, recovered = recover(tmp_path)
        xenstored = Xenstored(Server(recovered), journal, logger())
        async with inside(xenstored) as client:
            await client.write(b"/a", b"1")
            xenstored.close()
            assert await client.lost == "the store has ended"
            with pytest.raises(ControlError, match="ended"):
                await client.read(b"/a")
        journal.close()

    uvloop.run(story())
