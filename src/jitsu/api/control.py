"""The control socket: one JSON object a line in, one a line out.

    -> {"verb": "summon", "name": "www"}
    <- {"ok": {...}}   or   {"error": "what and what to do"}

It is a Unix socket that only the daemon's own user may open.
"""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jitsu.errors import ControlError, HostError

Handler = Callable[[dict[str, Any]], Awaitable[Any]]
REQUEST_BYTES_MAX = 4096
"""A request names a verb and a service."""
SOCKET = "control"


@asynccontextmanager
async def serve(run: Path, handler: Handler) -> AsyncIterator[None]:
    """Answer requests on the socket in folder `run` while the context is open.

    The folder is this daemon's alone, so a socket that is there is a dead one's. Raises HostError.
    """
    path = run / SOCKET
    conversations: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await _talk(reader, writer, handler)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or we go
        finally:
            conversations.discard(task)
            writer.close()

    listener = _listener(path)
    server = await asyncio.start_unix_server(talk, sock=listener, limit=REQUEST_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        for task in list(conversations):
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        path.unlink(missing_ok=True)


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(stat.S_IRWXG | stat.S_IRWXO)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        what = error.strerror or str(error)
        raise HostError(f"{path}: {what}; choose another [host] run") from error
    finally:
        os.umask(mask)
    return listener


async def _talk(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler
) -> None:
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            line = None  # too long: where the next one begins, nobody knows
        if line == b"":
            return
        writer.write(json.dumps(await _reply(line or b"", handler)).encode() + b"\n")
        await writer.drain()
        if line is None:
            return


async def _reply(line: bytes, handler: Handler) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        return {"error": f"a request is one JSON object of at most {REQUEST_BYTES_MAX} bytes"}
    try:
        return {"ok": await handler(request)}
    except (ControlError, HostError) as error:
        return {"error": str(error)}


def request(run: Path, verb: str, **arguments: object) -> Any:  # noqa: ANN401  (JSON)
    """Have the daemon in folder `run` do `verb`. Raises ControlError."""
    path = run / SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            client.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            line = client.makefile("rb").readline()
    except PermissionError as error:
        raise ControlError(f"{path}: permission denied; run as the daemon's user") from error
    except OSError as error:
        raise ControlError(f"no daemon answers at {path}; start `jitsu serve`") from error
    if not line:
        raise ControlError("the daemon has closed the connection; see its log")
    reply = json.loads(line)
    if "error" in reply:
        raise ControlError(reply["error"])
    return reply["ok"]
