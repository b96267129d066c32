"""Taps: network interfaces whose other end is a file descriptor."""

import errno
import fcntl
import os
import struct

from jitsu.errors import HostError

_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
DEVICE = "/dev/net/tun"


def open_tap(name: str, *, vnet_hdr: bool = False) -> int:
    """Make the tap `name` and return its descriptor, non-blocking; it lives as long as that.

    A name that ends in `%d` gets the first number that is free; `tap_name` tells which.

    With `vnet_hdr` each frame carries a virtio-net header, so that a guest may leave checksums
    and segmentation to the host. Raises HostError.
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_hdr else 0)
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENODEV)
        hint = "load the tun module" if missing else "run as root, or let this user open it"
        raise HostError(f"{DEVICE}: {error.strerror}; {hint}") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(fd)
        raise HostError(f"cannot make tap {name}: {error.strerror}") from error
    return fd


def tap_name(fd: int) -> str:
    """Return what the tap of a descriptor is called."""
    answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
    return answer[:16].rstrip(b"\0").decode()
