"""The ring by which dom0's own kernel speaks to the store (/dev/xen/xenbus_backend)."""

import mmap
import os

from jitsu.errors import HostError
from jitsu.host.xen.device import PAGE, call, number, open_device

_EVTCHN = number("B", 0, 0)


def kernel_ring() -> tuple[mmap.mmap, int]:
    """Map the kernel's ring; return it, and the event channel that the kernel offers.

    The kernel begins to use its store when that channel has fired once. Raises HostError.
    """
    fd = open_device("xenbus_backend")
    try:
        port = call(fd, _EVTCHN, bytearray(4), "/dev/xen/xenbus_backend")
        return mmap.mmap(fd, PAGE), port
    except OSError as error:
        raise HostError(f"/dev/xen/xenbus_backend: {error.strerror}") from error
    finally:
        os.close(fd)
