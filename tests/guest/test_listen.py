"""Which ports are opened, and in which order."""

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
