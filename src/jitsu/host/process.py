"""Start, watch and end child processes; and end those that an earlier daemon left behind."""

import asyncio
import os
import pwd
import re
import select
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Self

from jitsu.errors import HostError

CONSOLE_BYTES_MAX = 64 << 10
"""What is kept of a guest's console: its last screens, not its life."""
_CONSOLE_RATE_MAX = 256 << 10
"""Bytes a second that are read of one console; a guest that writes more waits."""


class Console:
    """The last lines that a guest, and the hypervisor around it, have written."""

    def __init__(self) -> None:
        self.written = 0
        """Bytes that were ever written: where a guest's own words begin."""
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append `data`; the oldest goes when there is too much."""
        self._chunks.append(data)
        self._size += len(data)
        self.written += len(data)
        while self._size - len(self._chunks[0]) >= CONSOLE_BYTES_MAX:
            self._size -= len(self._chunks.popleft())

    def text(self, since: int = 0) -> str:
        """Return what is kept of the bytes from `since` on, unprintable ones replaced."""
        kept = b"".join(self._chunks)[-CONSOLE_BYTES_MAX:]
        raw = kept[max(0, since - (self.written - len(kept))) :]
        text = raw.decode(errors="replace").replace("\r\n", "\n")  # how terminals end a line
        return "".join(
            c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
        )

    def last_line(self, since: int = 0) -> str:
        """Return the last line that says something of the bytes from `since` on."""
        lines = [line.strip() for line in self.text(since).splitlines()]
        return next((line for line in reversed(lines) if line), "")


class Child:
    """A running child process."""

    def __init__(self, pid: int, output: int, console: Console) -> None:
        """Watch a process; raises OSError when there is no descriptor for that."""
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._console = console
        self._output = output
        os.set_blocking(output, False)
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(output, self._read)

    def __repr__(self) -> str:
        """Return the pid and whether it runs."""
        return f"<Child {self.pid}{' exited' if self.exited.done() else ''}>"

    def write_to(self, console: Console) -> None:
        """Put what it writes from now on there."""
        self._console = console

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has exited."""
        if not self.exited.done():
            signal.pidfd_send_signal(self._pidfd, number)

    def heeds(self, number: int) -> bool:
        """Say whether it catches a signal, or wants to know nothing of it (proc(5))."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:  # it has exited
            return False
        masks = re.findall(r"^Sig(?:Ign|Cgt):\t(\w+)$", status, re.MULTILINE)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)

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


class Output:
    """What a child to be writes to; as a context it closes what no child has taken."""

    def __init__(self, console: Console) -> None:
        """Make a pipe to `console`. Raises HostError."""
        self._console = console
        try:
            self._reading, self.fd = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"no pipe for a console: {error.strerror}") from error
        self._taken = False

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close our copies of the child's end, and ours if there is no child."""
        os.close(self.fd)
        if not self._taken:
            os.close(self._reading)

    def child(self, pid: int, name: str) -> Child:
        """Watch the process that has got it. Raises HostError, and then it has been killed."""
        try:
            child = Child(pid, self._reading, self._console)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise HostError(f"cannot watch {name}: {error.strerror}") from error
        self._taken = True
        return child


def spawn(
    argv: Sequence[str],
    fds: Mapping[int, int],
    console: Console,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start `argv`, its output going to `console`.

    `fds` maps descriptor numbers in the child to ours; it inherits nothing else, and of the
    environment only PATH and what is given. Raises HostError.
    """
    with Output(console) as output:
        return output.child(spawn_raw(argv, fds, output.fd, environment), argv[0])


def spawn_raw(
    argv: Sequence[str],
    fds: Mapping[int, int],
    output: int | None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start `argv`, its output going to descriptor `output` or nowhere, and return its pid.

    posix_spawn shares our memory until the exec, so its cost does not grow with us. The child
    leads a process group of its own: a terminal's Ctrl-C is ours to answer. Raises HostError.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{os.devnull}: {error.strerror}") from error
    said = null if output is None else output
    wanted = {0: null, 1: said, 2: said, **fds}
    # They pass through numbers that are clear of where they come from and where they go.
    base = 1 + max(*wanted, *wanted.values())
    actions = [(os.POSIX_SPAWN_DUP2, ours, base + theirs) for theirs, ours in wanted.items()]
    actions += [(os.POSIX_SPAWN_DUP2, base + theirs, theirs) for theirs in wanted]
    closing = [(os.POSIX_SPAWN_CLOSE, base + theirs) for theirs in wanted]
    environment = {"PATH": os.defpath, **(environment or {})}
    try:
        return os.posix_spawn(
            argv[0], list(argv), environment, file_actions=[*actions, *closing], setpgroup=0
        )
    except OSError as error:
        raise HostError(f"{argv[0]}: {error.strerror}") from error
    finally:
        os.close(null)


class Leftovers:
    """What a daemon that was itself killed leaves running, for its heir to end.

    Each hypervisor is given a name (`-name`) that tells the daemon's own folder, too. It is in its
    command line from its first instant on, whenever the daemon dies, and costs a boot nothing; a
    file with its process id would do neither.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder = str(folder.resolve()).replace(
            ",", ",,"
        )  # in QEMU's options one ends a value
        self._report = report

    def name_of(self, guest: str) -> str:
        """Return what the hypervisor of `guest` is to be called."""
        return f"jitsu-{guest}@{self._folder}"

    def end(self) -> None:
        """Kill what an earlier daemon has left; blocks until it is gone."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(ProcessLookupError):
                self._end(int(process.name))

    def _end(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)  # first: from now on the number is nobody else's
        try:
            guest = self._guest_of(pid)
            if guest:
                self._report(f"{guest}: killed process {pid} of an earlier daemon")
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 5.0)
        finally:
            os.close(pidfd)

    def _guest_of(self, pid: int) -> str:
        """Return which guest of ours a process is the hypervisor of, if it is."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it has gone, or (hidepid in proc(5)) is not ours to look at
            return ""
        for option, value in pairwise(words):
            name = os.fsdecode(value)
            guest = name.removeprefix("jitsu-").partition("@")[0]
            if option == b"-name" and name == self.name_of(guest):
                return guest
        return ""


def unprivileged_user() -> str:
    """Return whom a guest's process shall become: nobody, where we may do that; or nothing."""
    if os.geteuid() != 0:
        return ""
    try:
        nobody = pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return ""
    spans = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    mapped = any(int(first) <= nobody < int(first) + int(count) for first, _, count in spans)
    return "nobody" if mapped else ""
