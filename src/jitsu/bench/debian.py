"""Programs of Debian's packages, to be run without being installed."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from jitsu.errors import HostError

_NEEDED = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)


def cache() -> Path:
    """Return the folder for what can be fetched again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jitsu"


def unpacked(*packages: str) -> Path:
    """Return a folder with the files of `packages`, in the versions that apt would install.

    They are fetched when they are needed for the first time. Raises HostError.
    """
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise HostError(f"{program} is not here: only Debian's packages are measured against")
    root = cache() / "debian" / _key(packages)
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages], root)
    for file in sorted(root.glob("*.deb")):
        _run(["dpkg", "-x", file.name, "."], root)
        file.unlink()
    (root / "complete").touch()
    return root


def libraries(root: Path) -> Path:
    """Return where the packages' own libraries are."""
    (folder,) = (root / "usr" / "lib").glob("*-linux-gnu")
    return folder


def missing_libraries(program: Path, library_path: Path) -> list[str]:
    """Return what `program` needs and neither the host nor `library_path` has."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(library_path)}
    done = subprocess.run(
        ["ldd", str(program)], env=environment, capture_output=True, text=True, check=False
    )
    return _NEEDED.findall(done.stdout)


def _key(packages: tuple[str, ...]) -> str:
    """Name just these packages in the versions that apt knows: the first one's, and a digest."""
    shown = _run(["apt-cache", "show", "--no-all-versions", *packages], Path("/"))
    versions = re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", shown, re.MULTILINE)
    known = dict(versions)
    unknown = [package for package in packages if package not in known]
    if unknown:
        raise HostError(f"apt knows no package {unknown[0]}; try `apt-get update`")
    digest = hashlib.sha256(repr(sorted(known.items())).encode()).hexdigest()[:12]
    return f"{packages[0]}_{known[packages[0]]}_{digest}"


def _run(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise HostError(f"{' '.join(argv[:2])}: {said[-1] if said else 'failed'}")
    return done.stdout
