"""Pages that other domains have granted us (Linux's uapi/xen/gntdev.h)."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from jitsu.errors import HostError
from jitsu.host.xen.device import call, number, open_device
from jitsu.host.xen.pages import PageDevice, SharedPages

_MAP_HEAD = struct.Struct("=IIQ")
_GRANT = struct.Struct("=II")
_UNMAP = struct.Struct("=QII")
_MAP_GRANT_REF = number("G", 0, _MAP_HEAD.size + _GRANT.size)
_UNMAP_GRANT_REF = number("G", 1, _UNMAP.size)


class GrantMapper(PageDevice):
    """Maps pages of others."""

    def __init__(self) -> None:
        """Open the device. Raises HostError."""
        super().__init__(open_device("gntdev"))

    def map(self, domid: int, refs: Sequence[int]) -> SharedPages:
        """Map the pages that `domid` has granted us to write, one after another.

        Raises HostError: there is no such domain or grant, it is not ours, or only to be read.
        """
        wish = bytearray(_MAP_HEAD.pack(len(refs), 0, 0))
        for ref in refs:
            wish += _GRANT.pack(domid, ref)
        what = f"grants {', '.join(map(str, refs))} of domain {domid}"
        call(self._fd, _MAP_GRANT_REF, wish, what)
        index = _MAP_HEAD.unpack_from(wish)[2]
        try:
            return SharedPages(self._fd, index, len(refs), partial(self._unmap, index, len(refs)))
        except HostError as error:
            raise HostError(f"{what}: not to be mapped ({error})") from error

    def _unmap(self, index: int, count: int) -> None:
        with suppress(HostError):  # the device is closed: it has forgotten them
            call(self._fd, _UNMAP_GRANT_REF, bytearray(_UNMAP.pack(index, count, 0)), "unmap")
