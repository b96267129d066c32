"""Start a program from a copy that is loaded already: what asks `forkserver/forkserver.c`.

Where QEMU's start is what a client waits for, half of it is the dynamic linker's work, the same
each time. A fork server has had it done, and waits where the program begins; each start is a copy
of that. Nothing of the program has run yet, and there is no guest before one is asked for.

Everything works without, only later. The program is executed as ever if it is no such file (a
script, say), the library cannot be loaded, the server has ended, or the program has been replaced
by another version; then that is loaded.

Copies are loaded at the same addresses. Who breaks out of a guest into its QEMU learns from them
where its neighbours' are, though not what is in their memory.
"""

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jitsu.errors import HostError
from jitsu.host.process import Child, Console, Output, spawn

_CONTROL_FD = 15
_TITLE = "jitsu: loaded, to become the next guest"
_ROOM = 12 << 10
"""Bytes for a command line: as many as the server itself was executed with."""
_OPTION = "-version"
"""Have a program that does not find the library do something harmless, and end."""


def library() -> Path:
    """Return the library that makes a program a fork server of itself."""
    return Path(str(files("jitsu") / "images" / "forkserver.so"))


@dataclass(slots=True)
class _Server:
    """A loaded program that waits."""

    version: tuple[int, int, int]
    child: Child
    socket: socket.socket
    said: Console
    ready: asyncio.Future[bool]
    asked: deque[asyncio.Future[int]] = field(default_factory=deque)
    """Who waits for an answer, in order."""


class ForkServer:
    """Starts a program over and over."""

    def __init__(self, program: str, report: Callable[[str], None]) -> None:
        """Start `program`; `report` hears why it has to be executed for each start, if so."""
        self._program = program
        self._report = report
        self._server: _Server | None = None
        self._works = True

    async def begin(self) -> bool:
        """Load the program; return whether that has worked."""
        server = self._load()
        return server is not None and await server.ready

    async def close(self) -> None:
        """End the server. What it has started goes on."""
        server = self._drop()
        if server is not None:
            await server.child.exited

    async def spawn(
        self,
        argv: Sequence[str],
        fds: Mapping[int, int],
        console: Console,
        lost: Callable[[], None],
    ) -> Child:
        """Start the program with `argv`, as `jitsu.host.process.spawn` does.

        `fds` are all from 3 on, without a gap. Should the server be killed while it is asked, it
        may have started one that nobody knows of: `lost` is called, to end it. Raises HostError.
        """
        server = self._fresh()
        words = b"".join(os.fsencode(word) + b"\0" for word in argv)
        if server is None or len(words) > _ROOM:
            return spawn(argv, fds, console)
        with Output(console) as output:
            answer = _ask(server, words, [output.fd, *(fds[fd] for fd in sorted(fds))])
            pid = await _pid(answer) if answer else -1
            if pid > 0:
                return output.child(pid, argv[0])
        if pid == 0:
            lost()
        return spawn(argv, fds, console)

    def _fresh(self) -> _Server | None:
        """Return the server if it is ready, and the program still the one that it has loaded."""
        server = self._server
        if server and not server.ready.done():
            return None
        with suppress(OSError):
            if server and server.version == _version(self._program):
                return server
        if self._works:
            self._load()
        return None

    def _drop(self) -> _Server | None:
        """Have none; return who it was."""
        server, self._server = self._server, None
        if server is not None:
            _forget(server)
        return server

    def _load(self) -> _Server | None:
        self._drop()
        try:
            self._server = self._launch()
        except (OSError, HostError) as error:
            self._give_up(str(error))
        return self._server

    def _launch(self) -> _Server:
        """Execute the program as a fork server. Raises HostError, OSError."""
        version = _version(self._program)
        with Path(self._program).open("rb") as file:
            if file.read(4) != b"\x7fELF":
                raise HostError("it is no ELF file")
        if not library().exists():
            raise HostError(f"{library()} is missing, run make")
        preload = {"LD_PRELOAD": str(library())}
        said = Console()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                argv = [self._program, _OPTION, _TITLE.ljust(_ROOM)]
                child = spawn(argv, {_CONTROL_FD: theirs.fileno()}, said, preload)
            except HostError:
                ours.close()
                raise
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        server = _Server(version, child, ours, said, loop.create_future())
        loop.add_reader(ours, self._hear, server)
        return server

    def _hear(self, server: _Server) -> None:
        try:
            said = server.socket.recv(4)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if len(said) == 4:
            server.asked.popleft().set_result(int.from_bytes(said, "little", signed=True))
        elif said:
            server.ready.set_result(True)
        else:
            self._drop()
            if not server.ready.result():
                lines = server.said.text().splitlines()
                why = (line for line in lines if "LD_PRELOAD" in line)
                self._give_up(next(why, "it does not wait"))

    def _give_up(self, why: str) -> None:
        self._works = False
        self._report(f"{self._program} is loaded anew for each start: {why}")


def _ask(server: _Server, words: bytes, fds: Sequence[int]) -> asyncio.Future[int] | None:
    """Ask for a copy; return None if the server has ended, or has too much to do."""
    output, *others = fds
    try:
        with Path(os.devnull).open("rb", 0) as null:
            socket.send_fds(server.socket, [words], [null.fileno(), output, output, *others])
    except OSError:
        return None
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server.asked.append(answer)
    return answer


async def _pid(answer: asyncio.Future[int]) -> int:
    """Return the process id, 0 if the server died; if nobody waits any more, it will be killed."""
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        answer.add_done_callback(_kill)
        raise


def _kill(answer: asyncio.Future[int]) -> None:
    pid = answer.result()
    if pid > 0:
        os.kill(pid, signal.SIGKILL)
        asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)


def _forget(server: _Server) -> None:
    server.child.signal(signal.SIGKILL)
    asyncio.get_running_loop().remove_reader(server.socket)
    server.socket.close()
    if not server.ready.done():
        server.ready.set_result(False)
    while server.asked:
        server.asked.popleft().set_result(0)


def _version(program: str) -> tuple[int, int, int]:
    """Tell one file from another of the same name."""
    status = Path(program).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
