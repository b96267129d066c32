"""The daemon itself: real clients, rude clients, sudden ends."""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pyxs

from host.store_client import Daemon, RawClient, daemon
from jitsu.wire.xenstore import HEADER, Message, Op, encode, join


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as running:
        yield running


# Clients that others have written.


def tool(store: Daemon, name: str, *arguments: str) -> str:
    if shutil.which(f"xenstore-{name}") is None:
        pytest.skip("Debian's xenstore-utils are not installed")
    environment = os.environ | {"XENSTORED_PATH": str(store.socket)}
    done = subprocess.run(
        [f"xenstore-{name}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout + done.stderr


def test_debians_tools(store: Daemon) -> None:
    assert tool(store, "write", "/a/b", "1", "/a/c", "2") == ""
    assert tool(store, "read", "/a/b") == "1\n"
    assert tool(store, "list", "/a") == "b\nc\n"
    assert tool(store, "ls", "-f", "/a") == '/a/b = "1"\n/a/c = "2"\n'
    assert tool(store, "chmod", "-r", "/a", "n3", "r4") == ""
    assert tool(store, "ls", "-fp", "/a") == '/a/b = "1"   (n3,r4)\n/a/c = "2"   (n3,r4)\n'
    assert tool(store, "rm", "/a/b") == ""
    assert tool(store, "exists", "/a/b") == ""
    assert "couldn't read path /a/b" in tool(store, "read", "/a/b")


def test_debians_tools_list_what_fits_no_message(store: Daemon) -> None:
    with store.connect() as client:
        names = [f"child-{i:04}-{'x' * 20}" for i in range(500)]
        for name in names:
            assert client.write(f"/many/{name}".encode(), b"") == b"OK\0"
    assert tool(store, "list", "/many").split() == names


def test_debians_watch(store: Daemon) -> None:
    if shutil.which("xenstore-watch") is None:
        pytest.skip("Debian's xenstore-utils are not installed")
    watcher = subprocess.Popen(
        ["xenstore-watch", "-n", "3", "/a"],
        env=os.environ | {"XENSTORED_PATH": str(store.socket)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    with watcher.stdout:
        assert watcher.stdout.readline() == "/a\n"  # the first event says that it watches
        tool(store, "write", "/a/b", "1")
        assert watcher.stdout.readline() == "/a/b\n"
        tool(store, "rm", "/a")
        assert watcher.stdout.readline() == "/a\n"
    assert watcher.wait(20) == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_pyxs(store: Daemon) -> None:
    with pyxs.Client(unix_socket_path=str(store.socket)) as client:
        client.write(b"/a/b", b"some value")
        assert client.read(b"/a/b") == b"some value"
        assert client.list(b"/a") == [b"b"]
        client.set_perms(b"/a", [b"n1", b"r2"])
        assert client.get_perms(b"/a") == [b"n1", b"r2"]
        assert client.get_domain_path(7) == b"/local/domain/7"
        client.transaction()
        client.write(b"/a/c", b"in")
        with pyxs.Client(unix_socket_path=str(store.socket)) as other:
            assert not other.exists(b"/a/c")
            client.commit()
            assert other.exists(b"/a/c")
        with pytest.raises(pyxs.PyXSError):
            client.read(b"/nothing")
        client.delete(b"/a")
        assert not client.exists(b"/a")


# Clients that do not know how to behave: they lose their connection, others see nothing.


def polite(store: Daemon) -> None:
    with store.connect() as client:
        assert client.write(b"/polite", b"yes") == b"OK\0"
        assert client.read(b"/polite") == b"yes"


def test_a_message_that_is_too_long(store: Daemon) -> None:
    with store.connect() as rude:
        rude.socket.sendall(HEADER.pack(Op.WRITE, 1, 0, 4097))
        assert rude.closed
    polite(store)


def test_who_never_reads_is_not_read(store: Daemon) -> None:
    with store.connect() as rude, store.connect() as other:
        assert other.write(b"/big", b"x" * 2000) == b"OK\0"
        request = HEADER.pack(Op.READ, 1, 0, 5) + join(b"/big")[:-1] + b"\0"
        rude.socket.settimeout(1.0)
        # Its requests are left unread, or, if they came all at once, it is dropped.
        with pytest.raises((TimeoutError, ConnectionError)):
            rude.socket.sendall(request * 1_000_000)
        polite(store)
        assert store.memory < 200 << 20


def test_who_asks_for_much_at_once_and_reads_gets_all_of_it(store: Daemon) -> None:
    """Its requests wait for its replies: a piece of 64 KB may ask for 13 MB."""
    count = 20_000
    with store.connect() as client:
        assert client.write(b"/a", b"x" * 4000) == b"OK\0"
        asking = threading.Thread(
            target=client.socket.sendall, args=(encode(Message(Op.READ, 1, 0, b"/a\0")) * count,)
        )
        asking.start()
        for _ in range(count):
            assert len(client.next().payload) == 4000
        asking.join()


def test_who_asks_for_much_at_once_lets_others_have_their_turn(store: Daemon) -> None:
    count = 4000
    with store.connect() as rude, store.connect() as other:
        assert other.write(b"/n", b"0") == b"OK\0"
        assert rude.read(b"/n") == b"0"  # the last to be served, it is the first in turn
        requests = [encode(Message(Op.WRITE, 1, 0, b"/n\0%d" % i)) for i in range(1, count + 1)]
        store.process.send_signal(signal.SIGSTOP)  # so that it finds both at the same time
        rude.socket.sendall(b"".join(requests))
        other.socket.sendall(encode(Message(Op.READ, 1, 0, b"/n\0")))
        store.process.send_signal(signal.SIGCONT)
        assert int(other.next().payload) < count
        assert all(rude.next().payload == b"OK\0" for _ in range(count))
        assert other.read(b"/n") == b"%d" % count


def test_who_never_reads_events_is_dropped(store: Daemon) -> None:
    with store.connect() as rude, store.connect() as other:
        for i in range(200):
            rude.socket.sendall(
                HEADER.pack(Op.WATCH, 1, 0, 2 + 1024) + b"/\0" + b"t%03d" % i * 255 + b"tok\0"
            )
        for i in range(300):
            assert other.write(b"/a", b"%d" % i) == b"OK\0"
        assert rude.closed
    polite(store)


@pytest.mark.slow
def test_ten_thousand_half_open_connections(store: Daemon) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 10_100:
        pytest.skip(f"this host allows {before[1]} descriptors a process")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        with ExitStack() as stack:
            for _ in range(10_000):
                half = stack.enter_context(socket.socket(socket.AF_UNIX))
                half.connect(str(store.socket))
                half.send(b"\x0b\0\0")
            polite(store)
            stack.enter_context(RawClient(store.socket)).read(b"/")
        polite(store)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_beyond_its_descriptors_it_drops_who_never_spoke(tmp_path: Path) -> None:
    with daemon(tmp_path, limit="prlimit --nofile=200:200") as store, ExitStack() as stack:
        spoken = stack.enter_context(store.connect())
        assert spoken.write(b"/a", b"1") == b"OK\0"
        for _ in range(400):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.connect(str(store.socket))
        polite(store)
        assert spoken.read(b"/a") == b"1"


def rounds(config: pytest.Config) -> Iterator[None]:
    """Go on for 300 rounds, or for as long as `--seconds` says."""
    if (seconds := config.getoption("--seconds")) is None:
        yield from [None] * 300
    else:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield


@pytest.mark.slow
def test_rubbish(store: Daemon, pytestconfig: pytest.Config) -> None:
    """Send thousands of requests of all kinds, each with something wrong in it, or not.

    `-s --seed 7 --seconds 300` does so for five minutes, and tells how many there were.
    """
    seed = pytestconfig.getoption("--seed") or 1
    chance = random.Random(seed)
    clients = requests = 0
    pieces = [
        b"/",
        b"/a",
        b"a/b",
        b"@introduceDomain",
        b"T",
        b"0",
        b"1",
        b"n0",
        b"r1",
        b"\0",
        b"c1",
    ]
    with store.connect() as watcher:
        assert watcher.ask(Op.WATCH, join(b"/safe", b"t")) == b"OK\0"
        for _ in rounds(pytestconfig):
            clients += 1
            with store.connect() as rude:
                for _ in range(20):
                    requests += 1
                    parts = [chance.choice(pieces) for _ in range(chance.randrange(5))]
                    payload = chance.choice([b"\0", b"", b"\0\0"]).join(parts)
                    payload += chance.choice([b"\0", b"", chance.randbytes(chance.randrange(50))])
                    length = chance.choice([len(payload)] * 9 + [chance.randrange(6000)])
                    op = chance.choice([chance.randrange(26), chance.randrange(1 << 32)])
                    head = HEADER.pack(op, 1, chance.choice([0, 0, 1, 77]), length)
                    try:
                        rude.socket.sendall(head + payload)
                    except ConnectionError:
                        break
        assert watcher.write(b"/safe", b"1") == b"OK\0", f"--seed {seed}"
        assert watcher.events[-1] == join(b"/safe", b"t")
        assert watcher.ask(Op.CONTROL, join(b"check")) == b"OK\n\0", f"--seed {seed}"
    sys.stdout.write(
        f"seed {seed}: {clients} clients, {requests} requests, {store.memory >> 20} MiB\n"
    )
    polite(store)
    assert store.process.poll() is None


# Its own ends.


def test_a_second_daemon_is_refused(store: Daemon, tmp_path: Path) -> None:
    other = Daemon(tmp_path, state=False)
    assert b"another store is served here" in other.first
    assert other.wait() == 1
    polite(store)


def test_a_second_daemon_with_the_same_state_is_refused(store: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "state").symlink_to(tmp_path / "state")
    other = Daemon(folder)
    assert b"state" in other.first
    assert other.wait() == 1
    polite(store)


def test_it_ends_in_order(store: Daemon, tmp_path: Path) -> None:
    assert store.stop() == 0
    assert not store.socket.exists()
    with daemon(tmp_path) as again:
        polite(again)


def test_without_state_it_forgets(tmp_path: Path) -> None:
    with daemon(tmp_path, state=False) as store, store.connect() as client:
        assert client.write(b"/a", b"1") == b"OK\0"
        store.kill()
    with daemon(tmp_path, state=False) as store, store.connect() as client:
        assert client.read(b"/a") == b"!ENOENT\0"


@pytest.mark.slow
@pytest.mark.parametrize("lives", range(4))
def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, lives: int) -> None:
    """Kill the daemon in a storm of writes; half of them change two nodes, or none."""
    acknowledged = [0] * 4

    def storm(store: Daemon, number: int, enough: threading.Event) -> None:
        pair = b"/storm/%d" % number
        try:
            with store.connect() as client:
                while True:
                    value = b"%d" % (acknowledged[number] + 1)
                    if number % 2:
                        transaction = client.start()
                        client.write(pair + b"/left", value, transaction)
                        client.write(pair + b"/right", value, transaction)
                        if client.end(transaction) != b"OK\0":
                            continue
                    else:
                        client.write(pair + b"/left", value)
                    acknowledged[number] += 1
                    if min(acknowledged) and acknowledged[number] > 200 + 100 * lives:
                        enough.set()
        except ConnectionError:
            pass

    with daemon(tmp_path) as store:
        enough = threading.Event()
        storms = [threading.Thread(target=storm, args=(store, n, enough)) for n in range(4)]
        for thread in storms:
            thread.start()
        assert enough.wait(60)
        store.kill()
        for thread in storms:
            thread.join()
    with daemon(tmp_path) as store, store.connect() as client:
        for number in range(4):
            left = int(client.read(b"/storm/%d/left" % number))
            # The last one may have been written down, and its reply lost.
            assert left - acknowledged[number] in (0, 1)
            if number % 2:
                assert int(client.read(b"/storm/%d/right" % number)) == left


def test_who_comes_back_after_a_kill_can_watch_again(tmp_path: Path) -> None:
    with daemon(tmp_path) as store, store.connect() as client:
        assert client.write(b"/a/b", b"1") == b"OK\0"
        store.kill()
        assert client.closed
    with daemon(tmp_path) as store, store.connect() as client, store.connect() as other:
        assert client.ask(Op.WATCH, join(b"/a", b"token")) == b"OK\0"
        assert client.next().payload == join(b"/a", b"token")
        assert other.write(b"/a/b", b"2") == b"OK\0"
        assert client.next().payload == join(b"/a/b", b"token")


def fill(client: RawClient) -> int:
    """Write until the daemon ends; return the number of the last write that it confirmed."""
    for i in range(10_000):
        try:
            assert client.write(b"/a/%d" % i, b"x" * 50) == b"OK\0"
        except ConnectionError:
            return i - 1
    raise AssertionError("it has never ended")


def test_what_cannot_be_written_down_is_not_acknowledged(tmp_path: Path) -> None:
    """The disk is full: the daemon ends, says why, and has kept all that it ever confirmed."""
    with daemon(tmp_path, limit="prlimit --fsize=20000") as store, store.connect() as client:
        last = fill(client)
        assert store.wait() == 1
        assert b"log.0" in store.last
    assert last > 100
    with daemon(tmp_path) as store, store.connect() as client:
        assert client.read(b"/a/%d" % last) == b"x" * 50
        assert client.read(b"/a/%d" % (last + 1)) == b"!ENOENT\0"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("log.0", b"something else entirely", b"not a store's"),
        ("snapshot.3", b"jitsu-xenstore-1\n" + b"\x01" * 64, b"not whole"),
    ],
)
def test_files_that_are_not_its_own(
    tmp_path: Path, name: str, content: bytes, complaint: bytes
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).write_bytes(content)
    store = Daemon(tmp_path)
    assert complaint in store.first
    assert store.wait() == 1
    assert (tmp_path / "state" / name).read_bytes() == content
