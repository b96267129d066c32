"""The files that a store is kept in.

    snapshot.<n>    everything, as it was at one moment
    log.<n>         what has changed since

The store is the newest snapshot that is whole, and all logs from its number on. When the log has
grown, number n+1 begins: new commits go to log.<n+1> at once, while snapshot.<n+1> is written
beside the work, a little at a time, from the tree as it was. A crash in between finds
snapshot.<n>, log.<n> and log.<n+1>.

A commit is one write() before its client hears of it: it survives the daemon's sudden death. That
of the machine it survives as far as the kernel has written; snapshots are synced.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from jitsu.core.xenstore.journal import Recovered
from jitsu.errors import HostError, WireError

MAGIC = b"jitsu-xenstore-1\n"
LOG_MIN = 4 << 20
"""Bytes of a log that are not worth a snapshot."""
LOG_RATIO = 2
"""So many times as long as the snapshot may a log be: what a start has to read is bounded."""

_NAME = re.compile(r"(snapshot|log)\.(\d+)")


class Journal:
    """The log that is written now, and the snapshot that is made from time to time."""

    def __init__(self, folder: Path, number: int, size: int, log_min: int = LOG_MIN) -> None:
        self._folder = folder
        self._number = number
        self._snapshot_size = size
        self._log_min = log_min
        self._fd, self._size = _begin(folder / f"log.{number}")

    def __repr__(self) -> str:
        """Say what is written."""
        return f"<Journal {self._folder}/log.{self._number}, {self._size} bytes>"

    def append(self, record: bytes) -> None:
        """Write one record. Raises HostError, and then the log holds nothing of it."""
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            raise HostError(f"{self._folder}/log.{self._number}: {error.strerror}") from error
        if written < len(record):
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise HostError(f"{self._folder}/log.{self._number}: no space left for a record")
        self._size += len(record)

    @property
    def overgrown(self) -> bool:
        """Tell whether a snapshot is worth its while."""
        return self._size > max(self._log_min, LOG_RATIO * self._snapshot_size)

    def compact(self, records: Iterable[bytes]) -> Iterator[None]:
        """Begin a new log, and write a snapshot to go with it; a step for each record.

        `records` are of the store as it is at the first step. Raises HostError.
        """
        done = self._number
        try:
            fd, size = _begin(self._folder / f"log.{done + 1}")
        except HostError:
            self._snapshot_size = self._size  # not again with each commit
            raise
        os.close(self._fd)
        self._fd, self._size, self._number = fd, size, done + 1
        partial = self._folder / "snapshot.new"
        try:
            with open(partial, "wb", opener=_private) as file:
                file.write(MAGIC)
                for record in records:
                    file.write(record)
                    yield
                file.flush()
                os.fsync(file.fileno())
                self._snapshot_size = file.tell()
            partial.replace(self._folder / f"snapshot.{self._number}")
        except OSError as error:
            _unlink(partial)  # the next commits may need its room
            raise HostError(f"{partial}: {error.strerror}") from error
        _remove(self._folder, before=done + 1)

    def close(self) -> None:
        """Write no more."""
        os.close(self._fd)


def _begin(path: Path) -> tuple[int, int]:
    """Open a log to append to it; return descriptor and size. Raises HostError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    size = os.fstat(fd).st_size
    if size >= len(MAGIC):
        return fd, size
    written, reason = 0, "no space left to begin it"
    try:
        if size:
            os.ftruncate(fd, 0)
        written = os.write(fd, MAGIC)
    except OSError as error:
        reason = str(error.strerror)
    if written < len(MAGIC):
        # An empty log would say that the one before it has come to its end.
        os.close(fd)
        _unlink(path)
        raise HostError(f"{path}: {reason}")
    return fd, len(MAGIC)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def recover(folder: Path, log_min: int = LOG_MIN) -> tuple[Journal, Recovered]:
    """Read what a store was, and go on from there. Raises HostError; a folder is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _files(folder)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}") from error
    number, recovered = _newest(folder, sorted(found["snapshot"], reverse=True))
    size = _size(folder / f"snapshot.{number}")
    last = max([0, *found["snapshot"], *found["log"]])
    for n in range(number, last + 1):
        if n in found["log"]:
            _follow(folder / f"log.{n}", recovered, is_last=n == last)
        elif found["snapshot"] or found["log"]:
            raise HostError(_missing(folder, n, found["snapshot"]))
    _remove(folder, before=number)
    return Journal(folder, last, size, log_min), recovered


def _follow(path: Path, recovered: Recovered, *, is_last: bool) -> None:
    """Apply a log; cut off what was being written when the daemon died."""
    whole = _load(path, recovered)
    if whole == _size(path):
        return
    if not is_last:
        raise HostError(f"{path}: damaged at byte {whole}; put a copy in its place")
    try:
        os.truncate(path, whole)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error


def _missing(folder: Path, log: int, snapshots: list[int]) -> str:
    """Say why this is not all of a store: snapshots get their name when they are whole."""
    what = f"log.{log} is missing"
    if snapshots and log < max(snapshots):
        what = f"snapshot.{max(snapshots)} is not whole, and {what}"
    return f"{folder}: {what}; put a copy in its place, or remove the folder"


def _newest(folder: Path, numbers: list[int]) -> tuple[int, Recovered]:
    for number in numbers:
        recovered = Recovered()
        _load(folder / f"snapshot.{number}", recovered)
        if recovered.ended:
            return number, recovered
    return 0, Recovered()


def _load(path: Path, recovered: Recovered) -> int:
    """Apply a file; return how many bytes of it are whole."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    if len(data) < len(MAGIC) and MAGIC.startswith(data):
        return 0  # the crash was in its first moment
    if not data.startswith(MAGIC):
        raise HostError(f"{path}: not a store's; set the state to another folder")
    try:
        return len(MAGIC) + recovered.load(data[len(MAGIC) :])
    except WireError as error:
        raise HostError(f"{path}: {error}; put a copy in its place, or remove the folder") from None


def _files(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"snapshot": [], "log": []}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found[match[1]].append(int(match[2]))
    return found


def _remove(folder: Path, before: int) -> None:
    for kind, numbers in _files(folder).items():
        for number in numbers:
            if number < before:
                _unlink(folder / f"{kind}.{number}")


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
