"""A client of the store in the daemon's own process: requests are function calls.

It is served at once. What the store says comes with the loop's next turn, so that whoever is told
may ask again without being in the midst of another's request.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jitsu.core.xenstore.connection import Connection
from jitsu.host.xenstored import Xenstored
from jitsu.store import Client


class _Inside:
    """The client's end: a `Channel`."""

    def __init__(self, xenstored: Xenstored) -> None:
        self._xenstored = xenstored
        self.connection = xenstored.attach(self)
        self.client = Client(self._ask)
        self._due: asyncio.Handle | None = None

    def _ask(self, data: bytes) -> None:
        self._xenstored.receive(self.connection, data)

    def send(self, _connection: Connection) -> None:
        """Have what the store says taken soon."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = None
        self.client.take(self.connection.take())

    def drop(self) -> None:
        """The store serves it no more."""
        self.client.lose("the store has ended")

    def close(self) -> None:
        """Be a client no more."""
        if self._due is not None:
            self._due.cancel()
        self._xenstored.detach(self.connection)


@asynccontextmanager
async def inside(xenstored: Xenstored) -> AsyncIterator[Client]:
    """Be a client, with the rights of dom0, of a store in this process."""
    client = _Inside(xenstored)
    try:
        yield client.client
    finally:
        client.close()
        if not client.client.lost.done():
            client.client.lose("the client is closed")
