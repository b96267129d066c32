"""A XenStore client that can also misbehave: a raw, blocking socket; and the daemon itself."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitsu.wire.xenstore import HEADER_BYTES, Message, Messages, Op, encode, join

PATIENCE = 20.0


class Daemon:
    """`jitsu xenstored` in a process of its own."""

    def __init__(self, folder: Path, state: bool = True, limit: str = "") -> None:
        self.socket = folder / "socket"
        argv = [sys.executable, "-m", "jitsu", "xenstored", "--socket", str(self.socket)]
        argv += ["--state", str(folder / "state")] if state else []
        self.process = subprocess.Popen(
            [*limit.split(), *argv], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline()  # it says that it serves, or why not
        self.last = b""
        self._reader = threading.Thread(target=self._read)  # else its log would be full one day
        self._reader.start()

    def connect(self) -> "RawClient":
        return RawClient(self.socket)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self.last += line

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def daemon(folder: Path, **how: object) -> Iterator[Daemon]:
    running = Daemon(folder, **how)  # type: ignore[arg-type]
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
        running.wait()


class RawClient:
    """One connection; every call waits for its reply."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))  # waits for its turn; with a timeout it would fail
        self.socket.settimeout(PATIENCE)
        self.messages = Messages()
        self.events: list[bytes] = []

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, op: int, payload: bytes, transaction: int = 0) -> bytes:
        """Return the reply's payload; of an error, `!` and its name."""
        self.socket.sendall(encode(Message(op, 1, transaction, payload)))
        while True:
            message = self.next()
            if message.op == Op.WATCH_EVENT:
                self.events.append(message.payload)
            else:
                return (b"!" if message.op == Op.ERROR else b"") + message.payload

    def next(self) -> Message:
        while True:
            head = self._exactly(HEADER_BYTES)
            length = int.from_bytes(head[12:16], "little")
            (message,) = self.messages.feed(head + self._exactly(length))
            return message

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data

    def write(self, path: bytes, value: bytes, transaction: int = 0) -> bytes:
        return self.ask(Op.WRITE, join(path) + value, transaction)

    def read(self, path: bytes) -> bytes:
        return self.ask(Op.READ, join(path))

    def start(self) -> int:
        return int(self.ask(Op.TRANSACTION_START, b"\0")[:-1])

    def end(self, transaction: int) -> bytes:
        return self.ask(Op.TRANSACTION_END, join(b"T"), transaction)

    @property
    def closed(self) -> bool:
        """Whether the daemon has hung up; whatever else it has sent is thrown away."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionError:
            pass
        return True
