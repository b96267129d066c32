"""The part of the lab that is Debian's: Xen, dom0's kernel and root, and a guest's kernel.

Built once for each set of package versions and each version of this recipe, in a folder of the
cache that appears whole or not at all:

    xen         the hypervisor, an ELF file that QEMU starts by multiboot
    vmlinux     dom0's kernel, unpacked: Xen would take seconds to do that under emulation
    initramfs   a busybox, and the modules that reach the disks
    root.ext4   dom0's root; a lab writes to a snapshot of it

For guests there are in dom0's /boot: `vmlinuz-domu` and `vmlinux-domu`, Debian's cloud kernel as
packed and as plain ELF, and `domu.cpio`, a busybox that says DOMU-READY on its console.
"""

import gzip
import hashlib
import lzma
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from xenlab import cpio
from xenlab.bytecode import compile_all
from xenlab.cache import cache, forget, half_made, publish
from xenlab.disk import ext4
from xenlab.errors import LabError
from xenlab.packages import Apt, download, extract, output, resolve

DOM0 = Path(__file__).parent / "dom0"
"""What the recipe adds to the packages."""
_REACH_DISKS = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "crc32c_generic")
_GUEST_MODULES = ("xen-netfront", "xen-blkfront", "ext4", "crc32c_generic")
_APPLETS = (
    *("sh", "mount", "umount", "mkdir", "switch_root", "insmod", "cat", "echo", "ls", "cut", "sed"),
    *("sleep", "usleep", "dmesg", "uname", "dd", "ip", "ping", "nc", "httpd", "poweroff", "reboot"),
)
_PRUNE = ("doc", "man", "locale", "info", "bash-completion", "icu")
_MODULES = (
    *("arch", "crypto", "lib", "net", "drivers/block", "drivers/virtio", "drivers/xen"),
    *("drivers/vhost", "drivers/net/xen-netback", "fs/ext4", "fs/jbd2", "fs/overlayfs"),
)
"""The folders whose modules the lab keeps, with all below."""
_MORE_MODULES = ("drivers/net", "drivers/char", "fs")
"""The same, without what is below."""
_XEN_BIN = "usr/lib/xen-4.17/bin"
_KEPT = 2
"""Images in the cache: today's, and one of a tree that is older."""
_ROOM_MIB = 256
"""What a lab may write to its root."""


@dataclass(frozen=True, slots=True)
class Image:
    """Where the parts of the lab are that do not change with the project."""

    folder: Path

    @property
    def xen(self) -> Path:
        """The hypervisor."""
        return self.folder / "xen"

    @property
    def kernel(self) -> Path:
        """dom0's kernel."""
        return self.folder / "vmlinux"

    @property
    def initramfs(self) -> Path:
        """dom0's first root."""
        return self.folder / "initramfs"

    @property
    def root(self) -> Path:
        """dom0's root."""
        return self.folder / "root.ext4"


def image() -> Image:
    """Return the lab's image, built first if there is none of today's packages; raises LabError."""
    apt = Apt(cache() / "apt")
    versions = resolve(apt)
    folder = cache() / f"image-{_key(versions)}"
    if not folder.exists():
        with half_made(folder) as staging:
            _build(apt, Path(staging))
            publish(Path(staging), folder)
        forget("image-*", _KEPT)
    return Image(folder)


def _key(versions: dict[str, str]) -> str:
    """Name what the image is made of: the packages, and the recipe."""
    digest = hashlib.sha256(repr(sorted(versions.items())).encode())
    for source in (Path(__file__), Path(cpio.__file__), DOM0 / "first", DOM0 / "guest"):
        digest.update(source.read_bytes())
    return f"{versions['xen-utils-4.17'].partition('-')[0]}-{digest.hexdigest()[:12]}"


def _build(apt: Apt, staging: Path) -> None:
    """Make the image in `staging`/done."""
    archives = download(apt, staging / "archives")
    root = staging / "root"
    kernel, cloud = _unpack(archives, root)
    done = staging / "done"
    done.mkdir()
    (done / "xen").write_bytes(gzip.decompress((root / "boot/xen-4.17-amd64.gz").read_bytes()))
    _prune_modules(root / "lib/modules" / kernel)
    (done / "vmlinux").write_bytes(_vmlinux(root, root / f"boot/vmlinuz-{kernel}"))
    for release in (kernel, cloud):
        _run(root, "usr/bin/kmod", "depmod", "-b", str(root), release)
    _initramfs(root, kernel, _REACH_DISKS, DOM0 / "first", done / "initramfs")
    shutil.copy(root / f"boot/vmlinuz-{cloud}", root / "boot/vmlinuz-domu")
    (root / "boot/vmlinux-domu").write_bytes(_vmlinux(root, root / "boot/vmlinuz-domu"))
    _initramfs(root, cloud, _GUEST_MODULES, DOM0 / "guest", root / "boot/domu.cpio")
    _furnish(root, cloud)
    ext4(root, done / "root.ext4", room_mib=_ROOM_MIB)


