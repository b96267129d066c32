"""Structures of libxenctrl and libxenguest 4.17 on x86-64, as ctypes sees them.

None of them is a stable interface, so `libxc` loads the libraries of exactly this version, and a
test compiles a C program that compares every field with the headers of libxen-dev.
"""

import ctypes as c

_u8, _u32, _u64, _pointer, _size = c.c_uint8, c.c_uint32, c.c_uint64, c.c_void_p, c.c_size_t


class ArchDomainConfig(c.Structure):
    """`struct xen_arch_domainconfig` (xen/arch-x86/xen.h)."""

    _fields_ = (("emulation_flags", _u32), ("misc_flags", _u32))


class CreateDomain(c.Structure):
    """`struct xen_domctl_createdomain` (xen/domctl.h, version 0x15)."""

    _fields_ = (
        ("ssidref", _u32),
        ("handle", _u8 * 16),
        ("flags", _u32),
        ("iommu_opts", _u32),
        ("max_vcpus", _u32),
        ("max_evtchn_port", _u32),
        ("max_grant_frames", c.c_int32),
        ("max_maptrack_frames", c.c_int32),
        ("grant_opts", _u32),
        ("vmtrace_size", _u32),
        ("cpupool_id", _u32),
        ("arch", ArchDomainConfig),
    )


class DomainInfo(c.Structure):
    """`xc_domaininfo_t`, which is `struct xen_domctl_getdomaininfo` (xen/domctl.h)."""

    _fields_ = (
        ("domain", c.c_uint16),
        ("pad1", c.c_uint16),
        ("flags", _u32),
        ("tot_pages", _u64),
        ("max_pages", _u64),
        ("outstanding_pages", _u64),
        ("shr_pages", _u64),
        ("paged_pages", _u64),
        ("shared_info_frame", _u64),
        ("cpu_time", _u64),
        ("nr_online_vcpus", _u32),
        ("max_vcpu_id", _u32),
        ("ssidref", _u32),
        ("handle", _u8 * 16),
        ("cpupool", _u32),
        ("gpaddr_bits", _u8),
        ("pad2", _u8 * 7),
        ("arch_config", ArchDomainConfig),
    )


class LastError(c.Structure):
    """`xc_error` (xenctrl.h)."""

    _fields_ = (("code", c.c_int), ("message", c.c_char * 1024))


class Segment(c.Structure):
    """`struct xc_dom_seg` (xenguest.h)."""

    _fields_ = (("vstart", _u64), ("vend", _u64), ("pfn", _u64), ("pages", _u64))


class Module(c.Structure):
    """`struct xc_dom_module` (xenguest.h)."""

    _fields_ = (("blob", _pointer), ("size", _size), ("cmdline", _pointer), ("seg", Segment))


class FirmwareModule(c.Structure):
    """`struct xc_hvm_firmware_module` (xenguest.h)."""

    _fields_ = (("data", _pointer), ("length", _u32), ("guest_addr_out", _u64))


class E820Entry(c.Structure):
    """`struct e820entry` (xenguest.h): a range of guest memory."""

    _pack_ = 1
    _fields_ = (("addr", _u64), ("size", _u64), ("type", _u32))


