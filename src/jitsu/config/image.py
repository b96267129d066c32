"""What kind of guest an image file holds, judged by its first bytes and its notes."""

import stat
import struct
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from pathlib import Path

from jitsu.model import Terms
from jitsu.wire.tcp import WINDOW_SCALE_MAX

_PT_NOTE = 4
_XEN_ELFNOTE_GUEST_OS, _XEN_ELFNOTE_PHYS32_ENTRY = 6, 18
_JITSU_ELFNOTE_TERMS = 1
_TERMS = struct.Struct("<6I")
_CONNECTIONS_MAX = 1024
"""Connections that are opened for one guest; a store's transaction of so many takes 10 ms."""
_WINDOW_MAX = 64 << 10
"""Bytes that are kept for one client, whatever more the guest would take."""
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
    return _image(path)[0]


def image_terms(path: Path) -> Terms | None:
    """Return on which connections may be opened for the guest that `path` holds, if at all.

    A note of type 1 named Jitsu says it, in little-endian words: version 1; features (bit 0: our
    own windows may be scaled, 1: SACK, 2: timestamps); bytes that it takes over of one connection;
    connections; the shift of its own windows; 0. Raises ImageError.
    """
    return _image(path)[1]


def image_is_linux(path: Path) -> bool:
    """Say whether `path` holds Linux, be it compressed or not. Raises ImageError."""
    return _image(path)[2]


_Found = tuple[ImageKind, Terms | None, bool]
"""What an image is, on which terms it imports connections, and whether it is Linux."""


def _image(path: Path) -> _Found:
    try:
        found = path.stat()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("is no regular file")  # to open a FIFO would be to wait for its writer
    return _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1024)
def _read(path: Path, _modified: int, _size: int) -> _Found:
    try:
        with path.open("rb") as file:
            head = file.read(0x206)
            if head[:4] == b"\x7fELF":
                return _elf(head + file.read())
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if head[0x202:0x206] == b"HdrS":
        return ImageKind.LINUX, None, True
    raise ImageError("is neither an ELF file nor a Linux bzImage")


def _elf(data: bytes) -> _Found:
    try:
        notes = {(name, kind): desc for name, kind, desc in _notes(data)}
    except (struct.error, IndexError, OverflowError):
        raise ImageError("is a damaged ELF file") from None
    if (b"Xen\0", _XEN_ELFNOTE_PHYS32_ENTRY) not in notes:
        raise ImageError("is ELF but has no PVH entry note (Xen note, type 18)")
    ours = notes.get((b"Jitsu\0", _JITSU_ELFNOTE_TERMS))
    is_linux = notes.get((b"Xen\0", _XEN_ELFNOTE_GUEST_OS), b"").rstrip(b"\0") == b"linux"
    return ImageKind.PVH, _terms(ours) if ours is not None else None, is_linux


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield name, type and content of each note. Raises struct.error where the file is damaged."""
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
        if kind == _PT_NOTE:
            yield from _split(data[start : start + min(length, _NOTES_MAX)])


def _split(notes: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        begin = at + 12 + (name_size + 3 & ~3)
        yield notes[at + 12 : at + 12 + name_size], kind, notes[begin : begin + size]
        at = begin + (size + 3 & ~3)


def _terms(note: bytes) -> Terms:
    """Parse a Jitsu note. Raises ImageError."""
    if len(note) != _TERMS.size:
        raise ImageError(f"has a damaged Jitsu note, of {len(note)} bytes")
    version, features, window, connections, shift, _ = _TERMS.unpack(note)
    if version != 1 or not window or not connections or shift > WINDOW_SCALE_MAX:
        raise ImageError(f"has a Jitsu note of version {version} that makes no sense")
    return Terms(
        connections=min(connections, _CONNECTIONS_MAX),
        window=min(window, _WINDOW_MAX),
        window_scale=shift if features & 1 else None,
        sack=bool(features & 2),
        timestamps=bool(features & 4),
    )
