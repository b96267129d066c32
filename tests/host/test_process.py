"""Real child processes: what they get of us, what we get of them, and that they end."""

import asyncio
import fcntl
import gc
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from jitsu.errors import HostError
from jitsu.host.process import CONSOLE_BYTES_MAX, Child, Console, Leftovers, spawn, spawn_raw

PATIENCE = 10.0
FLOOD = 4 * CONSOLE_BYTES_MAX
PYTHON = (sys.executable, "-S", "-E")


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (counts its own as well, each time)


def children() -> set[str]:
    """Return the processes that we have started and not yet taken leave of (proc(5))."""
    found: set[str] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends just now
            found.update(task.read_text().split())
    return found


@contextmanager
def nothing_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


async def ended(child: Child) -> int:
    async with asyncio.timeout(PATIENCE):
        return await child.exited


def run(argv: list[str], fds: dict[int, int] | None = None) -> tuple[int, str]:
    """Run a child to its end and return its exit code and its console."""

    async def main() -> tuple[int, str]:
        console = Console()
        code = await ended(spawn(argv, fds or {}, console))
        return code, console.text()

    return asyncio.run(main())


# The console.


def test_a_console_keeps_what_is_new() -> None:
    console = Console()
    assert (console.text(), console.last_line()) == ("", "")
    for i in range(3000):
        console.write(f"{i:0100}\n".encode())
    text = console.text()
    assert len(text) == CONSOLE_BYTES_MAX
    assert text.endswith(f"{2998:0100}\n{2999:0100}\n")
    assert console.last_line() == f"{2999:0100}"


def test_a_console_at_its_limit() -> None:
    console = Console()
    console.write(b"a" * CONSOLE_BYTES_MAX)
    assert console.text() == "a" * CONSOLE_BYTES_MAX
    console.write(b"b")
    assert console.text() == "a" * (CONSOLE_BYTES_MAX - 1) + "b"
    console.write(b"c" * (3 * CONSOLE_BYTES_MAX))
    assert console.text() == "c" * CONSOLE_BYTES_MAX


def test_a_console_shows_nothing_that_a_terminal_would_obey() -> None:
    console = Console()
    console.write(b"\x1b[2J\x07caf\xc3")
    console.write(b"\xa9\xff\ttab\n\r\n  \n")
    text = console.text()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "caf\xe9\N{REPLACEMENT CHARACTER}\ttab\n" in text
    assert console.last_line().endswith("tab")


def test_a_console_since() -> None:
    """What a guest has said is told from what the one before has."""
    console = Console()
    assert console.last_line(console.written) == ""
    console.write(b"jitsu: exit 3\n")
    since = console.written
    assert console.last_line(since) == ""
    console.write(b"hello\n")
    assert (console.text(since), console.last_line(since)) == ("hello\n", "hello")
    assert console.last_line(0) == "hello"
    console.write(b"a" * (2 * CONSOLE_BYTES_MAX))
    assert console.text(since) == console.text() == "a" * CONSOLE_BYTES_MAX


