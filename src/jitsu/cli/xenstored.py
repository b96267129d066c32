"""`jitsu xenstored`: the store on its own."""

import asyncio
import gc
import resource
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.server import Server
from jitsu.host import journal
from jitsu.host.lock import only_daemon
from jitsu.host.log import logger
from jitsu.host.xenstored import Xenstored, listen

_GC = (20_000, 50, 1000)
"""Thresholds of the collector. What the store keeps has no cycles: to look through all of it every
few hundred requests would be a tenth of the work, and a pause that grows with the store."""


def command(
    socket: Annotated[Path, typer.Option("--socket", help="The Unix socket to serve.")],
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Where the store is kept; without it, in memory alone."),
    ] = None,
) -> None:
    """Serve a XenStore until SIGTERM or SIGINT."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(socket, state))


async def _serve(socket: Path, state: Path | None) -> None:
    log = logger()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        kept, recovered = None, Recovered()
        if state is not None:
            stack.enter_context(only_daemon(state))
            kept, recovered = journal.recover(state)
            stack.callback(kept.close)
        xenstored = Xenstored(Server(recovered), kept, log)
        await stack.enter_async_context(listen(xenstored, socket))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC)
        log.info("serving", socket=str(socket), state=str(state) if state else None)
        xenstored.failed.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if xenstored.failed.done():
            xenstored.failed.result()
    log.info("stopped")
