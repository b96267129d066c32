"""The store of this Xen host, as its toolstack uses it.

It is another process at the other end of a socket, or the daemon itself: what differs is how a
`jitsu.store.Client` is had. A store that has gone away is looked for again; what is asked of it
meanwhile is refused, and what was watched is watched again when it is back.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jitsu.core.xenstore.errors import StoreError
from jitsu.errors import ControlError, HostError
from jitsu.store import Client, Request, Requests
from jitsu.wire.xenstore import Op, join

DOM0_SOCKET = Path("/run/xenstored/socket")
"""Where dom0's store is found, whichever daemon it is."""
_AGAIN_FIRST, _AGAIN_MAX = 0.01, 1.0
"""Seconds between two looks for a store that has gone."""
PATIENCE = 10.0
"""Seconds until a store that has not answered is taken for gone."""
Connect = Callable[[], AbstractAsyncContextManager[Client]]


class Write(NamedTuple):
    """A node is to be, with a value; `perms`, as `n0`, `r7`, where its parent's are not its own.

    What is made below a node has its permissions from the start (xenstore.txt).
    """

    path: bytes
    value: bytes = b""
    perms: tuple[bytes, ...] = ()


class Remove(NamedTuple):
    """A node is not to be, nor what is below it."""

    path: bytes


Change = Write | Remove


def requests(changes: Iterable[Change]) -> list[Request]:
    """Return what to ask of a store so that it has `changes`."""
    asked: list[Request] = []
    for change in changes:
        match change:
            case Remove(path):
                asked.append((Op.RM, join(path)))
            case Write(path, value, perms):
                asked.append((Op.WRITE, join(path) + value))
                if perms:
                    asked.append((Op.SET_PERMS, join(path, *perms)))
    return asked


