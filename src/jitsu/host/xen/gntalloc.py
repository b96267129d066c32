"""Pages of ours that another domain may map (Linux's uapi/xen/gntalloc.h)."""

import struct
from contextlib import suppress
from functools import partial

from jitsu.errors import HostError
from jitsu.host.xen.device import call, number, open_device
from jitsu.host.xen.pages import PageDevice, SharedPages

_HEAD = struct.Struct("=HHIQ")
_REF = struct.Struct("=I")
_DEALLOC = struct.Struct("=QI4x")
_ALLOC_GREF = number("G", 5, _HEAD.size + 8)  # one reference, and what aligns the struct
_DEALLOC_GREF = number("G", 6, _DEALLOC.size)
_WRITABLE = 1


class GrantedPages(SharedPages):
    """Pages of ours, and the references by which their peer finds them."""

    refs: tuple[int, ...] = ()


class GrantAllocator(PageDevice):
    """Grants pages of ours to others."""

    def __init__(self) -> None:
        """Open the device. Raises HostError."""
        super().__init__(open_device("gntalloc"))

    def share(self, domid: int, count: int) -> GrantedPages:
        """Make `count` pages, all zeros, that `domid` may read and write. Raises HostError.

        When they are closed while `domid` still maps them, it keeps them until it unmaps them.
        """
        wish = bytearray(_HEAD.pack(domid, _WRITABLE, count, 0)) + bytes(_REF.size * count)
        wish += bytes(-len(wish) % 8)
        call(self._fd, _ALLOC_GREF, wish, f"{count} pages for domain {domid}")
        index = _HEAD.unpack_from(wish)[3]
        pages = GrantedPages(self._fd, index, count, partial(self._free, index, count))
        pages.refs = tuple(_REF.unpack_from(wish, _HEAD.size + 4 * i)[0] for i in range(count))
        return pages

    def _free(self, index: int, count: int) -> None:
        with suppress(HostError):  # the device is closed: it has forgotten them
            call(self._fd, _DEALLOC_GREF, bytearray(_DEALLOC.pack(index, count)), "free")