def _unpack(archives: Iterable[Path], root: Path) -> tuple[str, str]:
    """Extract the archives to `root`; return the releases of dom0's kernel and the guest's."""
    for folder in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")  # as on any Debian: the packages rely on it
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda archive: extract(archive, root), archives))
    releases = sorted(path.name for path in (root / "lib/modules").iterdir())
    kernel = next(release for release in releases if "cloud" not in release)
    cloud = next(release for release in releases if "cloud" in release)
    return kernel, cloud


def _prune_modules(folder: Path) -> None:
    """Remove the drivers of hardware that is not there: nine tenths of the image."""
    for module in folder.rglob("*.ko"):
        where = module.parent.relative_to(folder / "kernel")
        kept = any(where.is_relative_to(part) for part in _MODULES)
        if not kept and str(where) not in _MORE_MODULES:
            module.unlink()


def _vmlinux(root: Path, bzimage: Path) -> bytes:
    """Return the ELF file within a Linux kernel (x86 boot protocol, 2.08 or newer).

    Raises LabError when it is packed in a way that Debian's kernels are not.
    """
    data = bzimage.read_bytes()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    packed = data[start : start + length]
    if packed.startswith(b"\xfd7zXZ\0"):
        elf = lzma.LZMADecompressor().decompress(packed)
    else:  # LZ4's first format, which only its own tool reads; the ELF file's size is at the end
        packed_file, file = bzimage.with_suffix(".lz4"), bzimage.with_suffix(".elf")
        packed_file.write_bytes(packed[:-4])
        _run(root, "usr/bin/lz4", "lz4", "-d", "-f", "-q", str(packed_file), str(file))
        elf = file.read_bytes()
        packed_file.unlink()
        file.unlink()
    if not elf.startswith(b"\x7fELF"):
        raise LabError(f"{bzimage.name} holds no ELF file")
    return elf


def _run(root: Path, program: str, *argv: str) -> None:
    """Run a program of the lab's on the host, which need not have it; raises LabError."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    output([*loader, "--argv0", argv[0], str(root / program), *argv[1:]], argv[0])


def _initramfs(root: Path, release: str, modules: Iterable[str], init: Path, path: Path) -> None:
    """Write a first root: busybox, `modules` with what they need, in /modules, and `init`."""
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        first = Path(name)
        for folder in ("bin", "proc", "sys", "dev", "run", "new"):
            (first / folder).mkdir()
        shutil.copy(root / "bin/busybox", first / "bin/busybox")
        for applet in _APPLETS:
            (first / "bin" / applet).symlink_to("busybox")
        shutil.copy(init, first / "init")
        (first / "init").chmod(0o755)
        (first / "modules").mkdir()
        order = _load_order(root / "lib/modules" / release, modules)
        for number, module in enumerate(order):
            shutil.copy(module, first / "modules" / f"{number:02}-{module.name}")
        path.write_bytes(cpio.pack(first))


def _load_order(folder: Path, wanted: Iterable[str]) -> list[Path]:
    """Return the files of the modules and of what they need, in the order to load them.

    What is built into the kernel, or is not there, is left out.
    """
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[Path(file).stem.replace("-", "_")] = (file, rest.split())
    order: dict[str, None] = {}
    for module in wanted:
        if found := needs.get(module.replace("-", "_")):
            file, needed = found
            order.update(dict.fromkeys([*reversed(needed), file]))
    return [folder / file for file in order]


def _furnish(root: Path, cloud: str) -> None:
    """Add what packages' scripts would have made, and take away what nobody reads here."""
    for folder in _PRUNE:
        shutil.rmtree(root / "usr/share" / folder, ignore_errors=True)
    shutil.rmtree(root / "lib/modules" / cloud)
    for kernel in (root / "boot").iterdir():
        if not kernel.name.endswith(("domu", "domu.cpio")):
            kernel.unlink()
    for folder in ("proc", "sys", "dev", "run", "tmp", "root", "lab", "mnt", "var/lib/xen"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("var/lib/xenstored", "var/log/xen/console", "usr/local/bin", "var/cache"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    links = {"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "/proc/mounts"}
    for name, target in links.items():
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\nkvm:x:104:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/hostname").write_text("dom0\n")
    # Debian's /usr/sbin/xl is a shell script that looks for the right xl: here there is one.
    for tool in (root / _XEN_BIN).iterdir():
        (root / "usr/local/bin" / tool.name).symlink_to(f"/{_XEN_BIN}/{tool.name}")
    python = next((root / "usr/bin").glob("python3.*"))
    library = Path("usr/lib") / python.name  # which its package compiles when it is installed
    compile_all(root / library, f"/{library}", PycInvalidationMode.UNCHECKED_HASH)
    _link(root / "usr/bin/python3", python.name)
    _link(root / "bin/sh", "dash")
    _link(root / "usr/bin/awk", "mawk")
    for applet in output([str(root / "bin/busybox"), "--list"], "busybox").split():
        if not any(os.path.lexists(root / "usr" / at / applet) for at in ("bin", "sbin")):
            (root / "usr/bin" / applet).symlink_to("busybox")


def _link(path: Path, target: str) -> None:
    if not os.path.lexists(path):
        path.symlink_to(target)
