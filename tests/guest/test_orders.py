"""What a launcher does with its order."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jitsu.guest.order import Order

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.mark.parametrize("killed", [False, True])
def test_an_order_of_a_daemon_that_has_gone_is_not_followed(tmp_path: Path, killed: bool) -> None:
    """Its end of the socket may be open yet: who is killed hangs up later than it goes."""
    done = tmp_path / "done"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    order = Order(["/usr/bin/touch", str(done)], [], interface="lo", handoff="")
    with subprocess.Popen(["true"]) as other:
        daemon = other.pid if killed else os.getpid()
    try:
        with ours, theirs:
            socket.send_fds(ours, [order.encode()], [network])
            command = [sys.executable, "-I", "-m", "jitsu.guest", "--order", str(theirs.fileno())]
            command += ["--daemon", str(daemon)]
            ended = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True)
    finally:
        os.close(network)
    assert ended.returncode == 0, ended.stderr
    assert done.exists() is not killed
