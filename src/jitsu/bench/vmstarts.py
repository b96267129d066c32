"""Many VMs started at once, as a XenStore sees it: `python -m jitsu.bench.vmstarts SOCKET N`.

Each VM has a connection and four transactions of 48 requests in all: what a toolstack writes to
create a domain with one network interface and a console, and to remove it. All are begun at once;
one that ends with EAGAIN is begun again. Prints seconds, requests and EAGAINs as JSON.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

from jitsu.wire.xenstore import HEADER, HEADER_BYTES, Op

Request = tuple[Op, bytes]
FIRST_DOMID = 1000
PATIENCE = 240.0


@dataclass
class Count:
    """What all clients together have done."""

    requests: int = 0
    eagain: int = 0


def create(domid: int) -> Iterator[Request]:
    """Yield what makes a domain known."""
    home, vm = b"/local/domain/%d" % domid, b"/vm/%d" % domid
    for path in (home, vm, home + b"/device", home + b"/control", home + b"/data"):
        yield from _folder(path, domid)
    yield from _writes(
        (home + b"/name", b"vm%d" % domid),
        (home + b"/domid", b"%d" % domid),
        (home + b"/vm", vm),
        (vm + b"/name", b"vm"),
        (home + b"/memory/target", b"16384"),
        (home + b"/cpu/0/availability", b"online"),
        (home + b"/store/port", b"1"),
        (home + b"/store/ring-ref", b"2"),
    )


def plug(domid: int) -> Iterator[Request]:
    """Yield what gives it a network interface."""
    back = b"/local/domain/0/backend/vif/%d/0" % domid
    front = b"/local/domain/%d/device/vif/0" % domid
    for path in (back, front):
        yield from _folder(path, domid)
    yield from _writes(
        (back + b"/frontend", front),
        (back + b"/frontend-id", b"%d" % domid),
        (back + b"/state", b"1"),
        (back + b"/mac", b"00:16:3e:0:0:1"),
        (back + b"/bridge", b"br0"),
        (back + b"/handle", b"0"),
        (front + b"/backend", back),
        (front + b"/backend-id", b"0"),
        (front + b"/state", b"1"),
        (front + b"/handle", b"0"),
        (front + b"/mac", b"00:16:3e:0:0:1"),
    )


def console(domid: int) -> Iterator[Request]:
    """Yield what gives it a console."""
    console = b"/local/domain/%d/console" % domid
    yield from _writes(
        (console + b"/type", b"xenconsoled"),
        (console + b"/port", b"2"),
        (console + b"/ring-ref", b"3"),
        (console + b"/limit", b"65536"),
    )


def remove(domid: int) -> Iterator[Request]:
    """Yield what removes all of it."""
    for path in (
        b"/local/domain/%d" % domid,
        b"/vm/%d" % domid,
        b"/local/domain/0/backend/vif/%d" % domid,
    ):
        yield Op.RM, path + b"\0"


def _folder(path: bytes, domid: int) -> Iterator[Request]:
    yield Op.MKDIR, path + b"\0"
    yield Op.SET_PERMS, path + b"\0n0\0r%d\0" % domid


def _writes(*pairs: tuple[bytes, bytes]) -> Iterator[Request]:
    for path, value in pairs:
        yield Op.WRITE, path + b"\0" + value


class _Client:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Count
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.count = count

    async def ask(self, op: Op, payload: bytes, transaction: int = 0) -> tuple[int, bytes]:
        self.writer.write(HEADER.pack(op, 1, transaction, len(payload)) + payload)
        self.count.requests += 1
        kind, _, _, length = HEADER.unpack(await self.reader.readexactly(HEADER_BYTES))
        return kind, await self.reader.readexactly(length)

    async def atomically(self, requests: list[Request]) -> None:
        while True:
            _, number = await self.ask(Op.TRANSACTION_START, b"\0")
            transaction = int(number[:-1])
            for op, payload in requests:
                await self.ask(op, payload, transaction)
            kind, reply = await self.ask(Op.TRANSACTION_END, b"T\0", transaction)
            if kind != Op.ERROR:
                return
            if reply != b"EAGAIN\0":
                raise SystemExit(f"the store refused a transaction: {reply!r}")
            self.count.eagain += 1


async def _start(connected: socket.socket, domid: int, count: Count) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connected)
    client = _Client(reader, writer, count)
    for work in (create, plug, console, remove):
        await client.atomically(list(work(domid)))
    writer.close()


async def run(path: str, machines: int) -> dict[str, float]:
    """Start so many machines at once."""
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(machines)]
    for connected in sockets:  # one by one: Xen's daemons listen with a backlog of 1
        connected.connect(path)
        connected.setblocking(False)
    count = Count()
    begun = time.perf_counter()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(_start(s, FIRST_DOMID + i, count) for i, s in enumerate(sockets)))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "requests": count.requests, "eagain": count.eagain}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(run(sys.argv[1], int(sys.argv[2])))) + "\n")
