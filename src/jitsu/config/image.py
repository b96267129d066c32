"""What kind of guest an image file holds, judged by its first bytes."""

import stat
import struct
from enum import Enum
from functools import lru_cache
from pathlib import Path

_PT_NOTE = 4
_XEN_ELFNOTE_PHYS32_ENTRY = 18
_NOTES_MAX = 1 << 16
"""Notes larger than this are no notes of a kernel."""


class ImageKind(Enum):
    """What can be booted."""

    PVH = "PVH ELF"
    LINUX = "Linux bzImage"


class ImageError(ValueError):
    """The file is no image that a backend boots; says what it is instead."""


def image_kind(path: Path) -> ImageKind:
    """Return what `path` holds; a file that has not changed is read once.

    A PVH image is an ELF file with a Xen note of type 18 (Xen's public/elfnote.h); a bzImage has
    `HdrS` at 0x202 (Linux Documentation/arch/x86/boot.rst). Raises ImageError.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("is no regular file")  # to open a FIFO would be to wait for its writer
    return _kind(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1024)
def _kind(path: Path, _modified: int, _size: int) -> ImageKind:
    try:
        with path.open("rb") as file:
            head = file.read(0x206)
            if head[:4] == b"\x7fELF":
                if not _has_pvh_note(head, file.read()):
                    raise ImageError("is ELF but has no PVH entry note (Xen note, type 18)")
                return ImageKind.PVH
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if head[0x202:0x206] == b"HdrS":
        return ImageKind.LINUX
    raise ImageError("is neither an ELF file nor a Linux bzImage")


def _has_pvh_note(head: bytes, rest: bytes) -> bool:
    data = head + rest
    try:
        wide = data[4] == 2
        offset, size, count = (
            (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
            if wide
            else (*struct.unpack_from("<I", data, 28), *struct.unpack_from("<HH", data, 42))
        )
        for i in range(count):
            at = offset + i * size
            (kind,) = struct.unpack_from("<I", data, at)
            start, length = (
                (
                    struct.unpack_from("<Q", data, at + 8)[0],
                    struct.unpack_from("<Q", data, at + 32)[0],
                )
                if wide
                else (
                    struct.unpack_from("<I", data, at + 4)[0],
                    struct.unpack_from("<I", data, at + 16)[0],
                )
            )
            if kind == _PT_NOTE and _names_pvh(data[start : start + min(length, _NOTES_MAX)]):
                return True
    except (struct.error, IndexError, OverflowError):
        raise ImageError("is a damaged ELF file") from None
    return False


def _names_pvh(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name_size, data_size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        if name == b"Xen\0" and kind == _XEN_ELFNOTE_PHYS32_ENTRY:
            return True
        at += 12 + (name_size + 3 & ~3) + (data_size + 3 & ~3)
    return False
