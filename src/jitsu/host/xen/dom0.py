"""Our store in the place of dom0's xenstored."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from jitsu.core.xenstore.path import names
from jitsu.core.xenstore.space import Space
from jitsu.errors import HostError
from jitsu.host.xen.libxc import Xen
from jitsu.host.xen.rings import XenRings
from jitsu.host.xenstored import Xenstored

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
