"""Start, watch and end child processes; and end those that an earlier daemon left behind."""

import asyncio
import os
import re
import select
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jitsu.errors import HostError

CONSOLE_BYTES_MAX = 64 << 10
"""What is kept of a guest's console: its last screens, not its life."""
_CONSOLE_RATE_MAX = 256 << 10
"""Bytes a second that are read of one console; a guest that writes more waits."""


class Console:
    """The last lines that a guest, and the hypervisor around it, have written."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append `data`; the oldest goes when there is too much."""
        self._chunks.append(data)
        self._size += len(data)
        while self._size - len(self._chunks[0]) >= CONSOLE_BYTES_MAX:
            self._size -= len(self._chunks.popleft())

    def text(self) -> str:
        """Return what is kept, unprintable bytes replaced."""
        raw = b"".join(self._chunks)[-CONSOLE_BYTES_MAX:].decode(errors="replace")
        text = raw.replace("\r\n", "\n")  # how terminals end a line
        return "".join(
            c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
        )

    def last_line(self) -> str:
        """Return the last line that says something."""
        lines = [line.strip() for line in self.text().splitlines()]
        return next((line for line in reversed(lines) if line), "")


class Child:
    """A running child process."""

    def __init__(self, pid: int, output: int, console: Console) -> None:
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._console = console
        self._output = output
        self._pidfd = os.pidfd_open(pid)
        os.set_blocking(output, False)
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(output, self._read)

    def __repr__(self) -> str:
        """Return the pid and whether it runs."""
        return f"<Child {self.pid}{' exited' if self.exited.done() else ''}>"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has exited."""
        if not self.exited.done():
            signal.pidfd_send_signal(self._pidfd, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._drain()
        self.exited.set_result(os.waitstatus_to_exitcode(status))

    def _read(self) -> None:
        data = self._take()
        if data == b"":
            self._loop.remove_reader(self._output)
        elif data is not None:
            self._console.write(data)
            self._loop.remove_reader(self._output)
            self._loop.call_later(len(data) / _CONSOLE_RATE_MAX, self._resume)

    def _resume(self) -> None:
        if not self.exited.done():
            self._loop.add_reader(self._output, self._read)

    def _drain(self) -> None:
        """Take what is left in the pipe, once, and close it."""
        self._loop.remove_reader(self._output)
        if data := self._take():
            self._console.write(data)
        os.close(self._output)

    def _take(self) -> bytes | None:
        try:
            return os.read(self._output, CONSOLE_BYTES_MAX)
        except BlockingIOError:
            return None


def spawn(argv: Sequence[str], fds: Mapping[int, int], console: Console) -> Child:
    """Start `argv`, its output going to `console`.

    `fds` maps descriptor numbers in the child to ours; it inherits nothing else. Raises HostError.
    """
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"no pipe for a console: {error.strerror}") from error
    try:
        pid = spawn_raw(argv, fds, writing)
    except HostError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return Child(pid, reading, console)


def spawn_raw(argv: Sequence[str], fds: Mapping[int, int], output: int | None) -> int:
    """Start `argv`, its output going to descriptor `output` or nowhere, and return its pid.

    posix_spawn shares our memory until the exec, so its cost does not grow with us. The child
    leads a process group of its own: a terminal's Ctrl-C is ours to answer. Raises HostError.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    said = null if output is None else output
    wanted = {0: null, 1: said, 2: said, **fds}
    # They pass through numbers that are clear of where they come from and where they go.
    base = 1 + max(*wanted, *wanted.values())
    actions = [(os.POSIX_SPAWN_DUP2, ours, base + theirs) for theirs, ours in wanted.items()]
    actions += [(os.POSIX_SPAWN_DUP2, base + theirs, theirs) for theirs in wanted]
    closing = [(os.POSIX_SPAWN_CLOSE, base + theirs) for theirs in wanted]
    environment = {"PATH": os.defpath}
    try:
        return os.posix_spawn(
            argv[0], list(argv), environment, file_actions=[*actions, *closing], setpgroup=0
        )
    except OSError as error:
        raise HostError(f"{argv[0]}: {error.strerror}") from error
    finally:
        os.close(null)


class Leftovers:
    """A folder with a file for each guest process, so that a daemon's heir can find them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def add(self, name: str, pid: int) -> None:
        """Note that `pid` runs for `name`."""
        (self._folder / f"{name}.pid").write_text(f"{pid} {_started_at(pid)}\n")

    def remove(self, name: str) -> None:
        """Note that it has exited."""
        (self._folder / f"{name}.pid").unlink(missing_ok=True)

    def end(self, report: Callable[[str], None]) -> None:
        """Kill what an earlier daemon, itself killed, has left; blocks until it is gone."""
        for file in self._folder.glob("*.pid"):
            noted = re.fullmatch(rb"(\d{1,9}) (\d+)\n", file.read_bytes())
            # The same number started at another time is somebody else's process.
            if noted and _started_at(pid := int(noted[1])) == noted[2].decode():
                report(f"{file.stem}: killed process {pid} of an earlier daemon")
                _kill(pid)
            file.unlink()


def _kill(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5.0)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _started_at(pid: int) -> str:
    """Return field 22 of /proc/PID/stat (proc(5)), or nothing if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[19]
