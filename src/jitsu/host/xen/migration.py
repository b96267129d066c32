"""A domain in a file: libxenguest's migration stream (Xen's docs/specs/libxc-migration-stream).

A guest that is to be saved is asked to in the store; it puts its devices away and shuts down for
the reason `suspend`, which leaves its memory and its processor as they are. Both are written to
the file. Whoever restores it creates a domain anew: number, frames and event channels are others,
and the library writes those of store and console where the guest looks for them when it runs on.
It finds its devices plugged as for a boot, and connects to them again.

All of it blocks for as long as it takes to write, or read, the guest's memory.
"""

import ctypes as c
from contextlib import suppress
from pathlib import Path

from jitsu.errors import HostError
from jitsu.host.xen.domain import DOM0, Domain, Rings
from jitsu.host.xen.layout import RestoreCallbacks, SaveCallbacks
from jitsu.host.xen.libxc import Xen

_PLAIN = 0
"""XC_STREAM_PLAIN: the domain is in it once, whole."""
_NOWHERE = -1
"""No descriptor: nobody answers a plain stream."""
_SUSPENDED = c.CFUNCTYPE(c.c_int, c.c_void_p)(lambda _: 1)
"""Answers that the guest has suspended: nobody calls `save` before."""


def save(xen: Xen, domid: int, file: Path) -> None:
    """Write a domain that has suspended to `file`. Raises HostError, and then there is no file."""
    callbacks = SaveCallbacks(suspend=c.cast(_SUSPENDED, c.c_void_p))
    try:
        file.touch(0o600)  # nobody else may read a guest's memory
        with file.open("wb") as stream:
            xen.stream(
                *("xc_domain_save", stream.fileno(), domid, 0),
                *(c.byref(callbacks), _PLAIN, _NOWHERE),
            )
    except (HostError, OSError) as error:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise HostError(f"{file} cannot be written: {error.strerror}") from error
        raise


def restore(xen: Xen, domain: Domain, file: Path) -> Rings:
    """Fill an empty domain with the one in `file`. Raises HostError."""
    store, console = c.c_ulong(), c.c_ulong()
    callbacks = RestoreCallbacks()
    try:
        with file.open("rb") as stream:
            xen.stream(
                *("xc_domain_restore", stream.fileno(), domain.domid),
                *(domain.store_port, c.byref(store), DOM0),
                *(domain.console_port, c.byref(console), DOM0),
                *(_PLAIN, c.byref(callbacks), _NOWHERE),
            )
    except OSError as error:
        raise HostError(f"{file} cannot be read: {error.strerror}") from error
    return Rings(store.value, console.value)
