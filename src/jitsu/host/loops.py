"""Loop devices: files as block devices (loop(4)).

The kernel lets go of one by itself when nobody has it open any more, however that comes.
"""

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from jitsu.errors import HostError

_CONTROL = "/dev/loop-control"
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONFIG = struct.Struct("=II 5Q 4I 64s64s32s2Q 8Q")
"""`struct loop_config` (linux/loop.h): the file, a block size, and a `struct loop_info64`."""
_TRIES = 16
"""Others look for a free device, too."""


@dataclass(slots=True)
class Loop:
    """A loop device that is there until it is closed, and whoever else has it open closes it."""

    path: str
    device: int
    """Its number, as stat(2) has it."""
    fd: int

    def close(self) -> None:
        """Let it go."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def open_loop(path: str, *, read_only: bool) -> Loop:
    """Make a file a block device. Raises HostError."""
    mode = os.O_RDONLY if read_only else os.O_RDWR
    try:
        file = os.open(path, mode | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        return _configure(file, mode, _AUTOCLEAR | (_READ_ONLY if read_only else 0))
    except OSError as error:
        what = f"{path} cannot be a block device: {error.strerror}"
        raise HostError(f"{what}; is the loop module loaded?") from error
    finally:
        os.close(file)


def _configure(file: int, mode: int, flags: int) -> Loop:
    config = _CONFIG.pack(file, 0, *(0,) * 5, 0, 0, 0, flags, b"", b"", b"", 0, 0, *(0,) * 8)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            fd = os.open(path, mode | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY or attempt == _TRIES - 1:
                    raise
            else:
                return Loop(path, os.fstat(fd).st_rdev, fd)
    finally:
        os.close(control)
    raise AssertionError("the last attempt returns or raises")
