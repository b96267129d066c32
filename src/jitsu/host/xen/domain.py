"""Create, build and end domains, without xl: the calls in the order that Xen 4.17 wants them.

A unikernel is a PVH domain: hardware virtualisation, no firmware, no device model, entered at its
PVH note. Linux is a PV domain: as PVH it takes its timers from ACPI tables, which nobody makes
without libxl, and would sleep for ever. All of this waits for the hypervisor and for memory to be
cleared: callers are on a thread.
"""

import ctypes as c
from dataclasses import dataclass
from enum import Enum

from jitsu.errors import HostError
from jitsu.host.xen.layout import CreateDomain, DomImage, E820Entry
from jitsu.host.xen.libxc import Xen

DOM0 = 0
_PAGE = 4096
_MIB = 1 << 20
_INVALID_DOMID = 0xFFFFFFFF  # let Xen choose
_CDF_HVM, _CDF_HAP = 1 << 0, 1 << 1
_EMULATE_LAPIC = 1 << 0  # all that a PVH guest gets
_GRANTS_V1 = 1
_EVTCHN_PORT_MAX = 1023
_PV_CONTAINER, _HVM_CONTAINER = 0, 1
_E820_RAM, _E820_RESERVED = 1, 2
_LAPIC = 0xFEE00000
"""Where a PVH guest's memory ends at the latest: its local APIC is here."""
_SPECIAL_PFN, _SPECIAL_PAGES = 0xFF000, 8
"""The end of the pages that guest and host share: the store's, the console's (xg_dom_x86.c)."""
PVH_MEMORY_MAX = 0xF0000000
_SLACK_KIB = 1024
"""What a domain may have beyond its memory: the special pages, and what Xen rounds up to."""


class Kind(Enum):
    """What sort of domain an image wants."""

    PVH = "pvh"
    PV = "pv"


