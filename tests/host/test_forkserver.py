"""Real programs, started by a fork server of theirs: no different from executed ones."""

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from jitsu.host import forkserver
from jitsu.host.forkserver import ForkServer
from jitsu.host.process import Console

PATIENCE = 10.0
SHELL, ENV, PYTHON = "/bin/sh", "/usr/bin/env", str(Path(sys.executable).resolve())
TITLE = "jitsu: loaded"


def children() -> dict[int, str]:
    """Return the processes that we have started and not yet taken leave of, and what ps calls them.

    (proc(5))
    """
    pids: list[str] = []
    found = {}
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends just now
            pids += task.read_text().split()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text()
    return found


class Forks:
    """A fork server, and what is seen of it."""

    def __init__(self, program: str) -> None:
        self.complaints: list[str] = []
        self.server = ForkServer(program, self.complaints.append)
        self._others = children()

    async def spawn(
        self, argv: Sequence[str], fds: Mapping[int, int] | None = None
    ) -> tuple[int, str]:
        """Run a program to its end; return its exit code and what it said."""
        console = Console()
        async with asyncio.timeout(PATIENCE):
            child = await self.server.spawn(argv, fds or {}, console)
            return await child.exited, console.text()

    def pids(self) -> set[int]:
        """Return the servers that are there."""
        return {pid for pid, said in children().items() if TITLE in said} - self._others.keys()

    def pid(self) -> int:
        """Return the server that is there."""
        (pid,) = self.pids()
        return pid

    async def end(self) -> None:
        """Have it ended, and all others of ours."""
        async with asyncio.timeout(PATIENCE):
            await self.server.close()
            await until(lambda: children().keys() <= self._others.keys())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.get_running_loop().run_in_executor(None, os.sched_yield)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy host be no reason to give up a server."""
    monkeypatch.setattr(forkserver, "_PATIENCE", PATIENCE)


@asynccontextmanager
async def forks(program: str) -> AsyncIterator[Forks]:
    server = Forks(program)
    assert await server.server.begin()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    try:
        yield server
        # Those of a server that is killed go when it has gone.
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)  # noqa: PTH208
    finally:
        await server.end()
    assert server.complaints == []


def shell(script: str) -> list[str]:
    return [SHELL, "-c", script]


def test_what_a_copy_is_given() -> None:
    async def story() -> None:
        async with forks(SHELL) as server:
            assert await server.spawn(shell("echo out; echo err >&2; exit 7")) == (7, "out\nerr\n")
            assert await server.spawn(shell("kill -9 $$")) == (-9, "")
            assert await server.spawn(shell("cat")) == (0, "")  # nothing to read
            parent, group, pid = (
                await server.spawn(shell("echo $PPID; ps -o pgid= -p $$; echo $$"))
            )[1].split()
            assert (int(parent), group) == (os.getpid(), pid)
            argv = [*shell('tr "\\0" "|" </proc/$$/cmdline; exit'), "a name", "", "and more"]
            code, said = await server.spawn(argv)
            # Where the kernel lets only the privileged say how long it is, zeros follow.
            assert (code, said.rstrip("|")) == (0, "|".join(argv))
            assert TITLE in children()[server.pid()]

    asyncio.run(story())


def test_its_environment() -> None:
    async def story() -> None:
        async with forks(ENV) as server:
            assert await server.spawn([ENV]) == (0, f"PATH={os.defpath}\n")
            assert await server.spawn([ENV, "A=b", ENV, "-u", "PATH"]) == (0, "A=b\n")

    asyncio.run(story())


def test_its_descriptors() -> None:
    script = "import os\nfor n in sorted(map(int, os.listdir('/proc/self/fd'))):\n"
    script += " try: print(n, os.readlink(f'/proc/self/fd/{n}').partition(':')[0])\n"
    script += " except OSError: pass  # of the listing itself\n"

    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (descriptors are no paths)
        with suppress(OSError):  # what pytest itself was given to inherit does not count
            os.set_inheritable(int(name), int(name) < 3)

    async def story() -> None:
        async with forks(PYTHON) as server:
            with open("/dev/zero", "rb") as third, open("/dev/full", "wb") as fourth:  # noqa: ASYNC230, PTH123
                fds = {4: fourth.fileno(), 3: third.fileno()}
                code, said = await server.spawn([PYTHON, "-IS", "-c", script], fds)
            assert (code, said.splitlines()) == (
                0,
                ["0 /dev/null", "1 pipe", "2 pipe", "3 /dev/zero", "4 /dev/full"],
            )

    asyncio.run(story())


def test_its_c_library_knows_which_thread_it_is() -> None:
    """As it must to send itself a signal, or to wait for a thread that it has started."""
    script = "import signal, threading\n"
    script += "signal.signal(signal.SIGUSR1, lambda *_: print('heard'))\n"
    script += "signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)\n"
    script += "other = threading.Thread(target=print, args=['other'])\n"
    script += "other.start(); other.join()\n"

    async def story() -> None:
        async with forks(PYTHON) as server:
            for _ in range(3):
                assert await server.spawn([PYTHON, "-IS", "-c", script]) == (0, "heard\nother\n")

    asyncio.run(story())


def test_many_at_once() -> None:
    async def story() -> None:
        async with forks(SHELL) as server:
            asked = [server.spawn(shell(f"echo {i}; exit {i}")) for i in range(50)]
            assert await asyncio.gather(*asked) == [(i, f"{i}\n") for i in range(50)]

    asyncio.run(story())


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["x" * (13 << 10)], id="too long"),
        pytest.param([str(i) for i in range(300)], id="too many"),
        pytest.param(["x" * ((12 << 10) - 22)], id="just not too long"),
    ],
)
def test_any_command_line(words: list[str]) -> None:
    async def story() -> None:
        async with forks(SHELL) as server:
            argv = [*shell('echo "$@"'), "name", *words]
            assert await server.spawn(argv) == (0, " ".join(words) + "\n")

    asyncio.run(story())


def test_a_server_that_is_killed() -> None:
    """The program is executed meanwhile, and loaded again."""

    async def story() -> None:
        async with forks(SHELL) as server:
            first = server.pid()
            os.kill(first, signal.SIGKILL)
            assert await server.spawn(shell("echo 1")) == (0, "1\n")
            assert await server.spawn(shell("echo 2")) == (0, "2\n")
            await server.server.begin()
            await until(lambda: len(server.pids() - {first}) == 1)
            assert await server.spawn(shell("echo 3")) == (0, "3\n")

    asyncio.run(story())


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_server_that_does_not_answer(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "_PATIENCE", 0.1 if how == "stopped" else PATIENCE)

    async def story() -> None:
        async with forks(SHELL) as server:
            os.kill(server.pid(), signal.SIGSTOP)
            asked = [asyncio.create_task(server.spawn(shell("echo here"))) for _ in range(3)]
            await asyncio.sleep(0)  # let them ask
            if how == "killed":
                os.kill(server.pid(), signal.SIGKILL)
            assert await asyncio.gather(*asked) == [(0, "here\n")] * 3
            await server.server.begin()

    asyncio.run(story())


def test_an_answer_that_comes_while_we_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is late because we are: no reason to end the server."""

    async def story() -> None:
        async with forks(SHELL) as server:
            first = server.pid()
            with monkeypatch.context() as impatient:
                impatient.setattr(forkserver, "_PATIENCE", 0.0)
                asked = asyncio.create_task(server.spawn(shell("echo here")))
                await asyncio.sleep(0)  # let it ask
                assert server.server._server is not None
                assert select.select([server.server._server.socket], [], [], PATIENCE)[0]
                assert await asked == (0, "here\n")
            assert await server.spawn(shell("echo there")) == (0, "there\n")
            assert server.pid() == first

    asyncio.run(story())


