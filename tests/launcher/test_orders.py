"""What a launcher does with its order."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from jitsu.bench.demo import CLIENT
from jitsu.guest import LAUNCHER
from jitsu.guest.order import Order
from jitsu.host.netns import CLIENT_PORT, UPLINK, two_hosts

FRAME = bytes(12) + b"\x08\x06" + bytes(28)

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.mark.parametrize("killed", [False, True])
def test_an_order_of_a_daemon_that_has_gone_is_not_followed(tmp_path: Path, killed: bool) -> None:
    """Its end of the socket may be open yet: who is killed hangs up later than it goes."""
    done = tmp_path / "done"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with subprocess.Popen(["true"]) as other:
        daemon = other.pid if killed else os.getpid()
    with ours, theirs, two_hosts(CLIENT) as hosts, hosts.at(hosts.client):
        index = socket.if_nametoindex(CLIENT_PORT)
        program = ("/usr/bin/touch", str(done))
        order = Order(program, (), interface=UPLINK, link=index, announcement=FRAME)
        socket.send_fds(ours, [order.encode()], [hosts.host])
        command = [LAUNCHER, "--order", str(theirs.fileno()), "--daemon", str(daemon)]
        ended = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert done.exists() is not killed


@pytest.mark.parametrize(
    "order",
    [
        b"\xff",
        bytes(4),
        b"\xff\xff\xff\xff",
        Order((), ()).encode(),
        Order(("x",), ()).encode()[:-1],
    ],
    ids=["cut", "empty", "too long", "no program", "no end"],
)
def test_an_order_that_is_none(order: bytes) -> None:
    with open(os.devnull) as null:  # noqa: PTH123  (a descriptor is wanted)
        refused(order, null.fileno())


@pytest.mark.parametrize(
    "requests",
    [bytes(15), bytes(16), b"\x0f" + bytes(15), b"\x14" + bytes(15), b"\xff" * 4 + bytes(12)],
    ids=["cut", "of no length", "shorter than its header", "longer than it is", "far longer"],
)
def test_requests_that_are_none(requests: bytes) -> None:
    order = Order(("/bin/true",), (), settings=requests)
    with two_hosts(CLIENT) as hosts:
        refused(order.encode(), hosts.host)


def refused(order: bytes, network: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(ours, [order], [network])
        command = [LAUNCHER, "--order", str(theirs.fileno()), "--daemon", str(os.getpid())]
        ended = subprocess.run(
            command, pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=60
        )
    assert (ended.returncode, ended.stderr) == (1, "jitsu: the daemon's order: Invalid argument\n")
