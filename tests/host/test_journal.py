"""The files of a store, and every moment in which they may be left."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import Persist
from jitsu.core.xenstore.tree import walk
from jitsu.errors import HostError
from jitsu.host import journal
from jitsu.host.journal import Journal, recover
from jitsu.wire.xenstore import Message, Op, encode, join


def write(server: Server, log: Journal, path: bytes, value: bytes) -> None:
    client = server.connect()
    request = encode(Message(Op.WRITE, 1, 0, join(path) + value))
    for effect in server.receive(client, request, now=0.0):
        if isinstance(effect, Persist):
            log.append(effect.record)


def nodes(recovered: Recovered) -> dict[bytes, bytes]:
    return {path: node.value for path, node in walk(recovered.root, b"/")}


def held(folder: Path) -> dict[bytes, bytes]:
    """Return what a daemon that starts now would find, and leave the folder as it is."""
    copy = folder.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    log, recovered = recover(copy)
    log.close()
    return nodes(recovered)


def test_a_log_cut_short_anywhere_keeps_what_is_whole(tmp_path: Path) -> None:
    log, recovered = recover(tmp_path / "state")
    server = Server(recovered)
    ends = {}
    path = tmp_path / "state" / "log.0"
    for i in range(5):
        write(server, log, b"/a", b"%d" % i)
        ends[path.stat().st_size] = b"%d" % i
    log.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = [value for end, value in ends.items() if end <= cut]
        assert held(tmp_path / "state").get(b"/a") == (kept[-1] if kept else None)


def test_it_goes_on_after_a_record_that_was_cut_short(tmp_path: Path) -> None:
    log, recovered = recover(tmp_path / "state")
    server = Server(recovered)
    write(server, log, b"/a", b"1")
    write(server, log, b"/b", b"2")
    log.close()
    path = tmp_path / "state" / "log.0"
    path.write_bytes(path.read_bytes()[:-3])
    log, recovered = recover(tmp_path / "state")
    write(Server(recovered), log, b"/c", b"3")
    log.close()
    assert held(tmp_path / "state") == {b"/": b"", b"/a": b"1", b"/c": b"3"}


def test_a_damaged_record_that_others_follow_is_not_passed_over(tmp_path: Path) -> None:
    log, recovered = recover(tmp_path / "state")
    server = Server(recovered)
    for i in range(3):
        write(server, log, b"/a", b"%d" % i)
    log.close()
    path = tmp_path / "state" / "log.0"
    data = bytearray(path.read_bytes())
    data[len(journal.MAGIC) + 12] ^= 1
    path.write_bytes(data)
    with pytest.raises(HostError, match=r"log\.0: the record at byte 0 is damaged"):
        recover(tmp_path / "state")
    assert path.read_bytes() == data


def test_each_moment_of_a_snapshot_is_a_good_one_to_die_in(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    log, recovered = recover(folder, log_min=1)
    server = Server(recovered)
    for i in range(1000):
        write(server, log, b"/a/%d" % i, b"before")
    assert log.overgrown
    steps, expected = 0, {}
    for _ in log.compact(server.snapshot()):
        write(server, log, b"/during/%d" % steps, b"x")
        write(server, log, b"/a/%d" % steps, b"after")
        steps += 1
        expected = {path: node.value for path, node in walk(server.store.root, b"/")}
        assert held(folder) == expected
    log.close()
    assert steps > 3
    assert held(folder) == expected
    assert sorted(path.name for path in folder.iterdir()) == ["log.1", "snapshot.1"]


def test_a_snapshot_is_not_made_for_every_small_log(tmp_path: Path) -> None:
    log, recovered = recover(tmp_path / "state")
    server = Server(recovered)
    for i in range(100):
        write(server, log, b"/a", b"%d" % i)
    assert not log.overgrown
    log.close()


def test_a_log_that_cannot_be_begun_leaves_the_one_before(tmp_path: Path) -> None:
    """A full disk takes not even the first bytes of the next one."""
    folder = tmp_path / "state"
    log, recovered = recover(folder, log_min=1)
    server = Server(recovered)
    write(server, log, b"/a", b"1")
    next_ = folder / "log.1"
    next_.symlink_to("/dev/full")
    with pytest.raises(HostError, match=r"log\.1: No space left"):
        next(log.compact(server.snapshot()))
    assert not next_.is_symlink()
    assert not log.overgrown, "it is not tried again with each commit"
    assert server.store.snapshots == 0
    write(server, log, b"/b", b"2")
    assert held(folder) == {b"/": b"", b"/a": b"1", b"/b": b"2"}
    for _ in log.compact(server.snapshot()):
        pass
    write(server, log, b"/c", b"3")
    log.close()
    assert held(folder) == {b"/": b"", b"/a": b"1", b"/b": b"2", b"/c": b"3"}
    assert sorted(path.name for path in folder.iterdir()) == ["log.1", "snapshot.1"]


def test_a_snapshot_that_finds_no_room_leaves_what_it_took(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    log, recovered = recover(folder)
    server = Server(recovered)
    write(server, log, b"/a", b"1")

    def records() -> Iterator[bytes]:
        yield from server.snapshot()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HostError, match=r"snapshot\.new: No space left"):
        list(log.compact(records()))
    write(server, log, b"/b", b"2")
    log.close()
    assert sorted(path.name for path in folder.iterdir()) == ["log.0", "log.1"]
    assert held(folder) == {b"/": b"", b"/a": b"1", b"/b": b"2"}


def test_its_files_are_their_owners_alone(tmp_path: Path) -> None:
    log, recovered = recover(tmp_path / "state")
    for _ in log.compact(Server(recovered).snapshot()):
        pass
    log.close()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}


def compacted(folder: Path) -> None:
    """Leave a snapshot, and a log that goes on from it."""
    log, recovered = recover(folder)
    server = Server(recovered)
    write(server, log, b"/before", b"")
    for _ in log.compact(server.snapshot()):
        pass
    write(server, log, b"/after", b"")
    log.close()


def test_a_snapshot_that_is_not_whole_is_not_passed_over(tmp_path: Path) -> None:
    """It was whole when it got its name: to begin without it would be to forget it."""
    folder = tmp_path / "state"
    compacted(folder)
    path = folder / "snapshot.1"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(HostError, match=r"snapshot\.1 is not whole"):
        recover(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["log.1", "snapshot.1"]


@pytest.mark.parametrize("name", ["snapshot.1", "log.1"])
def test_a_file_that_is_missing_is_missed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "state"
    compacted(folder)
    (folder / name).unlink()
    with pytest.raises(HostError, match=r"log\.[01] is missing"):
        recover(folder)


def test_an_older_snapshot_will_do_if_all_since_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    log, recovered = recover(folder)
    write(Server(recovered), log, b"/before", b"")
    log.close()
    older = (folder / "log.0").read_bytes()
    compacted(folder)
    (folder / "log.0").write_bytes(older)
    path = folder / "snapshot.1"
    path.write_bytes(path.read_bytes()[:-10])
    assert held(folder) == {b"/": b"", b"/before": b"", b"/after": b""}
