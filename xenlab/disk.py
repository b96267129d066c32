"""A folder as a disk with a file system."""

import os
import shutil
from pathlib import Path

from xenlab.packages import output


def ext4(folder: Path, image: Path, room_mib: int) -> None:
    """Make a file system of `folder`'s contents, with room for more; raises LabError."""
    used = sum(
        (path.lstat().st_size + 4095) // 4096 * 4096 + 512
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )
    size = (used >> 20) * 11 // 10 + room_mib
    argv = ["mke2fs", "-q", "-t", "ext4", "-d", str(folder), "-E", "root_owner=0:0"]
    argv += ["-O", "^has_journal", "-m", "0", str(image), f"{size}M"]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    output(argv, "mke2fs", executable=Path(shutil.which("mke2fs", path=path) or "/sbin/mke2fs"))
