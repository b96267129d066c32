"""Images small enough to read here: what makes an ELF file one that boots, and no more."""

import struct

_XEN_ENTRY = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)
OTHER_NOTE = struct.pack("<III4sI", 4, 4, 1, b"GNU\0", 0)


def elf64(notes: bytes = _XEN_ENTRY) -> bytes:
    """Return a 64-bit ELF file: a loadable segment without content, and a segment of notes."""
    header = struct.pack(
        *("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0x100000, 64, 0, 0),
        *(64, 56, 2, 0, 0, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x100000, 0x100000, 0, 4096, 4096)
    note = struct.pack("<IIQQQQQQ", 4, 4, 64 + 2 * 56, 0, 0, len(notes), len(notes), 4)
    return header + load + note + notes


def elf32(notes: bytes = _XEN_ENTRY) -> bytes:
    """Return a 32-bit ELF file with a segment of notes."""
    header = struct.pack(
        *("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0x100000, 52, 0, 0),
        *(52, 32, 1, 0, 0, 0),
    )
    note = struct.pack("<IIIIIIII", 4, 52 + 32, 0, 0, len(notes), len(notes), 4, 4)
    return header + note + notes


def xen_note(kind: int = 18, name: bytes = b"Xen\0", data: bytes = bytes(4)) -> bytes:
    """Return one note, padded as notes are."""
    padded = name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)
    return struct.pack("<III", len(name), len(data), kind) + padded


def bzimage() -> bytes:
    """Return the first bytes of a Linux kernel."""
    return bytes(0x202) + b"HdrS" + bytes(16)