@dataclass(frozen=True, slots=True)
class Plan:
    """A domain to be. `memory` is in bytes; `grant_frames` are pages of 512 grants each."""

    handle: bytes
    kind: Kind
    memory: int
    cmdline: bytes
    grant_frames: int = 4

    @property
    def mib(self) -> int:
        """Return its memory in whole MiB, which is what the builder deals in."""
        return -(-self.memory // _MIB)


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain that exists; its ends of two event channels wait for us."""

    domid: int
    store_port: int
    console_port: int


@dataclass(frozen=True, slots=True)
class Rings:
    """The frames in which a domain meets the store and its console."""

    store: int
    console: int


def create(xen: Xen, plan: Plan) -> Domain:
    """Create an empty domain, paused. Raises HostError, and then there is none."""
    if plan.kind is Kind.PVH and plan.memory > PVH_MEMORY_MAX:
        most = PVH_MEMORY_MAX // _MIB
        raise HostError(f"a PVH domain has at most {most} MiB of memory here; give it less")
    config = _config(plan)
    domid = c.c_uint32(_INVALID_DOMID)
    xen.call("xc_domain_create", c.byref(domid), c.byref(config))
    number = domid.value
    try:
        xen.call("xc_domain_max_vcpus", number, 1)
        kib = plan.mib * 1024
        xen.call("xc_domain_setmaxmem", number, kib + _SLACK_KIB)
        if plan.kind is Kind.PVH:
            # As libxl: 256 pages for a processor, and 2 for a MiB.
            pages = 256 + 2 * plan.mib
            xen.call("xc_set_paging_mempool_size", number, pages * _PAGE)
        else:
            xen.call("xc_domain_set_memmap_limit", number, kib + 8 * _SLACK_KIB)
        xen.apply_cpuid_policy(number)
        store = xen.call("xc_evtchn_alloc_unbound", number, DOM0)
        console = xen.call("xc_evtchn_alloc_unbound", number, DOM0)
    except BaseException:
        destroy(xen, number)
        raise
    return Domain(number, store, console)


def _config(plan: Plan) -> CreateDomain:
    config = CreateDomain()
    config.handle[:] = plan.handle
    config.max_vcpus = 1
    config.max_evtchn_port = _EVTCHN_PORT_MAX
    config.max_grant_frames = plan.grant_frames
    config.max_maptrack_frames = 0  # it maps nobody's pages
    config.grant_opts = _GRANTS_V1
    if plan.kind is Kind.PVH:
        config.flags = _CDF_HVM | _CDF_HAP
        config.arch.emulation_flags = _EMULATE_LAPIC
    return config


@dataclass(frozen=True, slots=True)
class Built:
    """A domain that could run; `kernel` is the image without its compression."""

    rings: Rings
    kernel: bytes


def build(xen: Xen, domain: Domain, plan: Plan, kernel: bytes, initrd: bytes = b"") -> Built:
    """Give a domain its memory, and put a kernel there. Raises HostError."""
    image = xen.allocate(plan.cmdline)
    try:
        # What the library is given it uses in place: it lives until the end of this function.
        ranges = _describe(image.contents, domain, plan)
        xen.step("xc_dom_kernel_mem", image, _address(kernel), len(kernel))
        if initrd:
            xen.step("xc_dom_module_mem", image, _address(initrd), len(initrd), None)
        xen.step("xc_dom_boot_xen_init", image, xen.handle, domain.domid)
        xen.step("xc_dom_parse_image", image)
        unpacked = kernel
        if image.contents.kernel_size != len(kernel):
            unpacked = c.string_at(image.contents.kernel_blob, image.contents.kernel_size)
        xen.step("xc_dom_mem_init", image, plan.mib)
        xen.step("xc_dom_boot_mem_init", image)
        if plan.kind is Kind.PVH:
            xen.call("xc_domain_set_memory_map", domain.domid, ranges, len(ranges))
        xen.step("xc_dom_build_image", image)
        xen.step("xc_dom_boot_image", image)
        xen.step("xc_dom_gnttab_init", image)
        return Built(_rings(image.contents, plan.kind), unpacked)
    finally:
        xen.release(image)


def _describe(image: DomImage, domain: Domain, plan: Plan) -> "c.Array[E820Entry]":
    """Fill in what the builder must know; return the guest's memory map."""
    image.max_vcpus = 1
    image.console_evtchn, image.xenstore_evtchn = domain.console_port, domain.store_port
    image.console_domid = image.xenstore_domid = DOM0
    special = _SPECIAL_PFN - _SPECIAL_PAGES
    memory = plan.mib * _MIB
    ranges = (E820Entry * 2)(
        E820Entry(0, memory, _E820_RAM),
        E820Entry(special * _PAGE, _SPECIAL_PAGES * _PAGE, _E820_RESERVED),
    )
    if plan.kind is Kind.PV:
        image.container_type = _PV_CONTAINER
        return ranges
    image.container_type = _HVM_CONTAINER
    image.target_pages = memory // _PAGE
    image.lowmem_end = memory
    image.mmio_start, image.mmio_size = _LAPIC, (1 << 32) - _LAPIC
    image.e820 = c.cast(ranges, c.POINTER(E820Entry))
    image.e820_entries = len(ranges)
    return ranges


def _rings(image: DomImage, kind: Kind) -> Rings:
    if kind is Kind.PVH:
        return Rings(image.xenstore_pfn, image.console_pfn)
    # To a PV guest belong machine frames; by its own numbers only itself knows them.
    return Rings(image.pv_p2m[image.xenstore_pfn], image.pv_p2m[image.console_pfn])


def _address(data: bytes) -> c.c_void_p:
    return c.cast(c.c_char_p(data), c.c_void_p)


def unpause(xen: Xen, domid: int) -> None:
    """Let a domain run. Raises HostError."""
    xen.call("xc_domain_unpause", domid)


def pause(xen: Xen, domid: int) -> None:
    """Let it run no more. Raises HostError."""
    xen.call("xc_domain_pause", domid)


def destroy(xen: Xen, domid: int) -> None:
    """End a domain and take its memory back. Raises HostError."""
    xen.call("xc_domain_destroy", domid)
