"""`jitsu xenstored`: the store on its own."""

import asyncio
import gc
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.server import Server
from jitsu.errors import HostError
from jitsu.host import journal
from jitsu.host.lock import only_daemon
from jitsu.host.log import logger
from jitsu.host.xen.dom0 import of_this_boot, xen_rings
from jitsu.host.xen.store import DOM0_SOCKET
from jitsu.host.xenstored import Xenstored, listen

_GC = (20_000, 50, 1000)
"""Thresholds of the collector. What the store keeps has no cycles: to look through all of it every
few hundred requests would be a tenth of the work, and a pause that grows with the store."""


STATE = Path("/var/lib/jitsu/xenstored")
"""Where we keep the store of dom0."""


def command(
    socket: Annotated[
        Path | None,
        typer.Option("--socket", help=f"The Unix socket; --xen: {DOM0_SOCKET}."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", help=f"Where it is kept; else in memory alone; --xen: {STATE}."),
    ] = None,
    xen: Annotated[
        bool, typer.Option("--xen", help="Be dom0's xenstored: serve its kernel and all domains.")
    ] = False,
    pid_file: Annotated[
        Path | None, typer.Option("--pid-file", help="Where the process's number is written.")
    ] = None,
) -> None:
    """Serve a XenStore until SIGTERM or SIGINT."""
    if socket is None and not xen:
        raise typer.BadParameter("say which one to serve, or --xen", param_hint="--socket")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with written(pid_file):
        if xen:
            uvloop.run(_serve(socket or DOM0_SOCKET, state or STATE, xen=True))
        else:
            assert socket is not None
            uvloop.run(_serve(socket, state, xen=False))


@contextmanager
def written(path: Path | None) -> Iterator[None]:
    """Have the process's number in a file. Raises HostError."""
    if path is None:
        yield
        return
    try:
        path.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _serve(socket: Path, state: Path | None, *, xen: bool) -> None:
    log = logger()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        kept, recovered = None, Recovered()
        if state is not None:
            stack.enter_context(only_daemon(state))
            kept, recovered = journal.recover(of_this_boot(state) if xen else state)
            stack.callback(kept.close)
        xenstored = Xenstored(Server(recovered), kept, log)
        if xen:
            stack.enter_context(xen_rings(xenstored, log))
        await stack.enter_async_context(listen(xenstored, socket))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC)
        log.info("serving", socket=str(socket), state=str(state) if state else None, xen=xen)
        xenstored.failed.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if xenstored.failed.done():
            xenstored.failed.result()
    log.info("stopped")
