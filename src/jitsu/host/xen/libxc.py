"""libxenctrl and libxenguest: loading them, and what went wrong in a call.

ctypes lets go of Python's lock while a call runs, so that a thread that builds a domain keeps
nobody from Python. The handle may be used by several threads (xencall locks its buffers).
"""

import ctypes as c
import os
from collections.abc import Iterator
from dataclasses import dataclass

from jitsu.errors import HostError
from jitsu.host.xen.layout import (
    CreateDomain,
    DomainInfo,
    DomImage,
    E820Entry,
    LastError,
    RestoreCallbacks,
    SaveCallbacks,
)

VERSION = "4.17"
"""Of the libraries: their structures are of this version (`layout`), and no other."""
_INFOS = 64
"""Domains that one hypercall lists."""
_XTL_CRITICAL = 9  # xentoollog.h: what the libraries say below that is in their errors, too
_DYING, _SHUTDOWN, _PAUSED, _REASON_SHIFT = 1 << 0, 1 << 2, 1 << 3, 16

_domid, _handle, _image = c.c_uint32, c.c_void_p, c.POINTER(DomImage)
_CTRL: dict[str, tuple[object, ...]] = {
    "xc_interface_close": (_handle,),
    "xc_domain_create": (_handle, c.POINTER(_domid), c.POINTER(CreateDomain)),
    "xc_domain_max_vcpus": (_handle, _domid, c.c_uint),
    "xc_domain_setmaxmem": (_handle, _domid, c.c_uint64),
    "xc_domain_set_memmap_limit": (_handle, _domid, c.c_ulong),
    "xc_set_paging_mempool_size": (_handle, _domid, c.c_uint64),
    "xc_evtchn_alloc_unbound": (_handle, _domid, _domid),
    "xc_domain_set_memory_map": (_handle, _domid, c.POINTER(E820Entry), c.c_uint32),
    "xc_domain_unpause": (_handle, _domid),
    "xc_domain_pause": (_handle, _domid),
    "xc_domain_destroy": (_handle, _domid),
    "xc_domain_getinfolist": (_handle, _domid, c.c_uint, c.POINTER(DomainInfo)),
    "xc_availheap": (_handle, c.c_int, c.c_int, c.c_int, c.POINTER(c.c_uint64)),
}
_GUEST: dict[str, tuple[object, ...]] = {
    "xc_cpuid_apply_policy": (
        *(_handle, _domid, c.c_bool, c.c_void_p, c.c_uint),
        *(c.c_bool, c.c_bool, c.c_bool, c.c_void_p, c.c_void_p),
    ),
    "xc_dom_kernel_mem": (_image, c.c_void_p, c.c_size_t),
    "xc_dom_module_mem": (_image, c.c_void_p, c.c_size_t, c.c_char_p),
    "xc_dom_boot_xen_init": (_image, _handle, _domid),
    "xc_dom_parse_image": (_image,),
    "xc_dom_mem_init": (_image, c.c_uint),
    "xc_dom_boot_mem_init": (_image,),
    "xc_dom_build_image": (_image,),
    "xc_dom_boot_image": (_image,),
    "xc_dom_gnttab_init": (_image,),
    "xc_domain_save": (
        *(_handle, c.c_int, _domid, c.c_uint32),
        *(c.POINTER(SaveCallbacks), c.c_int, c.c_int),
    ),
    "xc_domain_restore": (
        *(_handle, c.c_int, _domid, c.c_uint, c.POINTER(c.c_ulong), _domid),
        *(c.c_uint, c.POINTER(c.c_ulong), _domid, c.c_int, c.POINTER(RestoreCallbacks), c.c_int),
    ),
}


@dataclass(frozen=True, slots=True)
class Info:
    """What Xen knows of a domain; `reason` is that of its shutdown (xen/sched.h)."""

    domid: int
    handle: bytes
    dying: bool
    shutdown: bool
    paused: bool
    reason: int


