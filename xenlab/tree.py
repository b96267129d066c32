"""The part of the lab that is the project's: its Python environment, and this tree.

Both are disks of their own. The environment is kept in the cache for as long as requirements.lock
stays; the tree is made for each lab. All of Python's code is compiled here, on the host: under
emulation that takes twenty times as long.
"""

import hashlib
import shutil
import sys
from importlib import metadata
from pathlib import Path
from py_compile import PycInvalidationMode

from packaging.requirements import Requirement

from xenlab.bytecode import compile_all
from xenlab.cache import cache, forget, half_made, publish
from xenlab.disk import ext4
from xenlab.errors import LabError

ROOT = Path(__file__).parent.parent
"""The project, on the host and in dom0."""
_DISTRIBUTIONS = ("jitsu", "pytest", "hypothesis", "pyxs")
"""What tests in dom0 import, with what that needs: not the tools that check code."""
_PARTS = ("src", "tests", "examples", "xenlab", "pyproject.toml")
_PYTHON = "/usr/bin/python3.11"
_KEPT = 6
"""Environments in the cache: as many as there are trees that take turns."""
_ROOM_MIB = 128


def foreign() -> str:
    """Return why what is installed for this Python cannot run in the lab, or nothing."""
    if str(Path(sys.executable).resolve()) == _PYTHON:
        return ""
    return f"{sys.executable} is not Debian 12's {_PYTHON}, which is the lab's"


def environment() -> Path:
    """Return the disk with dom0's `.venv`, made first if there is none of this tree's.

    Raises LabError when that cannot be.
    """
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "requirements.lock", ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    folder = cache() / f"environment-{digest.hexdigest()[:12]}"
    if not folder.exists():
        with half_made(folder) as name:
            staging = Path(name)
            (staging / "done").mkdir()
            _environment(staging / "venv")
            ext4(staging / "venv", staging / "done/venv.ext4", room_mib=_ROOM_MIB)
            publish(staging, folder)
        forget("environment-*", _KEPT)
    return folder / "venv.ext4"


def _environment(venv: Path) -> None:
    """Copy what tests in dom0 import of this environment, compiled."""
    own = Path(sys.prefix)
    for name, distribution in _closure().items():
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file))).resolve()
            if not source.is_relative_to(own) or not source.exists():
                raise LabError(f"{source}, of {name}, is not in {own}: try `make setup`")
            if source.suffix != ".pyc":
                target = venv / source.relative_to(own)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    shutil.copy2(own / "pyvenv.cfg", venv)
    for alias in ("python", "python3"):
        (venv / "bin" / alias).symlink_to(_PYTHON)
    compile_all(venv, str(ROOT / ".venv"), PycInvalidationMode.UNCHECKED_HASH)


def _closure() -> dict[str, metadata.Distribution]:
    """Return the distributions that are wanted, and what they require on this machine."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(_DISTRIBUTIONS)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = metadata.distribution(name)
            for line in found[name].requires or ():
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    wanted.append(requirement.name)
    return found


def tree(job: Path, staging: Path) -> Path:
    """Return a disk with this tree as it is now, and the files in the folder `job`."""
    copy = staging / "tree" / "tree"
    copy.mkdir(parents=True)
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, copy / part)
        else:
            shutil.copy2(source, copy / part)
    (copy / ".venv").mkdir()
    # What the host has compiled is copied, and is valid, for the files' times are kept.
    compile_all(copy, str(ROOT), PycInvalidationMode.TIMESTAMP)
    shutil.copytree(job, staging / "tree" / "job", symlinks=True)
    disk = staging / "tree.ext4"
    ext4(staging / "tree", disk, room_mib=_ROOM_MIB)
    shutil.rmtree(staging / "tree")
    return disk
