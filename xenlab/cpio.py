"""A folder as a cpio archive ("newc"), which is what a Linux kernel takes for its first root."""

import stat
from pathlib import Path

_ALIGN = 4


def pack(folder: Path) -> bytes:
    """Return the folders, files and symbolic links below `folder`; everything belongs to root."""
    entries = []
    for inode, path in enumerate(sorted(folder.rglob("*")), start=1):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            data = str(path.readlink()).encode()
        else:
            data = b"" if stat.S_ISDIR(mode) else path.read_bytes()
        entries.append(_entry(str(path.relative_to(folder)), inode, mode, data))
    return b"".join(entries) + _entry("TRAILER!!!", 0, 0, b"")


def _entry(name: str, inode: int, mode: int, data: bytes) -> bytes:
    """Return one member: 13 numbers of eight hexadecimal digits, its name, its data."""
    links = 1
    numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + name.encode() + b"\0") + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)