class Xen:
    """The hypervisor, by its libraries."""

    def __init__(self) -> None:
        """Load the libraries and open the hypervisor. Raises HostError where that cannot be."""
        log = _load("libxentoollog.so.1")
        self._ctrl = _load(f"libxenctrl.so.{VERSION}")
        self._guest = _load(f"libxenguest.so.{VERSION}")
        for library, table in ((self._ctrl, _CTRL), (self._guest, _GUEST)):
            for name, types in table.items():
                _declare(library, name, c.c_int, *types)
        _declare(self._ctrl, "xc_interface_open", _handle, _handle, _handle, c.c_uint)
        _declare(self._ctrl, "xc_get_last_error", c.POINTER(LastError), _handle)
        _declare(self._ctrl, "xc_clear_last_error", None, _handle)
        _declare(self._guest, "xc_dom_allocate", _image, _handle, c.c_char_p, c.c_char_p)
        _declare(self._guest, "xc_dom_release", None, _image)
        make = "xtl_createlogger_stdiostream"
        _declare(log, make, _handle, _handle, c.c_int, c.c_uint)
        stderr = c.c_void_p.in_dll(c.CDLL(None), "stderr")
        # Without one the builder of domains would log to a file of its own.
        logger = getattr(log, make)(stderr, _XTL_CRITICAL, 0)
        self.handle: int = self._ctrl.xc_interface_open(logger, logger, 0)
        if not self.handle:
            reason = os.strerror(c.get_errno())
            raise HostError(f"Xen does not answer: {reason}; is this dom0, and are you root?")

    def close(self) -> None:
        """Close it."""
        self._ctrl.xc_interface_close(self.handle)

    def call(self, name: str, *arguments: object) -> int:
        """Call `name` of either library with the handle first. Raises HostError with its reason."""
        self._ctrl.xc_clear_last_error(self.handle)  # else it would be that of an earlier failure
        result: int = getattr(self._ctrl, name)(self.handle, *arguments)
        return self._checked(name, result)

    def apply_cpuid_policy(self, domid: int) -> None:
        """Give a domain the processor that Xen would give it, with nothing changed."""
        self._ctrl.xc_clear_last_error(self.handle)
        policy = self._guest.xc_cpuid_apply_policy
        result = policy(self.handle, domid, False, None, 0, True, False, False, None, None)
        self._checked("xc_cpuid_apply_policy", result)

    def stream(self, name: str, *arguments: object) -> None:
        """Save or restore a domain. Raises HostError with the library's reason."""
        self._ctrl.xc_clear_last_error(self.handle)
        self._checked(name, getattr(self._guest, name)(self.handle, *arguments))

    def allocate(self, cmdline: bytes) -> "c._Pointer[DomImage]":
        """Begin to build a domain. Raises HostError."""
        image: c._Pointer[DomImage] = self._guest.xc_dom_allocate(self.handle, cmdline, None)
        if c.cast(image, c.c_void_p).value is None:
            raise HostError(f"xc_dom_allocate: {os.strerror(c.get_errno())}")
        return image

    def step(self, name: str, image: "c._Pointer[DomImage]", *arguments: object) -> None:
        """Take a step of the building. Raises HostError with the library's reason."""
        self._ctrl.xc_clear_last_error(self.handle)
        self._checked(name, getattr(self._guest, name)(image, *arguments))

    def release(self, image: "c._Pointer[DomImage]") -> None:
        """End the building: free what the library has."""
        self._guest.xc_dom_release(image)

    def free(self) -> int:
        """Return how many bytes of memory no domain has."""
        amount = c.c_uint64()
        self.call("xc_availheap", 0, 0, -1, c.byref(amount))
        return amount.value

    def domains(self) -> Iterator[Info]:
        """Yield every domain, dom0 among them."""
        first, infos = 0, (DomainInfo * _INFOS)()
        while count := self.call("xc_domain_getinfolist", first, _INFOS, infos):
            yield from map(_info, infos[:count])
            first = infos[count - 1].domain + 1

    def domain(self, domid: int) -> Info | None:
        """Return what Xen knows of a domain; None when it is no more."""
        found = DomainInfo()
        count = self.call("xc_domain_getinfolist", domid, 1, c.byref(found))
        return _info(found) if count and found.domain == domid else None

    def _checked(self, name: str, result: int) -> int:
        if result < 0:
            reason = os.strerror(c.get_errno())
            said = self._ctrl.xc_get_last_error(self.handle).contents
            message = said.message.decode(errors="replace").strip() if said.code else ""
            raise HostError(f"{name}: {message or reason}")
        return result


def _info(found: DomainInfo) -> Info:
    flags: int = found.flags
    return Info(
        found.domain,
        bytes(found.handle),
        dying=bool(flags & _DYING),
        shutdown=bool(flags & _SHUTDOWN),
        paused=bool(flags & _PAUSED),
        reason=flags >> _REASON_SHIFT & 0xFF,
    )


def _load(name: str) -> c.CDLL:
    try:
        return c.CDLL(name, use_errno=True)
    except OSError as error:
        hint = f"Jitsu drives Xen {VERSION}; install its libxenmisc{VERSION} and libxentoollog1"
        raise HostError(f"{name} cannot be loaded; {hint}") from error


def _declare(library: c.CDLL, name: str, result: object, *types: object) -> None:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise HostError(f"{library._name} has no {name}: it is not Xen {VERSION}'s") from error
    function.restype, function.argtypes = result, types
