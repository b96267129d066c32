"""QMP to one guest's QEMU, spoken only when there is something to ask.

Until then QEMU's greeting waits in the socket, and no summons pays for reading it. From then on the
connection is kept, so that a guest that is paused runs on after a single exchange.
"""

import asyncio
import socket
from contextlib import suppress

from qemu.qmp import QMPClient, QMPError

from jitsu.errors import HostError

_PATIENCE = 2.0
"""Seconds for a guest's QEMU to answer; one that hangs is destroyed by who asked."""
_FAILURES = (QMPError, EOFError, TimeoutError, OSError)


class Monitor:
    """Our end of one QEMU's QMP socket."""

    def __init__(self, name: str, end: socket.socket) -> None:
        self._client = QMPClient(name)
        self._end: socket.socket | None = end
        self._lock = asyncio.Lock()

    async def ask(self, command: str) -> None:
        """Have QEMU execute a command that has no arguments. Raises HostError."""
        try:
            async with asyncio.timeout(_PATIENCE), self._lock:
                if self._end is not None:
                    end, self._end = self._end, None
                    await self._client.connect(end)
                await self._client.execute(command)
        except _FAILURES as error:
            raise HostError(f"{command}: {str(error) or 'QEMU does not answer'}") from error
        self._client.events.clear()  # nobody asks for them

    async def close(self) -> None:
        """Hang up; QEMU may have gone."""
        if self._end is not None:
            self._end.close()
            return
        with suppress(*_FAILURES):
            await self._client.disconnect()
