"""A Linux guest that knows nothing of Jitsu: Debian's kernel for clouds, and one program.

The kernel is a package's, which is fetched and not installed; the program is compiled here, and
packed with the kernel's modules for a network card of virtio into an initial file system. With
Jitsu's launcher beside it the guest imports connections, and the program knows no more of it.
"""

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jitsu.bench import debian
from jitsu.errors import HostError
from jitsu.guest import LAUNCHER

PACKAGE = "linux-image-cloud-amd64"
"""It names the package of the kernel that is current."""
MODULES = ("virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net")
MEMORY = 128 << 20
BODY_BYTES = 100_000
_DIRECTORY, _FILE = 0o040755, 0o100755


@dataclass(frozen=True, slots=True)
class LinuxGuest:
    """What a service needs that boots it."""

    image: Path
    initrd: Path


def linux_guest(*, imports: bool = False) -> LinuxGuest:
    """Return the guest; fetch and build what is not there yet. Raises HostError.

    One that imports has the launcher, and somebody for its server to be.
    """
    root = debian.unpacked(_current())
    (image,) = (root / "boot").glob("vmlinuz-*")
    source = files("jitsu.bench").joinpath("linux_guest.c").read_bytes()
    more = _launcher() if imports else []
    parts = [source, image.name.encode(), root.name.encode(), *(data for *_, data in more)]
    key = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    initrd = debian.cache() / f"linux-guest-{key}.cpio"
    if not initrd.exists():
        packed = archive([*_modules(root), *more, ("init", _FILE, _compiled(source))])
        partial = initrd.with_suffix(f".{os.getpid()}")
        partial.write_bytes(packed)
        partial.replace(initrd)
    return LinuxGuest(image, initrd)


def content(number: int) -> bytes:
    """Return what the guest serves at `/number`."""
    body = bytearray()
    for _ in range(BODY_BYTES):
        number = (number * 1664525 + 1013904223) & 0xFFFF_FFFF
        body.append(number >> 24)
    return bytes(body)


def archive(members: list[tuple[str, int, bytes]]) -> bytes:
    """Pack members, each with its mode, as Linux unpacks them (initramfs-buffer-format.rst)."""
    folders = [("proc", _DIRECTORY, b""), ("dev", _DIRECTORY, b"")]
    packed = bytearray()
    for number, (name, mode, data) in enumerate([*folders, *members, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        packed += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        packed += bytes(-len(packed) % 4) + data
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def _current() -> str:
    argv = ["apt-cache", "show", "--no-all-versions", PACKAGE]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError("apt-cache is not here: the guest's kernel is Debian's") from None
    found = re.search(r"^Depends: (linux-image-\S+)", done.stdout, re.MULTILINE)
    if found is None:
        raise HostError(f"apt knows no package {PACKAGE}; try `apt-get update`")
    return found[1]


def _modules(root: Path) -> list[tuple[str, int, bytes]]:
    (kernel,) = (root / "lib/modules").iterdir()
    return [
        (f"{name}.ko", _FILE, next(kernel.rglob(f"{name}.ko")).read_bytes()) for name in MODULES
    ]


def _launcher() -> list[tuple[str, int, bytes]]:
    return [
        ("etc", _DIRECTORY, b""),
        ("etc/passwd", _FILE, b"nobody:x:65534:65534::/:\n"),
        ("launcher", _FILE, Path(LAUNCHER).read_bytes()),
    ]


def _compiled(source: bytes) -> bytes:
    output = debian.cache() / f"linux-guest-init.{os.getpid()}"
    argv = ["gcc", "-O2", "-static", "-D_GNU_SOURCE", "-x", "c", "-", "-o", str(output)]
    try:
        done = subprocess.run(argv, input=source, capture_output=True, check=False)
        if done.returncode != 0:
            raise HostError(f"gcc: {done.stderr.decode().strip()}")
        return output.read_bytes()
    except FileNotFoundError:
        raise HostError("gcc is not installed; `apt-get install gcc` brings it") from None
    finally:
        output.unlink(missing_ok=True)
