"""One daemon a folder, and one a bridge."""

import errno
import fcntl
import os
import socket
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
        _lock(fd, run)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _lock(fd: int, run: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(fd, 32, 0).decode().strip()
        what = f"a daemon (process {pid}) serves from here; stop it"
        hint = "a second one needs a [host] run, state, [network] bridge and subnet of its own"
        raise HostError(f"{run}: {what}, or: {hint}") from error


@contextmanager
def only_daemon_on(bridge: str) -> Iterator[None]:
    """Hold the bridge of this name, in this network namespace, for this daemon alone.

    The hold is an abstract Unix socket (unix(7)): its name is of the namespace, as the bridge's
    is, whatever folder a daemon runs in, and goes with the process. Raises HostError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hold:
        try:
            hold.bind(f"\0jitsu-{bridge}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise HostError(f"bridge {bridge}: {error.strerror}") from error
            what = "another daemon, with another [host] run, serves on it; stop that one"
            hint = "or set [network] bridge and subnet to others"
            raise HostError(f"bridge {bridge}: {what}, {hint}") from error
        yield