def test_any_bytes_on_a_console() -> None:
    console = Console()
    chance = Random(1)
    for _ in range(20):
        console.write(chance.randbytes(chance.randrange(2 * CONSOLE_BYTES_MAX // 10)))
        console.last_line()
    assert len(console.text()) <= CONSOLE_BYTES_MAX


# What a child gets of us.


def test_output_and_exit_code() -> None:
    with nothing_leaks():
        assert run(shell("echo out; echo err >&2; exit 7")) == (7, "out\nerr\n")


def test_a_signal() -> None:
    async def main() -> None:
        child = spawn(shell("kill -STOP $$"), {}, Console())
        assert repr(child) == f"<Child {child.pid}>"
        child.signal(signal.SIGKILL)
        assert await ended(child) == -signal.SIGKILL
        assert repr(child) == f"<Child {child.pid} exited>"
        child.signal(signal.SIGKILL)  # reaches nobody

    with nothing_leaks():
        asyncio.run(main())


def test_a_child_inherits_nothing_else() -> None:
    """See what the kernel says it has. What pytest itself was given to inherit does not count."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (descriptors are no paths)
        with suppress(OSError):
            os.set_inheritable(int(name), int(name) < 3)
    script = "import os\nfor n in sorted(map(int, os.listdir('/proc/self/fd'))):\n"
    script += " try: print(n, os.readlink(f'/proc/self/fd/{n}').partition(':')[0])\n"
    script += " except OSError: pass  # of the listing itself\n"
    with open("/dev/zero", "rb") as ours, nothing_leaks():  # noqa: PTH123
        expected = "0 /dev/null\n1 pipe\n2 pipe\n4 /dev/zero\n"
        assert run([*PYTHON, "-c", script], {4: ours.fileno()}) == (0, expected)


def numbered(at: int, text: str) -> int:
    """Return a pipe's end on the descriptor `at`, from which `text` can be read."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    assert fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, at) == at
    os.close(reading)
    return at


@pytest.mark.parametrize(
    ("third", "fourth"),
    [(150, 151), (151, 150), (104, 103), (103, 104), (100, 102), (101, 100), (105, 107)],
)
def test_descriptors_reach_their_numbers(third: int, fourth: int) -> None:
    """Wherever they come from: a daemon that has many open is given any numbers."""
    with nothing_leaks(), ExitStack() as stack:
        for at, text in ((third, "third"), (fourth, "fourth")):
            stack.callback(os.close, numbered(at, text))
        assert run(shell("cat <&3; echo; cat <&4"), {3: third, 4: fourth}) == (0, "third\nfourth")


def test_descriptors_that_change_places() -> None:
    reading, writing = os.pipe()
    script = f"import os; os.write({reading}, os.read({writing}, 9)[::-1])"
    with open(reading, "rb", 0) as ours, open(writing, "wb", 0) as theirs:  # noqa: PTH123
        theirs.write(b"the world")
        fds = {reading: writing, writing: reading}
        assert run([*PYTHON, "-c", script], fds) == (0, "")
        assert ours.read(9) == b"dlrow eht"


def test_a_binary_that_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(HostError) as caught:
                spawn([f"{tmp_path}/qemu"], {}, Console())
            assert str(caught.value) == f"{tmp_path}/qemu: No such file or directory"
        with pytest.raises(HostError, match="Permission denied"):
            spawn([str(tmp_path)], {}, Console())

    with nothing_leaks():
        asyncio.run(main())


def test_a_descriptor_that_is_closed() -> None:
    async def main() -> None:
        with pytest.raises(HostError, match="Bad file descriptor"):
            spawn(shell("true"), {3: 999}, Console())

    with nothing_leaks():
        asyncio.run(main())


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Be able to open so many descriptors and no more."""
    used = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
    free = (number for number in itertools.count() if number not in used)
    limit = next(itertools.islice(free, count, None))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_descriptors_nothing_is_left() -> None:
    """Wherever they run out on the way."""

    async def main(count: int) -> bool:
        before = descriptors()
        try:
            with descriptors_left(count):
                child = spawn(shell("exit 7"), {}, Console())
        except HostError:
            assert descriptors() == before
            return False
        assert await ended(child) == 7
        return True

    others = children()
    worked = [asyncio.run(main(count)) for count in range(12)]
    assert children() <= others
    assert worked == sorted(worked)
    assert set(worked) == {False, True}


def test_a_child_has_no_terminal_and_no_environment_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "secret")
    code, text = run(shell("env; read x || echo nothing to read; ps -o pgid= -p $$; echo $$"))
    assert code == 0
    assert "SECRET" not in text
    assert "nothing to read" in text
    group, pid = text.split()[-2:]
    assert group == pid


def test_without_a_console() -> None:
    with nothing_leaks():
        pid = spawn_raw(shell("echo to nobody; exit 3"), {}, None)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 3


# What we get of a child.


def test_a_child_that_closes_its_output_still_runs() -> None:
    async def main() -> None:
        console = Console()
        script = "echo last words; exec >&- 2>&-; echo closed >&3; read x <&3"
        with ours, theirs:
            child = spawn(shell(script), {3: theirs.fileno()}, console)
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.get_running_loop().sock_recv(ours, 100) == b"closed\n"
            assert not child.exited.done()
            ours.send(b"go\n")
            assert await ended(child) == 0
        assert console.text() == "last words\n"

    with nothing_leaks():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        asyncio.run(main())


def test_a_flood_is_slowed_and_forgotten() -> None:
    """A guest that writes a lot costs no memory; it is made to wait."""

    async def main() -> tuple[float, int]:
        console = Console()
        began, before = time.monotonic(), resident()
        child = spawn(shell(f"head -c {FLOOD} /dev/zero"), {}, console)
        assert await ended(child) == 0
        assert len(console.text()) == CONSOLE_BYTES_MAX
        return time.monotonic() - began, resident() - before

    with nothing_leaks():
        took, grown = asyncio.run(main())
    # What the pipe holds and what was read last are waited for by nobody.
    assert took >= (FLOOD - 2 * CONSOLE_BYTES_MAX) / (256 << 10)
    assert grown < 4 << 20


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_last_words_of_a_child_are_kept_though_it_was_slowed() -> None:
    code, text = run(shell("head -c 70000 /dev/zero | tr '\\0' x; echo; echo out of memory"))
    assert code == 0
    assert text.endswith("x\nout of memory\n")


# What an earlier daemon has left.


@contextmanager
def bystander(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with us, at the latest, and has `words` in its command line."""
    command = [*shell("read something"), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        try:
            # The kernel says that it runs the program a moment before it shows its words.
            deadline = time.monotonic() + PATIENCE
            while not Path(f"/proc/{child.pid}/cmdline").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.001)
            yield child
        finally:
            child.kill()


def test_what_is_left_is_ended(tmp_path: Path) -> None:
    said: list[str] = []
    name = Leftovers(tmp_path / "a,b", pytest.fail).name_of("www")
    assert name == f"jitsu-www@{tmp_path}/a,,b"  # a comma of a QEMU option's value
    with bystander("-name", name) as left, bystander() as other, nothing_leaks():
        Leftovers(tmp_path / "a,b", said.append).end()
        assert said == [f"www: killed process {left.pid} of an earlier daemon"]
        assert left.wait(PATIENCE) == -signal.SIGKILL
        assert other.poll() is None


def test_a_folder_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be relative, or a link to the folder that the earlier daemon knew."""
    (tmp_path / "link").symlink_to(tmp_path / "run")
    earlier = Leftovers(tmp_path / "run", pytest.fail)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with bystander("-name", earlier.name_of("www")) as left:
        Leftovers(Path("link"), said.append).end()
        assert left.wait(PATIENCE) == -signal.SIGKILL
    assert len(said) == 1


@pytest.mark.parametrize(
    "words",
    [
        "-f jitsu-www@{run}",
        "-name jitsu-www@{run}/more",
        "-name www@{run}",
        "-name jitsu-www",
        "-name",
    ],
)
def test_somebody_elses_process(tmp_path: Path, words: str) -> None:
    """One that is about a guest of ours, or a guest of another daemon."""
    with bystander(*words.format(run=tmp_path).split()) as other:
        Leftovers(tmp_path, pytest.fail).end()
        assert other.poll() is None