def test_a_copy_that_a_killed_server_has_not_told_of() -> None:
    """It is ended; another with the same command line, which is known, is not."""
    script = "echo $$; read x <&3"

    def running() -> set[int]:
        return {pid for pid, words in children().items() if script in words}

    def replaced(first: int, lost: int) -> bool:
        now = running()  # at one instant: the lost one may end between two looks
        return len(now) == 2 and first in now and lost not in now

    async def story() -> None:
        async with forks(SHELL) as server:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                fds = {3: theirs.fileno()}
                known = asyncio.create_task(server.spawn(shell(script), fds))
                # Who looks at command lines may see the server with its next copy's.
                await until(lambda: len(server.server._known) == 1)
                (first,) = running()
                asked = asyncio.create_task(server.spawn(shell(script), fds))
                await asyncio.sleep(0)  # let it ask
                assert server.server._server is not None
                untold = server.server._server.socket
                assert select.select([untold], [], [], PATIENCE)[0]
                untold.recv(4)  # what it would not have said
                (lost,) = running() - {first}
                os.kill(server.pid(), signal.SIGKILL)
                await until(lambda: replaced(first, lost))
                (second,) = running() - {first}
                ours.sendall(b"one\n")
                ours.sendall(b"two\n")
                ours.shutdown(socket.SHUT_WR)
                assert await known == (0, f"{first}\n")
                assert await asked == (0, f"{second}\n")
            await server.server.begin()

    asyncio.run(story())


