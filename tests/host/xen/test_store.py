"""The toolstack's store, against the true daemon in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from jitsu import store
from jitsu.core.xenstore.server import Server
from jitsu.errors import HostError
from jitsu.host.inside import inside
from jitsu.host.xen.store import HostStore, Remove, Write
from jitsu.host.xenstored import Xenstored, listen

Story = Callable[[HostStore, store.Client], Coroutine[Any, Any, None]]
Tell = Callable[[Story], None]


@asynccontextmanager
async def serving(path: Path, server: Server) -> AsyncIterator[Xenstored]:
    xenstored = Xenstored(server, None, structlog.get_logger())
    async with listen(xenstored, path):
        yield xenstored


@pytest.fixture(params=["socket", "inside"])
def tell(request: pytest.FixtureRequest, tmp_path: Path) -> Tell:
    """Tell a story of the toolstack's store and another client."""
    path = tmp_path / "socket"

    async def main(story: Story) -> None:
        async with serving(path, Server()) as xenstored, store.connect(path) as other:
            far = partial(store.connect, path)
            host = HostStore(far if request.param == "socket" else partial(inside, xenstored))
            await host.open()
            try:
                await story(host, other)
            finally:
                await host.close()

    return lambda story: asyncio.run(asyncio.wait_for(main(story), 20))


async def until_refused(host: HostStore) -> None:
    while True:
        await host.read(b"/a")


def test_a_commit_writes_removes_and_permits(tell: Tell) -> None:
    async def story(host: HostStore, other: store.Client) -> None:
        await other.write(b"/old/node", b"1")
        await host.commit(
            [
                Remove(b"/old"),
                Remove(b"/never/was"),
                Write(b"/home", b"", (b"n0", b"r7")),
                Write(b"/home/name", b"www"),
            ]
        )
        assert await other.read(b"/home/name") == b"www"
        assert await other.perms(b"/home/name") == [b"n0", b"r7"], "as its parent has them"
        assert await host.read(b"/old/node") is None

    tell(story)


def test_commits_that_meet_are_all_made(tell: Tell) -> None:
    async def story(host: HostStore, other: store.Client) -> None:
        async def count(path: bytes) -> None:
            await host.commit([Write(b"/count/%b" % path), Remove(b"/count/last")])

        await asyncio.gather(*(count(b"%d" % i) for i in range(16)))
        assert len(await other.directory(b"/count")) == 16

    tell(story)


def test_who_removes_leaves_no_empty_folder(tell: Tell) -> None:
    async def story(host: HostStore, other: store.Client) -> None:
        before = await other.directory(b"/")
        await host.write([Write(b"/backend/vif/7/0/state", b"1"), Write(b"/backend/vif/8/0", b"")])
        await host.remove([b"/backend/vif/7", b"/backend/vbd/7"])
        assert await other.directory(b"/backend/vif") == [b"8"]
        await host.remove([b"/backend/vif/8"])
        assert await other.directory(b"/") == before

    tell(story)


def test_a_watch_tells_at_once_and_until_it_is_stopped(tell: Tell) -> None:
    async def story(host: HostStore, other: store.Client) -> None:
        told: asyncio.Queue[None] = asyncio.Queue()
        stop = host.watch(b"/a", partial(told.put_nowait, None))
        await told.get()
        await other.write(b"/a/b", b"1")
        await told.get()
        stop()
        await host.read(b"/a")
        await other.write(b"/a/b", b"2")
        await host.read(b"/a")
        assert told.empty()

    tell(story)


def test_a_store_that_comes_back_is_used_again_and_watched_again(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        told: asyncio.Queue[None] = asyncio.Queue()
        host = HostStore(partial(store.connect, path))
        async with asyncio.timeout(20):
            async with serving(path, Server()):
                await host.open()
                host.watch(b"/a", partial(told.put_nowait, None))
                await told.get()
            with pytest.raises(HostError, match="XenStore"):
                await asyncio.gather(*(until_refused(host) for _ in range(2)))
            async with serving(path, Server()):
                await told.get()
                await host.write([Write(b"/a", b"1")])
                await told.get()
                assert await host.read(b"/a") == b"1"
            await host.close()

    asyncio.run(main())


def test_no_store_at_all_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        host = HostStore(partial(store.connect, tmp_path / "socket"))
        with pytest.raises(HostError, match="no XenStore answers"):
            await host.open()
        with pytest.raises(HostError, match="no XenStore"):
            await host.commit([Write(b"/a")])
        await host.close()

    asyncio.run(main())


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    """It accepts, and takes what is sent: whoever asks is told, and nobody waits for ever."""
    path = tmp_path / "socket"

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_unix_server(swallow, path)
        host = HostStore(partial(store.connect, path), patience=0.05)
        asks: list[Callable[[], Coroutine[Any, Any, object]]] = [
            partial(host.commit, [Write(b"/a")]),
            partial(host.write, [Write(b"/a")]),
            partial(host.read, b"/a"),
            partial(host.introduce, 1, 2, 3),
        ]
        async with asyncio.timeout(20):
            for ask in asks:
                await host.open()
                with pytest.raises(HostError, match=r"gone: it has not answered for 0\.05 s"):
                    await ask()
                with pytest.raises(HostError, match="XenStore"):
                    await until_refused(host)
                await host.release(1)
                await host.close()
        server.close()
        await server.wait_closed()

    asyncio.run(main())
