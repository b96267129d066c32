"""Debian's packages: which versions there are, and their archives.

apt does the work: with an empty list of installed packages it resolves what the lab needs as if
for a new machine, and verifies what it downloads. The host's own packages are never touched.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from xenlab.errors import LabError

_LISTS = Path("/var/lib/apt/lists")
WANTED = (
    # Xen, its tools, and their libraries
    *("xen-hypervisor-4.17-amd64", "xen-utils-4.17", "xenstore-utils", "libxenmisc4.17"),
    *("libxencall1", "libxendevicemodel1", "libxenevtchn1", "libxenforeignmemory1"),
    *("libxengnttab1", "libxenstore4", "libxentoolcore1", "libxentoollog1"),
    # dom0's kernel, and a guest's, which cannot be dom0's
    *("linux-image-amd64", "linux-image-cloud-amd64", "lz4"),
    # the system around them
    *("bash", "dash", "coreutils", "util-linux", "bsdutils", "mount", "grep", "sed", "mawk"),
    *("findutils", "procps", "kmod", "busybox-static", "python3", "python3-minimal"),
    # what the project and its tests run
    *("iproute2", "nftables", "libnftables1", "curl", "bind9-dnsutils", "iputils-ping"),
    *("tcpdump", "strace"),
)


def resolve(apt: "Apt") -> dict[str, str]:
    """Return the version of each package that the lab consists of, by name.

    What apt has said is remembered until there are other lists. Raises LabError when no list
    knows the packages.
    """
    asked = [WANTED, *sorted((path.name, path.stat().st_mtime_ns) for path in apt.lists())]
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()
    if apt.remembered.exists():
        known: dict[str, dict[str, str]] = json.loads(apt.remembered.read_text())
        if digest in known:
            return known[digest]
    try:
        versions = _resolve(apt)
    except LabError:  # no lists, or other ones
        apt.update()
        return _resolve(apt)
    apt.remembered.write_text(json.dumps({digest: versions}))
    return versions


def _resolve(apt: "Apt") -> dict[str, str]:
    chosen = {}
    for line in apt.run("install", "--simulate", *WANTED).splitlines():
        word, *rest = line.split()
        if word == "Inst":  # Inst busybox-static (1:1.35.0-4 Debian:12.5/stable [amd64])
            chosen[rest[0]] = rest[1].lstrip("(")
    return chosen


def download(apt: "Apt", folder: Path) -> list[Path]:
    """Put the packages' archives in `folder` and return their paths; raises LabError."""
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    arguments = ("install", "--download-only", "--yes", "-o", f"Dir::Cache::archives={folder}")
    try:
        apt.run(*arguments, *WANTED)
    except LabError:  # the lists name versions that are gone
        apt.update()
        apt.run(*arguments, *WANTED)
    return sorted(folder.glob("*.deb"))


def extract(archive: Path, root: Path) -> None:
    """Unpack an archive below `root`; raises LabError.

    `dpkg-deb --extract` would replace a link to a folder (/lib) by a folder.
    """
    keep = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as unpack:
        failed = subprocess.run(keep, stdin=unpack.stdout, check=False).returncode
    if failed or unpack.returncode:
        raise LabError(f"{archive.name} cannot be unpacked")


class Apt:
    """apt-get on an empty machine: it knows the archive, and nothing is installed."""

    def __init__(self, state: Path) -> None:
        """Keep what apt has to remember in `state`."""
        self.remembered = state / "versions.json"
        self._lists = state / "lists"
        self._status = state / "status"
        (self._lists / "partial").mkdir(parents=True, exist_ok=True)
        self._status.touch()
        self._own_lists = any(self._lists.glob("*Packages*"))

    def lists(self) -> list[Path]:
        """Return the files with what the archive has, the host's or our own."""
        return list((self._lists if self._own_lists else _LISTS).glob("*Packages*"))

    def update(self) -> None:
        """Fetch lists of packages of our own; the host's may be missing, or too old.

        Raises LabError.
        """
        self._own_lists = True
        self.run("update")

    def run(self, *arguments: str) -> str:
        """Return what apt-get prints; raises LabError with what it says when it fails."""
        options = {
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # the archives belong to who builds the lab
            "Debug::NoLocking": "true",
            "Dir::State::status": str(self._status),
        }
        if self._own_lists:
            options["Dir::State::lists"] = str(self._lists)
        argv = ["apt-get", "--quiet=2"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        return output([*argv, *arguments], "apt-get " + arguments[0])


def output(argv: Sequence[str], what: str, executable: Path | None = None) -> str:
    """Run a command and return what it prints; raises LabError that says why `what` failed."""
    done = subprocess.run(
        argv,
        executable=executable,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise LabError(f"{what} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout
