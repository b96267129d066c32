"""One daemon a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitsu.errors import HostError


@contextmanager
def only_daemon(run: Path) -> Iterator[None]:
    """Hold folder `run`, made if need be, for this daemon alone; `run`/pid says who it is.

    Raises HostError. A killed daemon's hold ends with it.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        fd = os.open(run / "pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"{run}: {error.strerror}; set [host] run to another folder") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(fd, 32, 0).decode().strip()
            what = f"a daemon (process {pid}) serves from here; stop it, or set [host] run"
            raise HostError(f"{run}: {what}") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)
