"""One daemon a folder and a bridge, with a real one that is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jitsu.errors import HostError
from jitsu.host.lock import only_daemon, only_daemon_on

HOLD = """
import sys
from pathlib import Path
from jitsu.host.lock import only_daemon
with only_daemon(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_folder_is_made_and_says_who_holds_it(tmp_path: Path) -> None:
    run = tmp_path / "run" / "jitsu"
    with only_daemon(run):
        assert (run / "pid").read_text() == f"{os.getpid()}\n"
    assert (run / "pid").read_text() == ""


def test_a_second_is_refused(tmp_path: Path) -> None:
    with only_daemon(tmp_path):
        with pytest.raises(HostError) as caught, only_daemon(tmp_path):
            pytest.fail("two daemons hold one folder")
        what = f"a daemon (process {os.getpid()}) serves from here; stop it"
        hint = "a second one needs a [host] run, state, [network] bridge and subnet of its own"
        assert str(caught.value) == f"{tmp_path}: {what}, or: {hint}"
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    with only_daemon(tmp_path):
        pass


def test_the_hold_of_a_killed_daemon_ends_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"held\n"
        with pytest.raises(HostError, match=f"process {daemon.pid}"), only_daemon(tmp_path):
            pytest.fail("two daemons hold one folder")
        daemon.kill()
        daemon.wait()
    assert (tmp_path / "pid").read_text() == f"{daemon.pid}\n"
    with only_daemon(tmp_path):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    with pytest.raises(HostError) as caught, only_daemon(run):
        pytest.fail("it was made")
    assert str(caught.value) == f"{run}: Not a directory; set [host] run to another folder"


def test_an_error_inside_lets_it_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_daemon(tmp_path):
        raise ZeroDivisionError
    assert (tmp_path / "pid").read_text() == "", "and nobody is said to hold it"
    with only_daemon(tmp_path):
        pass


def test_a_bridge_is_one_daemons() -> None:
    with only_daemon_on("tcfg7"), only_daemon_on("tcfg8"):
        with pytest.raises(HostError) as caught, only_daemon_on("tcfg7"):
            pytest.fail("two daemons hold one bridge")
        what = "another daemon, with another [host] run, serves on it; stop that one"
        hint = "or set [network] bridge and subnet to others"
        assert str(caught.value) == f"bridge tcfg7: {what}, {hint}"
    with only_daemon_on("tcfg7"):
        pass
