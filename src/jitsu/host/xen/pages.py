"""Pages that two domains have in common, as mmap objects."""

import mmap
import os
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from jitsu.errors import HostError
from jitsu.host.xen.device import PAGE, call, number

_NOTIFY = struct.Struct("=QII")
_SET_UNMAP_NOTIFY = number("G", 7, _NOTIFY.size)
_CLEAR_BYTE, _SEND_EVENT = 1, 2


class SharedPages:
    """Some pages that another domain sees, too; `memory` is theirs.

    Who has made a memoryview of `memory` releases it before `close`.
    """

    def __init__(self, fd: int, index: int, count: int, undo: Callable[[], None]) -> None:
        """Map `count` pages that the device `fd` knows as `index`. Raises HostError.

        `undo` tells the device that it can forget them, once they are not mapped any more.
        """
        self._fd = fd
        self._index = index
        self._undo = undo
        try:
            self.memory = mmap.mmap(fd, count * PAGE, offset=index)
        except OSError as error:
            undo()
            raise HostError(f"{count} shared pages: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def notify_on_unmap(self, *, clear: int | None = None, port: int | None = None) -> None:
        """Have the kernel tell the peer when the pages are unmapped, however this process ends.

        It sets the byte at offset `clear` to zero, and fires event channel `port`. A second call
        replaces the first; one without arguments takes it back. Raises HostError.
        """
        action = (_CLEAR_BYTE if clear is not None else 0) | (
            _SEND_EVENT if port is not None else 0
        )
        wish = _NOTIFY.pack(self._index + (clear or 0), action, port or 0)
        call(self._fd, _SET_UNMAP_NOTIFY, bytearray(wish), "notification of unmapping")

    def close(self) -> None:
        """Unmap them."""
        if not self.memory.closed:
            self.memory.close()
            self._undo()


class PageDevice:
    """What the devices of both directions have in common."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the device; what is mapped stays so until it is closed itself."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
