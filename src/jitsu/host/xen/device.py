"""The character devices below /dev/xen, and their ioctls."""

import errno
import fcntl
import os
from pathlib import Path

from jitsu.errors import HostError

DEVICES = Path("/dev/xen")
PAGE = 4096

_MODULES = {"evtchn": "xen-evtchn", "gntdev": "xen-gntdev", "gntalloc": "xen-gntalloc"}


def number(kind: str, nr: int, size: int) -> int:
    """Return the number of an ioctl; Xen's have a size, but no direction (_IOC(_IOC_NONE, ...))."""
    return size << 16 | ord(kind) << 8 | nr


def open_device(name: str, flags: int = 0) -> int:
    """Open a device. Raises HostError."""
    path = DEVICES / name
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags)
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            module = _MODULES.get(name)
            load = f", with the kernel module {module}" if module else ""
            hint = f"; this needs the dom0 of a running Xen{load}"
        raise HostError(f"{path}: {error.strerror}{hint}") from error


def call(fd: int, request: int, argument: bytearray, what: str) -> int:
    """Do an ioctl, which may change `argument`; return what it returns. Raises HostError."""
    try:
        returned: int = fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise HostError(f"{what}: {error.strerror}") from error
    return returned
