"""The asyncio client, against the true daemon in this process, and against rude ones."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from jitsu import store
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.server import Server
from jitsu.errors import ControlError, HostError
from jitsu.host.journal import recover
from jitsu.host.xenstored import Xenstored, listen
from jitsu.wire.xenstore import HEADER, Op

Story = Callable[[store.Client, store.Client], Coroutine[Any, Any, None]]


@asynccontextmanager
async def two_clients(folder: Path) -> AsyncIterator[tuple[store.Client, store.Client]]:
    path = folder / "socket"
    async with (
        listen(Xenstored(Server(), None, structlog.get_logger()), path),
        store.connect(path) as one,
        store.connect(path) as two,
    ):
        yield one, two


def tell(folder: Path, story: Story) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), two_clients(folder) as (one, two):
            await story(one, two)

    asyncio.run(main())


async def refused(request: Awaitable[object]) -> str:
    with pytest.raises(StoreError) as caught:
        await request
    return caught.value.name


def test_reading_and_writing(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        await one.write(b"/a/b", b"\0\xff")
        assert await two.read(b"/a/b") == b"\0\xff"
        await one.mkdir(b"/a/c")
        assert await two.directory(b"/a") == [b"b", b"c"]
        assert await two.directory(b"/a/b") == []
        await one.set_perms(b"/a", b"n1", b"r2", b"c1")
        assert await two.perms(b"/a") == [b"n1", b"r2"]
        assert await two.perms(b"/a", extended=True) == [b"n1", b"r2", b"c1"]
        await one.remove(b"/a")
        assert await refused(two.read(b"/a")) == "ENOENT"
        assert await refused(two.read(b"no path")) == "EINVAL"
        assert await refused(two.write(b"/a", bytes(5000))) == "E2BIG"

    tell(tmp_path, story)


def test_a_listing_of_any_length(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        names = sorted(b"%d-%b" % (i, b"x" * 50) for i in range(300))
        await asyncio.gather(*(one.write(b"/many/" + name, b"") for name in names))
        assert await two.directory(b"/many") == names

    tell(tmp_path, story)


def test_a_listing_that_changes_while_it_is_read(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        for i in range(300):
            await one.write(b"/many/%d-%b" % (i, b"x" * 50), b"")
        reading = asyncio.create_task(two.directory(b"/many"))
        for i in range(20):
            await one.write(b"/many/%d" % i, b"")
        listed = await reading
        assert listed == sorted(set(listed))
        assert len(listed) >= 300

    tell(tmp_path, story)


def test_watching(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        async with two.watch(b"/a") as events, two.watch(b"/a/b") as others:
            assert await anext(events) == b"/a"
            assert await anext(others) == b"/a/b"
            await one.write(b"/a/b", b"1")
            assert await anext(events) == b"/a/b"
            assert await anext(others) == b"/a/b"
        await one.write(b"/a/b", b"2")
        assert await two.read(b"/a/b") == b"2"

    tell(tmp_path, story)


def test_transactions(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        async with one.transaction() as transaction:
            await transaction.write(b"/a", b"1")
            assert await refused(two.read(b"/a")) == "ENOENT"
        assert await two.read(b"/a") == b"1"
        with pytest.raises(ZeroDivisionError):
            await fail_within(one)
        assert await two.read(b"/a") == b"1"

    tell(tmp_path, story)


async def fail_within(client: store.Client) -> None:
    async with client.transaction() as transaction:
        await transaction.write(b"/a", b"2")
        raise ZeroDivisionError


def test_a_transaction_is_tried_again_when_others_were_there(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        await one.write(b"/count", b"0")

        async def count(client: store.Client) -> None:
            async def increase(requests: store.Requests) -> None:
                value = int(await requests.read(b"/count"))
                await requests.write(b"/count", b"%d" % (value + 1))

            for _ in range(20):
                await client.atomically(increase)

        await asyncio.gather(count(one), count(two))
        assert await one.read(b"/count") == b"40"
        assert await refused(one.atomically(lambda requests: requests.read(b"/no"))) == "ENOENT"

    tell(tmp_path, story)


def test_who_waits_no_more_gets_no_reply_and_the_next_one_its_own(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        await one.write(b"/a", b"1")
        waiting = asyncio.create_task(two.read(b"/a"))
        await asyncio.sleep(0)
        waiting.cancel()
        assert await two.directory(b"/") == [b"a"]

    tell(tmp_path, story)


def test_who_waits_no_more_leaves_no_watch_and_no_transaction(tmp_path: Path) -> None:
    async def follow(client: store.Client, watching: asyncio.Event) -> None:
        async with client.watch(b"/a") as events:
            async for _ in events:
                watching.set()

    async def story(one: store.Client, two: store.Client) -> None:
        watching = asyncio.Event()
        following = asyncio.create_task(follow(one, watching))
        await watching.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        starting = asyncio.create_task(fail_within(one))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await one.read(b"/")
        left = (await one.request(Op.CONTROL, b"stats\0")).decode()
        assert "watches: 0\n" in left
        assert "transactions: 0\n" in left

    tell(tmp_path, story)


def test_nobody_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with store.connect(tmp_path / "nothing"):
            pass

    with pytest.raises(ControlError, match="no XenStore answers at"):
        asyncio.run(main())


RUDE = {
    "it hangs up": b"",
    "a reply to nothing": HEADER.pack(Op.READ, 99, 0, 0),
    "a reply of another kind": HEADER.pack(Op.WRITE, 1, 0, 0),
    "a reply that is too long": HEADER.pack(Op.READ, 1, 0, 5000),
    "an event that is none": HEADER.pack(Op.WATCH_EVENT, 0, 0, 1) + b"x",
    "an event without a token": HEADER.pack(Op.WATCH_EVENT, 0, 0, 2) + b"x\0",
}


@pytest.mark.parametrize("reply", RUDE.values(), ids=RUDE)
def test_a_store_that_is_none(tmp_path: Path, reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(reply)
        writer.close()

    async def main() -> None:
        path = tmp_path / "socket"
        async with await asyncio.start_unix_server(serve, path), store.connect(path) as client:
            reading = client.read(b"/a")
            with pytest.raises(ControlError):
                await reading
            with pytest.raises(ControlError):
                await client.read(b"/a")

    asyncio.run(main())


def test_an_error_that_has_no_name(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(HEADER.pack(Op.ERROR, 1, 0, 4) + b"EODD")
        await reader.read(100)
        writer.close()

    async def main() -> None:
        path = tmp_path / "socket"
        async with await asyncio.start_unix_server(serve, path), store.connect(path) as client:
            assert await refused(client.read(b"/a")) == "EIO"

    asyncio.run(main())


def test_who_watches_learns_that_the_store_has_gone(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        async with two.watch(b"/a") as events:
            assert await anext(events) == b"/a"
            two._write(b"\xff" * 16)  # which makes the store hang up
            with pytest.raises(ControlError):
                await anext(events)

    tell(tmp_path, story)


def test_a_pipeline_is_answered_in_order_and_refused_one_by_one(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        asked = [(Op.WRITE, b"/a\0one"), (Op.READ, b"/a\0"), (Op.DIRECTORY, b"/a\0")]
        assert await one.pipeline(asked) == [b"OK\0", b"one", b""]
        missing, written = await one.pipeline([(Op.READ, b"/none\0"), (Op.WRITE, b"/b\0two")])
        assert isinstance(missing, StoreError)
        assert missing.name == "ENOENT"
        assert written == b"OK\0"
        assert await two.read(b"/b") == b"two"
        assert await refused(one.pipeline([(Op.WRITE, b"/a\0" + b"x" * 4096)])) == "E2BIG"

    tell(tmp_path, story)


def test_who_subscribes_is_called_until_it_has_enough(tmp_path: Path) -> None:
    async def story(one: store.Client, two: store.Client) -> None:
        told: asyncio.Queue[bytes | None] = asyncio.Queue()
        stop = one.subscribe(b"/a", told.put_nowait)
        assert await told.get() == b"/a"
        await two.write(b"/a/b", b"1")
        assert await told.get() == b"/a/b"
        stop()
        await one.read(b"/a")
        await two.write(b"/a/b", b"2")
        await one.read(b"/a")
        assert told.empty()
        one.subscribe(b"/a", told.put_nowait)
        assert await told.get() == b"/a"
        one._write(b"\xff" * 16)  # which makes the store hang up
        assert await told.get() is None

    tell(tmp_path, story)


def test_after_a_commit_could_not_be_kept_nobody_waits_for_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        log, recovered = recover(tmp_path / "state")
        xenstored = Xenstored(Server(recovered), log, structlog.get_logger())
        path = tmp_path / "socket"
        async with asyncio.timeout(20), listen(xenstored, path):
            async with store.connect(path) as client:
                await client.write(b"/a", b"1")
                size = (tmp_path / "state" / "log.0").stat().st_size
                with no_more_than(size), pytest.raises(ControlError):
                    await client.write(b"/a", b"2")
            assert isinstance(xenstored.failed.exception(), HostError)
            for op, payload in ((Op.READ, b"/a\0"), (Op.WRITE, b"/a\x003")):
                async with store.connect(path) as late:
                    with pytest.raises(ControlError):
                        await late.request(op, payload)
        log.close()

    asyncio.run(main())


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