class DomImage(c.Structure):
    """`struct xc_dom_image` (xenguest.h): a domain while it is being built."""

    _fields_ = (
        ("kernel_blob", _pointer),
        ("kernel_size", _size),
        ("num_modules", c.c_uint),
        ("modules", Module * 2),
        ("devicetree_blob", _pointer),
        ("devicetree_size", _size),
        ("max_kernel_size", _size),
        ("max_module_size", _size),
        ("max_devicetree_size", _size),
        ("cmdline", c.c_char_p),
        ("cmdline_size", _size),
        ("f_requested", _u32 * 1),
        ("parms", _pointer),
        ("guest_type", c.c_char_p),
        ("kernel_seg", Segment),
        ("p2m_seg", Segment),
        ("pgtables_seg", Segment),
        ("devicetree_seg", Segment),
        ("start_info_seg", Segment),
        ("start_info_pfn", _u64),
        ("console_pfn", _u64),
        ("xenstore_pfn", _u64),
        ("shared_info_pfn", _u64),
        ("bootstack_pfn", _u64),
        ("pfn_alloc_end", _u64),
        ("virt_alloc_end", _u64),
        ("bsd_symtab_start", _u64),
        ("initrd_start", _u64),
        ("initrd_len", _u64),
        ("alloc_bootstack", c.c_uint),
        ("virt_pgtab_end", _u64),
        ("f_active", _u32 * 1),
        ("pv_p2m", c.POINTER(_u64)),
        ("p2m_size", _u64),
        ("rambase_pfn", _u64),
        ("total_pages", _u64),
        ("phys_pages", _pointer),
        ("memblocks", _pointer),
        ("alloc_malloc", _size),
        ("alloc_mem_map", _size),
        ("alloc_file_map", _size),
        ("alloc_domU_map", _size),
        ("flags", c.c_ulong),
        ("console_evtchn", c.c_uint),
        ("xenstore_evtchn", c.c_uint),
        ("console_domid", _u32),
        ("xenstore_domid", _u32),
        ("shared_info_mfn", _u64),
        ("xch", _pointer),
        ("guest_domid", _u32),
        ("claim_enabled", c.c_int),
        ("xen_version", c.c_int),
        ("xen_caps", c.c_char * 1024),
        ("kernel_loader", _pointer),
        ("private_loader", _pointer),
        ("vmemranges", _pointer),
        ("nr_vmemranges", c.c_uint),
        ("vnode_to_pnode", _pointer),
        ("nr_vnodes", c.c_uint),
        ("arch_private", _pointer),
        ("arch_hooks", _pointer),
        ("allocate", _pointer),
        ("container_type", c.c_int),
        ("target_pages", _u64),
        ("mmio_start", _u64),
        ("mmio_size", _u64),
        ("lowmem_end", _u64),
        ("highmem_end", _u64),
        ("vga_hole_size", _u64),
        ("device_model", c.c_bool),
        ("system_firmware_module", FirmwareModule),
        ("acpi_modules", FirmwareModule * 4),
        ("smbios_module", FirmwareModule),
        ("e820", c.POINTER(E820Entry)),
        ("e820_entries", c.c_uint),
        ("vuart_gfn", _u64),
        ("max_vcpus", c.c_uint),
    )


class SaveCallbacks(c.Structure):
    """`struct save_callbacks` (xenguest.h): what is asked of the caller while a domain is saved."""

    _fields_ = (
        ("suspend", _pointer),
        ("precopy_policy", _pointer),
        ("postcopy", _pointer),
        ("checkpoint", _pointer),
        ("wait_checkpoint", _pointer),
        ("switch_qemu_logdirty", _pointer),
        ("data", _pointer),
    )


class RestoreCallbacks(c.Structure):
    """`struct restore_callbacks` (xenguest.h): the same while one is restored."""

    _fields_ = (
        ("static_data_done", _pointer),
        ("suspend", _pointer),
        ("postcopy", _pointer),
        ("checkpoint", _pointer),
        ("wait_checkpoint", _pointer),
        ("restore_results", _pointer),
        ("data", _pointer),
    )


C_NAMES = {
    ArchDomainConfig: "struct xen_arch_domainconfig",
    CreateDomain: "struct xen_domctl_createdomain",
    DomainInfo: "xc_domaininfo_t",
    LastError: "xc_error",
    Segment: "struct xc_dom_seg",
    Module: "struct xc_dom_module",
    FirmwareModule: "struct xc_hvm_firmware_module",
    E820Entry: "struct e820entry",
    DomImage: "struct xc_dom_image",
    SaveCallbacks: "struct save_callbacks",
    RestoreCallbacks: "struct restore_callbacks",
}
"""What the headers call each of them."""
