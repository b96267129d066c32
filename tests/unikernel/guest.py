"""The guest's stack as a library: frames in, frames out, and a clock of ours."""

import ctypes
import fcntl
import subprocess
from collections.abc import Collection
from pathlib import Path

UNIKERNEL = Path(__file__).parents[2] / "unikernel"
LIBRARY = UNIKERNEL / "build" / "libjitsunet.so"
CMDLINE = "ip=10.77.0.10::10.77.0.1:255.255.255.0:www::off"
BOTH = f"{CMDLINE} ip6=fd77::10/64,fd77::1"
SECOND = 1_000_000_000
NEVER = 2**64 - 1
FRAME_MAX = 1514
MIB = 1 << 20
HEAP = 7 * MIB


def build(target: str) -> None:
    """Make it; one at a time, for tests run in several processes."""
    with (UNIKERNEL / "Makefile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "-C", str(UNIKERNEL), target], check=True)


def load(path: Path, missing: Collection[str] = ()) -> ctypes.CDLL:
    """Load the library and say what unikernel/platform/host/host.h says."""
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "host_new": (pointer, [ctypes.c_char_p, ctypes.c_uint64, size]),
        "host_free": (None, [pointer]),
        "host_run": (ctypes.c_uint64, [pointer, ctypes.c_uint64]),
        "host_give": (ctypes.c_bool, [pointer, ctypes.c_char_p, size]),
        "host_take": (size, [pointer, ctypes.c_char_p, size]),
        "host_status": (ctypes.c_int, [pointer]),
        "host_console": (size, [pointer, ctypes.c_char_p, size]),
        "host_touched": (size, [pointer]),
    }
    for name in signatures.keys() - missing:
        result, arguments = signatures[name]
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Guest:
    """One guest; `now` is in nanoseconds since it was started."""

    def __init__(
        self, library: ctypes.CDLL, cmdline: str = CMDLINE, seed: int = 1, heap: int = HEAP
    ) -> None:
        self._library = library
        self._handle = library.host_new(cmdline.encode(), seed, heap)
        self._buffer = ctypes.create_string_buffer(4096)
        self.deadline = 0

    def close(self) -> None:
        self._library.host_free(self._handle)
        self._handle = None

    def run(self, now: int) -> list[bytes]:
        """Let it run until it waits; what it sent meanwhile."""
        self.deadline = self._library.host_run(self._handle, now)
        frames = []
        while size := self._library.host_take(self._handle, self._buffer, FRAME_MAX):
            frames.append(self._buffer.raw[:size])
        return frames

    def give(self, frame: bytes) -> None:
        assert self._library.host_give(self._handle, frame, len(frame)), "the queue is full"

    @property
    def status(self) -> int | None:
        """What it exited with; None while it runs."""
        status = int(self._library.host_status(self._handle))
        return None if status < 0 else status

    @property
    def touched(self) -> int:
        """Bytes of its heap, in pages, that it has read or written so far."""
        return int(self._library.host_touched(self._handle))

    @property
    def console(self) -> str:
        size = self._library.host_console(self._handle, self._buffer, len(self._buffer))
        return self._buffer.raw[:size].decode()
