"""The launcher's parts as a library."""

import ctypes
import fcntl
import socket
import subprocess
from functools import cache
from pathlib import Path

from jitsu.wire import tcb
from jitsu.wire.tcb import Tcb

LAUNCHER = Path(__file__).parents[2] / "launcher"
_FLOW_BYTES = 1024
"""More than a struct flow."""


@cache
def library() -> ctypes.CDLL:
    """Make it, one at a time for tests run in several processes, and load it."""
    with (LAUNCHER / "Makefile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "-C", str(LAUNCHER), "library"], check=True)
    loaded = ctypes.CDLL(str(LAUNCHER / "build" / "liblauncher.so"), use_errno=True)
    loaded.flow_parse.restype = ctypes.c_char_p
    return loaded


def parse(line: bytes) -> tuple[ctypes.Array[ctypes.c_char], str | None]:
    """Return a connection, and what of it makes no sense."""
    flow = ctypes.create_string_buffer(_FLOW_BYTES)
    wrong = library().flow_parse(flow, ctypes.create_string_buffer(line))
    return flow, None if wrong is None else wrong.decode()


def adopt(connection: Tcb, received: bytes) -> socket.socket:
    """Return a socket that goes on with a connection. Raises OSError."""
    flow, wrong = parse(tcb.encode(connection))
    assert wrong is None
    fd = library().adopt(flow, received)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "adopt")
    return socket.socket(fileno=fd)