class HostStore:
    """The store; everything raises HostError when it has gone, or refuses."""

    def __init__(self, connect: Connect, patience: float = PATIENCE) -> None:
        """Reach it by `connect`; `patience` is the seconds within which it has to answer."""
        self._connect = connect
        self._patience = patience
        self._client: Client | None = None
        self._watches: dict[int, tuple[bytes, Callable[[], None]]] = {}
        self._stops: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._keeper: asyncio.Task[None] | None = None
        self._committing = asyncio.Lock()
        self._reason = "it has not been looked for"

    async def open(self) -> None:
        """Connect. Raises HostError where none answers."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(first))
        try:
            await first
        except ControlError as error:
            raise HostError(str(error)) from error

    async def close(self) -> None:
        """Let it go."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    async def commit(self, changes: Iterable[Change]) -> None:
        """Make `changes` in one transaction, again and again until nobody has come between.

        One after the other: transactions of ours that meet would have each other done again.
        """
        asked = requests(changes)
        async with self._committing:
            await self._commit(asked)

    async def _commit(self, asked: list[Request]) -> None:
        while True:
            try:
                with self._asking() as client:
                    async with client.transaction() as transaction:
                        _check(asked, await transaction.pipeline(asked))
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise HostError(f"the XenStore refuses: {error.name}") from error
            else:
                return

    async def write(self, changes: Iterable[Change]) -> None:
        """Make `changes` one after the other: for a domain that nobody looks at yet."""
        await self._ask(requests(changes))

    async def introduce(self, domid: int, frame: int, port: int) -> None:
        """Have the store serve a domain's ring."""
        numbers = (b"%d" % domid, b"%d" % frame, b"%d" % port)
        await self._ask([(Op.INTRODUCE, join(*numbers))])

    async def release(self, domid: int) -> None:
        """Have the store forget a domain that is no more; whoever is quicker has done it."""
        with suppress(HostError):
            await self._ask([(Op.RELEASE, join(b"%d" % domid))])

    async def remove(self, paths: Sequence[bytes]) -> None:
        """Remove nodes, and the folders above them that are empty then."""
        await self._ask(requests(map(Remove, paths)))

        async def prune(tree: Requests) -> None:
            for path in paths:
                await _prune(tree, path)

        with suppress(StoreError, HostError), self._asking() as client:
            await client.atomically(prune)

    async def read(self, path: bytes) -> bytes | None:
        """Return a node's value; None where there is no node."""
        try:
            with self._asking() as client:
                return await client.read(path)
        except StoreError:
            return None

    async def until(self, path: bytes, *values: bytes) -> int:
        """Wait until a node has one of `values`; return which."""
        changed = asyncio.Event()
        stop = self.watch(path, changed.set)
        try:
            while True:
                await changed.wait()
                changed.clear()
                value = await self.read(path)
                if value in values:
                    return values.index(value)
        finally:
            stop()

    def watch(self, path: bytes, told: Callable[[], None]) -> Callable[[], None]:
        """Have `told` called when something changes at or below `path`, and once in any case.

        Return how to hear no more of it.
        """
        self._number += 1
        number = self._number
        self._watches[number] = (path, told)
        if self._client is not None:
            self._subscribe(self._client, number)

        def stop() -> None:
            self._watches.pop(number, None)
            if (end := self._stops.pop(number, None)) is not None:
                end()

        return stop

    def _subscribe(self, client: Client, number: int) -> None:
        path, told = self._watches[number]

        def heard(changed: bytes | None) -> None:
            if changed is not None and number in self._watches:
                told()

        self._stops[number] = client.subscribe(path, heard)

    async def _ask(self, asked: list[Request]) -> None:
        try:
            with self._asking() as client:
                _check(asked, await client.pipeline(asked))
        except StoreError as error:
            raise HostError(f"the XenStore refuses: {error.name}") from error

    @contextmanager
    def _asking(self) -> Iterator[Client]:
        """Have the client; a store that says nothing for long is taken for gone."""
        client = self._client
        if client is None:
            raise HostError(f"there is no XenStore: {self._reason}")
        watchdog = asyncio.create_task(self._overdue(client))
        try:
            yield client
        except ControlError as error:
            raise HostError(f"the XenStore has gone: {error}") from error
        finally:
            watchdog.cancel()

    async def _overdue(self, client: Client) -> None:
        heard = -1
        while heard != client.heard:
            heard = client.heard
            await asyncio.sleep(self._patience)
        client.lose(f"it has not answered for {self._patience:g} s")

    async def _keep(self, first: asyncio.Future[None]) -> None:
        """Be connected, whatever becomes of the store."""
        wait = _AGAIN_FIRST
        while True:
            try:
                async with self._connect() as client:
                    wait = _AGAIN_FIRST
                    await self._serve(client, first)
            except ControlError as error:
                self._reason = str(error)
                if not first.done():
                    first.set_exception(error)
                    return
            await asyncio.sleep(wait)
            wait = min(2 * wait, _AGAIN_MAX)

    async def _serve(self, client: Client, first: asyncio.Future[None]) -> None:
        self._client = client
        self._stops = {}
        for number in self._watches:
            self._subscribe(client, number)
        if not first.done():
            first.set_result(None)
        try:
            self._reason = await asyncio.shield(client.lost)
        finally:
            self._client = None


def _check(asked: Sequence[Request], replies: Sequence[bytes | StoreError]) -> None:
    """Raise the first refusal; what was to be removed may be gone already."""
    for (op, _), reply in zip(asked, replies, strict=True):
        if isinstance(reply, StoreError) and not (op == Op.RM and reply.name == "ENOENT"):
            raise reply


async def _prune(tree: Requests, path: bytes) -> None:
    parent = path.rpartition(b"/")[0]
    while parent:
        try:
            if await tree.directory(parent):
                return
            await tree.remove(parent)
        except StoreError as error:
            if error.name != "ENOENT":
                raise
        parent = parent.rpartition(b"/")[0]
