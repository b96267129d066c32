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
        self._fd = -1
        self._size = 0
        self._open()

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
        before, done = self._fd, self._number
        self._number += 1
        self._open()
        os.close(before)
        partial = self._folder / "snapshot.new"
        try:
            with partial.open("wb") as file:
                file.write(MAGIC)
                for record in records:
                    file.write(record)
                    yield
                file.flush()
                os.fsync(file.fileno())
                self._snapshot_size = file.tell()
            partial.replace(self._folder / f"snapshot.{self._number}")
        except OSError as error:
            raise HostError(f"{partial}: {error.strerror}") from error
        _remove(self._folder, before=done + 1)

    def close(self) -> None:
        """Write no more."""
        os.close(self._fd)

    def _open(self) -> None:
        path = self._folder / f"log.{self._number}"
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}") from error
        if not self._size:
            self.append(MAGIC)


def recover(folder: Path, log_min: int = LOG_MIN) -> tuple[Journal, Recovered]:
    """Read what a store was, and go on from there. Raises HostError; a folder is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _files(folder)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}") from error
    number, recovered = _newest(folder, sorted(found["snapshot"], reverse=True))
    size = _size(folder / f"snapshot.{number}")
    logs = sorted(n for n in found["log"] if n >= number)
    for n in logs:
        path = folder / f"log.{n}"
        whole = _load(path, recovered)
        if whole < _size(path):
            if n != logs[-1]:
                raise HostError(f"{path}: damaged at byte {whole}; put a copy in its place")
            os.truncate(path, whole)
    last = max([number, *logs])
    _remove(folder, before=number)
    return Journal(folder, last, size, log_min), recovered


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
                with suppress(OSError):
                    (folder / f"{kind}.{number}").unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