def test_after_a_crash_it_is_loaded_elsewhere() -> None:
    async def story() -> None:
        async with forks(SHELL) as server:
            first = server.pid()
            assert await server.spawn(shell("kill -SEGV $$")) == (-signal.SIGSEGV, "")
            await until(lambda: first not in (server.pids() or {first}))
            assert await server.spawn(shell("kill -TERM $$")) == (-signal.SIGTERM, "")
            second = server.pid()
            assert await server.spawn(shell("exit")) == (0, "")
            assert server.pid() == second != first

    asyncio.run(story())


def test_each_copy_has_a_stack_protector_of_its_own(tmp_path: Path) -> None:
    source = b"""
        #include <stdio.h>
        int main(void) {
            unsigned long guard;
            __asm__("movq %%fs:0x28, %0" : "=r"(guard));
            return printf("%lx\\n", guard) < 0;
        }"""
    program = tmp_path / "guard"
    subprocess.run(["gcc", "-o", program, "-x", "c", "-"], input=source, check=True)

    async def story() -> None:
        async with forks(str(program)) as server:
            ends = [await server.spawn([str(program)]) for _ in range(5)]
            assert {code for code, _ in ends} == {0}
            assert len({said for _, said in ends}) == 5
            assert all(said.endswith("00\n") for _, said in ends)  # strings end before it

    asyncio.run(story())


def test_who_asks_and_does_not_wait() -> None:
    async def story(folder: Path) -> None:
        async with forks(SHELL) as server:
            os.kill(server.pid(), signal.SIGSTOP)
            asked = asyncio.create_task(server.spawn(shell(f"echo $$ >{folder}/pid; sleep 100")))
            await asyncio.sleep(0)  # let it ask
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            os.kill(server.pid(), signal.SIGCONT)
            assert await server.spawn(shell("echo next")) == (0, "next\n")
            # What was started for nobody is gone when the context ends, or that would wait.

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))


def test_a_program_that_is_replaced(tmp_path: Path) -> None:
    """As by an upgrade: the version that was loaded does not run any more."""

    async def story() -> None:
        program = tmp_path / "program"
        shutil.copy("/bin/true", program)
        async with forks(str(program)) as server:
            assert await server.spawn([str(program)]) == (0, "")
            shutil.copy("/bin/false", tmp_path / "new")
            (tmp_path / "new").rename(program)
            assert await server.spawn([str(program)]) == (1, "")
            assert await server.server.begin()
            assert await server.spawn([str(program)]) == (1, "")

    asyncio.run(story())


def test_a_program_that_cannot_be_loaded(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho by a script\n")
    script.chmod(0o755)
    static = tmp_path / "static"
    subprocess.run(
        ["gcc", "-static", "-nostdlib", "-o", static, "-x", "c", "-"],
        input=b'void _start(void){__asm__("syscall" : : "a"(60), "D"(7));}',
        check=True,
    )

    async def story() -> None:
        for program, end, why in (
            (script, (0, "by a script\n"), "it is no ELF file"),
            (static, (7, ""), "it does not wait"),
        ):
            server = Forks(str(program))
            assert not await server.server.begin()
            assert await server.spawn([str(program)]) == end
            assert server.complaints == [f"{program} is loaded anew for each start: {why}"]
            await server.end()

    asyncio.run(story())


def test_it_ends_with_whoever_has_begun_it() -> None:
    """However that ends."""
    script = """
import asyncio, os, signal
from jitsu.host import forkserver
from jitsu.host.forkserver import ForkServer
async def main():
    server = ForkServer("/bin/sh", print)
    assert await server.begin()
    print(open("/proc/self/task/%d/children" % os.getpid()).read(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        (server,) = daemon.stdout.read().split()  # until nobody of them is left
        assert daemon.wait(PATIENCE) == -signal.SIGKILL
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int(server))
        assert select.select([pidfd], [], [], PATIENCE)[0] == [pidfd]
        os.close(pidfd)
