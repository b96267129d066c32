"""Start a program from a copy that is loaded already: what asks `forkserver/forkserver.c`.

Where QEMU's start is what a client waits for, half of it is the dynamic linker's work, the same
each time. A fork server has had it done, and waits where the program begins; each start is a copy
of that. Nothing of the program has run yet, and there is no guest before one is asked for.

Everything works without, only later. The program is executed as ever if it is no such file (a
script, say), the library cannot be loaded, the server has ended or is stopped, or the program or
a library of the host has been replaced by another version; then that is loaded.

A server may be killed when it has made a copy and not yet said so. Its socket ends when it and the
copy have closed it; whoever is our child then, has the words that were asked for and is not known
is that copy, and is ended.

Copies are loaded at the same addresses. Who breaks out of a guest into its QEMU learns from them
where its neighbours' are, though not what is in their memory. Each has a stack protector's value of
its own, and when one has crashed the next come from a server that is loaded anew, elsewhere.
"""

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

from jitsu.errors import HostError
from jitsu.host.process import Child, Console, Output, spawn

CONTROL_FD = 15
"""Its number in the server: agreed with `forkserver.c`. No copy has it."""
_TITLE = "jitsu: loaded, to become the next guest"
_ROOM = 12 << 10
"""Bytes for a command line: as many as the server itself was executed with."""
_OPTION = "-version"
"""Have a program that does not find the library do something harmless, and end."""
_PATIENCE = 1.0
"""Seconds until a server that does not answer is killed."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)
_LINKED = "/etc/ld.so.cache"
"""It is written when libraries of the host are installed (ldconfig(8))."""


def library() -> Path:
    """Return the library that makes a program a fork server of itself."""
    return Path(str(files("jitsu") / "images" / "forkserver.so"))


@dataclass(slots=True)
class _Server:
    """A loaded program that waits."""

    version: object
    child: Child
    socket: socket.socket
    said: Console
    ready: asyncio.Future[bool]
    gone: asyncio.Future[None]
    asked: deque[tuple[bytes, asyncio.Future[int]]] = field(default_factory=deque)
    """What was asked for and not answered yet, in order."""


class ForkServer:
    """Starts a program over and over."""

    def __init__(self, program: str, report: Callable[[str], None]) -> None:
        """Start `program`; `report` hears why it has to be executed for each start, if so."""
        self._program = program
        self._report = report
        self._server: _Server | None = None
        self._works = True
        self._known: set[int] = set()
        """The process ids of all that was started and has not exited."""

    async def begin(self) -> bool:
        """Load the program, unless it is; return whether that has worked."""
        if self._server is None:
            self._load()
        return self._server is not None and await self._server.ready

    async def close(self) -> None:
        """End the server. What it has started goes on."""
        server = self._drop()
        if server is not None:
            await server.gone
            await server.child.exited

    async def spawn(self, argv: Sequence[str], fds: Mapping[int, int], console: Console) -> Child:
        """Start the program with `argv`, as `jitsu.host.process.spawn` does.

        `fds` are all from 3 on, without a gap. Raises HostError.
        """
        server = self._fresh()
        words = b"".join(os.fsencode(word) + b"\0" for word in argv)
        if server is not None and len(words) <= _ROOM:
            with Output(console) as output:
                pid = await self._copy(server, words, [output.fd, *(fds[n] for n in sorted(fds))])
                if pid > 0:
                    return self._know(output.child(pid, argv[0]))
        return self._know(spawn(argv, fds, console))

    def _fresh(self) -> _Server | None:
        """Return the server if it is ready, and what it has loaded is still what is installed."""
        server = self._server
        if server and not server.ready.done():
            return None
        with suppress(OSError):
            if server and server.version == _version(self._program):
                return server
        if self._works:
            self._load()
        return None

    async def _copy(self, server: _Server, words: bytes, fds: Sequence[int]) -> int:
        """Return the process id of a copy; 0 or less if there is none."""
        answer = _ask(server, words, fds)
        if answer is None:
            return 0
        overdue = asyncio.get_running_loop().call_later(_PATIENCE, self._despair, server, answer)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(lambda answer: self._end(answer.result()))
            raise
        finally:
            overdue.cancel()

    def _despair(self, server: _Server, answer: asyncio.Future[int]) -> None:
        """End a server that has not answered; if it was we who had no time, it may have."""
        while not answer.done() and self._hear(server):
            pass
        if not answer.done():
            server.child.signal(signal.SIGKILL)

    def _know(self, child: Child) -> Child:
        self._known.add(child.pid)
        child.exited.add_done_callback(partial(self._bury, child.pid))
        return child

    def _bury(self, pid: int, exited: asyncio.Future[int]) -> None:
        self._known.discard(pid)
        if self._server is not None and -exited.result() in _CRASHES:
            self._load()  # let nobody try again at what was not quite right

    def _end(self, pid: int) -> None:
        """End a copy that nobody waits for."""
        if pid > 0:
            os.kill(pid, signal.SIGKILL)
            asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
            self._known.discard(pid)

    def _load(self) -> None:
        self._drop()
        try:
            self._server = self._launch()
        except (OSError, HostError) as error:
            self._report(f"{self._program} is loaded anew for each start: {error}")

    def _drop(self) -> _Server | None:
        """Have none; return who it was. It is heard until it has gone."""
        server, self._server = self._server, None
        if server is not None:
            server.child.signal(signal.SIGKILL)
        return server

    def _launch(self) -> _Server:
        """Execute the program as a fork server. Raises HostError, OSError."""
        version = _version(self._program)
        with Path(self._program).open("rb") as file:
            if file.read(4) != b"\x7fELF":
                self._works = False
                raise HostError("it is no ELF file")
        if not library().exists():
            raise HostError(f"{library()} is missing, run make")
        preload = {"LD_PRELOAD": str(library())}
        said = Console()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                argv = [self._program, _OPTION, _TITLE.ljust(_ROOM)]
                child = spawn(argv, {CONTROL_FD: theirs.fileno()}, said, preload)
            except HostError:
                ours.close()
                raise
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        server = _Server(version, child, ours, said, loop.create_future(), loop.create_future())
        loop.add_reader(ours, self._hear, server)
        return server

    def _hear(self, server: _Server) -> bool:
        """Take what it says; return whether it said anything."""
        try:
            said = server.socket.recv(4)
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        if len(said) == 4:
            pid = int.from_bytes(said, "little", signed=True)
            self._known.add(pid)
            server.asked.popleft()[1].set_result(pid)
        elif said:
            server.ready.set_result(True)
        else:
            self._lose(server)
        return True

    def _lose(self, server: _Server) -> None:
        """The server has ended, and all of its copies that there will ever be are there."""
        asyncio.get_running_loop().remove_reader(server.socket)
        server.socket.close()
        server.gone.set_result(None)
        if server is self._server:
            self._server = None
        for words, answer in server.asked:
            for pid in set(_children(words)) - self._known:
                self._end(pid)
            answer.set_result(0)
        if not server.ready.done():
            server.child.exited.add_done_callback(partial(self._doubt, server))

    def _doubt(self, server: _Server, exited: asyncio.Future[int]) -> None:
        """Load no more what has ended by itself: it will not do otherwise."""
        if exited.result() >= 0:
            self._works = False
            lines = server.said.text().splitlines()
            why = next((line for line in lines if "LD_PRELOAD" in line), "it does not wait")
            self._report(f"{self._program} is loaded anew for each start: {why}")
        server.ready.set_result(False)


def _ask(server: _Server, words: bytes, fds: Sequence[int]) -> asyncio.Future[int] | None:
    """Ask for a copy; return None if the server has ended, or has too much to do."""
    output, *others = fds
    try:
        with Path(os.devnull).open("rb", 0) as null:
            socket.send_fds(server.socket, [words], [null.fileno(), output, output, *others])
    except OSError:
        return None
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server.asked.append((words, answer))
    return answer


def _children(words: bytes) -> Iterator[int]:
    """Yield the process ids of our children that have a command line (proc(5))."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().rstrip(b"\0") != words.rstrip(b"\0"):
                continue
            # What comes after the name, which may hold anything: state, parent.
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                yield int(process.name)


def _version(program: str) -> object:
    """Return what differs when the program, or a library of the host, is another."""
    found = [Path(program).stat()]
    with suppress(OSError):
        found.append(Path(_LINKED).stat())
    return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in found]
