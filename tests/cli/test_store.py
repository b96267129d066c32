"""`jitsu store`, typed against a real daemon."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.store_client import Daemon, daemon
from jitsu.cli.store import parse_value, printable

Said = tuple[int, str, str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("store"), state=False) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(store: Daemon) -> None:
    with store.connect() as client:
        client.ask(13, b"/a\0")


def jitsu(store: Daemon, *arguments: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "jitsu", "store", *arguments],
        env=os.environ | {"XENSTORED_PATH": str(store.socket)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_session(store: Daemon) -> None:
    assert jitsu(store, "write", "/a/b", r"1\n\x00") == (0, "", "")
    assert jitsu(store, "read", "/a/b") == (0, "1\\n\\x00\n", "")
    assert jitsu(store, "read", "/a/b", "--raw") == (0, "1\n\0", "")
    assert (
        jitsu(store, "read", "/a/b", "--json")[1] == '{"path": "/a/b", "value": "1\\\\n\\\\x00"}\n'
    )
    assert jitsu(store, "perms", "/a", "n1", "r2", "c1") == (0, "", "")
    assert jitsu(store, "perms", "/a") == (0, "n1 r2 c1\n", "")
    assert jitsu(store, "ls", "/a", "-p")[1] == '/a = ""   (n1,r2,c1)\n/a/b = "1\\n\\x00"   (n0)\n'
    assert json.loads(jitsu(store, "ls", "/a", "--json")[1]) == [
        {"path": "/a", "value": ""},
        {"path": "/a/b", "value": "1\\n\\x00"},
    ]
    assert jitsu(store, "rm", "/a/b") == (0, "", "")
    assert jitsu(store, "ls", "/a")[1] == '/a = ""\n'


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("read", "/nothing"), 1, "jitsu: /nothing: there is no such node (ENOENT)\n"),
        (("rm", "/nothing"), 1, "jitsu: /nothing: there is no such node (ENOENT)\n"),
        (("ls", "/nothing"), 1, "jitsu: /nothing: there is no such node (ENOENT)\n"),
        (("read", "no path!"), 1, "(EINVAL)\n"),
        (("perms", "/", "x9"), 1, "(EINVAL)\n"),
        (("read", "/\udcff"), 1, "(EINVAL)\n"),  # a byte that is no text
        (("write", "/a", "x" * 5000), 1, "jitsu: /a: that is too long (E2BIG)\n"),
        (("read", "/a", "--socket", "/nowhere"), 1, "no XenStore answers at /nowhere"),
        (("read",), 2, "Missing argument"),
        (("paint",), 2, "No such command"),
    ],
)
def test_what_goes_wrong(
    store: Daemon, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    got, said, complaints = jitsu(store, *arguments)
    assert (got, said) == (code, "")
    assert complaint in complaints


def test_watching(store: Daemon) -> None:
    argv = [sys.executable, "-m", "jitsu", "store", "watch", "/a", "-n", "2"]
    argv += ["--socket", str(store.socket)]
    watching = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    with watching.stdout, store.connect() as client:
        assert watching.stdout.readline() == "/a\n"
        client.write(b"/a/b", b"1")
        assert watching.stdout.readline() == "/a/b\n"
    assert watching.wait(20) == 0


def test_the_daemon_is_found_by_its_folder(store: Daemon, tmp_path: Path) -> None:
    (tmp_path / "xenstored.sock").symlink_to(store.socket)
    assert jitsu(store, "write", "/a", "1", "--run", str(tmp_path)) == (0, "", "")
    assert jitsu(store, "read", "/a", "--run", str(tmp_path)) == (0, "1\n", "")


def test_an_argument_need_not_be_text(store: Daemon) -> None:
    assert jitsu(store, "write", "/a", "\udcff") == (0, "", "")
    assert jitsu(store, "read", "/a") == (0, "\\xff\n", "")


@given(st.binary())
def test_any_value_can_be_shown_and_typed(value: bytes) -> None:
    assert printable(value).isascii()
    assert printable(value).isprintable()
    assert parse_value(printable(value)) == value
