"""A launcher that is given its orders by hand."""

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_port_that_is_probed_is_opened_last(at: int) -> None:
    """Somebody else listens on all of them: the first that is tried is the one to fail."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in taken]
        command = [sys.executable, "-m", "jitsu.guest", "--handoff", "", f"--probed={ports[at]}"]
        command += [*(f"--listen={port}" for port in ports), "--", "/bin/true"]
        done = subprocess.run(command, capture_output=True, text=True)
    first = next(port for port in ports if port != ports[at])
    assert f"cannot listen on port {first}:" in done.stderr


def by_hand(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jitsu.guest", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_the_server_finds() -> None:
    done = by_hand("--handoff", "", "--listen", "0", "--listen", "0", "/usr/bin/env")
    told = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (told["LISTEN_FDS"], told["LISTEN_FDNAMES"]) == ("2", "listen:listen")
    assert int(told["LISTEN_PID"]) > 1
    nothing = by_hand("--handoff", "", "--", "/usr/bin/env")
    assert "LISTEN" not in nothing.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no server is named"),
        (("/nowhere/server",), "/nowhere/server: No such file or directory"),
        (("--listen", "www", "server"), "www is no number up to 65535"),
        (("--listen", "65536", "server"), "65536 is no number up to 65535"),
        (("--handoff", "www", "server"), "www is no service/epoch"),
        (("--handoff", "www/", "server"), "www/ is no service/epoch"),
        (("--handoff", "www/7x", "server"), "www/7x is no service/epoch"),
        (("--handoff", f"{'w' * 64}/7", "server"), f"{'w' * 64}/7 is no service/epoch"),
        (("--handoff", "www/7", "--interface", "nope0", "/bin/true"), "nope0: No such device"),
        (("--user", "not there", "server"), "there is no user not there"),
    ],
)
def test_words_that_make_no_sense(words: tuple[str, ...], said: str) -> None:
    done = by_hand(*words)
    assert (done.returncode, done.stderr) == (1, f"jitsu: {said}\n")


def test_an_option_that_nobody_knows() -> None:
    done = by_hand("--daemonize")
    assert done.returncode == 2
    assert "usage: launcher" in done.stderr
