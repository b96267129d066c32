"""The store of dom0: one that runs already, or ours in its place."""

import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from jitsu import store
from jitsu.core.xenstore.path import names
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.space import Space
from jitsu.errors import HostError
from jitsu.host import journal
from jitsu.host.inside import inside
from jitsu.host.xen.libxc import Xen
from jitsu.host.xen.rings import XenRings
from jitsu.host.xen.store import DOM0_SOCKET, Connect
from jitsu.host.xenstored import Xenstored, listen
from jitsu.model import WhichXenstored

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MARK = b"/tool/xenstored"
"""A node by which Xen's programs know that there is a store."""


def of_this_boot(state: Path) -> Path:
    """Return where the store of this boot of the host is kept; remove those of earlier ones.

    What dom0's store tells is of domains, and they end with the host: xen-init-dom0 takes a store
    that knows dom0 for one that it has set up itself. Raises HostError.
    """
    boot = _BOOT_ID.read_text().strip()
    try:
        for other in state.glob("boot-*"):
            if other.name != f"boot-{boot}":
                shutil.rmtree(other)
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}") from error
    return state / f"boot-{boot}"


@contextmanager
def xen_rings(xenstored: Xenstored, log: FilteringBoundLogger) -> Iterator[XenRings]:
    """Serve dom0's kernel and all domains that are introduced. Raises HostError."""
    with closing(Xen()) as xen:

        def present() -> dict[int, bool]:
            return {one.domid: one.shutdown for one in xen.domains() if not one.dying}

        with closing(XenRings(xenstored, present, log)) as rings:
            xenstored.edit(_found)
            rings.start()
            yield rings


def _found(space: Space) -> None:
    space.write(_MARK, names(_MARK), b"jitsu")


@asynccontextmanager
async def dom0_store(
    which: WhichXenstored, state: Path, log: FilteringBoundLogger
) -> AsyncIterator[Connect]:
    """Yield how this process's toolstack connects to the store of dom0.

    `own` is kept in `state`. Raises HostError.
    """
    if which is WhichXenstored.RUNNING or (which is WhichXenstored.AUTO and answers(DOM0_SOCKET)):
        yield partial(store.connect, DOM0_SOCKET)
        return
    async with AsyncExitStack() as stack:
        kept, recovered = journal.recover(of_this_boot(state))
        stack.callback(kept.close)
        xenstored = Xenstored(Server(recovered), kept, log)
        xenstored.failed.add_done_callback(
            lambda failed: log.error("dom0's store has ended", reason=str(failed.exception()))
        )
        stack.enter_context(xen_rings(xenstored, log))
        await stack.enter_async_context(listen(xenstored, DOM0_SOCKET))
        log.info("serving the store of dom0", socket=str(DOM0_SOCKET), state=str(state))
        yield partial(inside, xenstored)


def answers(path: Path) -> bool:
    """Say whether a store answers at a socket, which a daemon that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
