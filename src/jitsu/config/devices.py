"""Disks and further network interfaces of a service, as the operator writes them."""

from collections.abc import Sequence
from pathlib import Path

from jitsu.model import Disk

_SECTOR = 512
_NOT_RAW = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
    b"# Disk DescriptorFile": "VMDK",
}
"""How files begin that are images, but not raw ones."""
_READ_ONLY = ":ro"


def disk(text: str, folder: Path) -> tuple[Disk, str]:
    """Return the disk of `PATH` or `PATH:ro`, relative to `folder`, and what is wrong with it."""
    path = folder / text.removesuffix(_READ_ONLY)
    return Disk(str(path), text.endswith(_READ_ONLY)), _wrong(path)


def _wrong(path: Path) -> str:
    try:
        if not path.is_file():
            return f"{path} is no file; give a raw image"
        with path.open("rb") as file:
            start = file.read(32)
        size = path.stat().st_size
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}; give a raw image"
    for magic, kind in _NOT_RAW.items():
        if start.startswith(magic):
            return f"{path} is {kind}; give a raw image (qemu-img convert -O raw)"
    if size == 0 or size % _SECTOR:
        return f"{path} is no whole number of {_SECTOR} byte sectors; give a raw image"
    return ""


def clashes(services: Sequence[Sequence[Disk]]) -> list[tuple[int, Disk]]:
    """Return each disk that is there twice and is written to, by the number of its later service.

    Two that write one file system destroy it, and one that reads it sees it in pieces.
    """
    first: dict[object, Disk] = {}
    found: list[tuple[int, Disk]] = []
    for i, disks in enumerate(services):
        for its in disks:
            file = _identity(its.path)
            other = first.get(file)
            if other is None:
                first[file] = its
            elif not (other.read_only and its.read_only):
                found.append((i, its))
    return found


def _identity(path: str) -> object:
    """Return what two paths have in common that lead to the same file."""
    try:
        found = Path(path).stat()
    except OSError:  # which is a mistake of its own
        return path
    return found.st_dev, found.st_ino
