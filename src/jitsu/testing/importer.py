"""A simulated guest's half of the hand-over: what it writes to the store and reads there."""

import asyncio
from collections.abc import Callable

from jitsu.core.handoff import IMPORTED, PREPARED, conduit, word_of
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.store import DOM0
from jitsu.host.xenstored import Xenstored
from jitsu.model import Epoch, Service
from jitsu.wire import tcb
from jitsu.wire.tcb import Tcb
from jitsu.wire.xenstore import Message, Messages, Op, encode


class StoreSpeaker:
    """A client of a store in this process, whose requests are served at once."""

    def __init__(self, xenstored: Xenstored, actor: Actor) -> None:
        self._xenstored = xenstored
        self._messages = Messages()
        self._replies: list[Message] = []
        self._connection = xenstored.attach(self, actor)

    def send(self, connection: Connection) -> None:
        """Take replies."""
        self._replies += self._messages.feed(connection.take())

    def drop(self) -> None:
        """Nothing is kept."""

    def ask(self, op: Op, path: bytes, value: bytes = b"") -> bytes | None:
        """Return the answer to a request, or None where it is refused."""
        self._replies.clear()
        request = encode(Message(op, 1, 0, path + b"\0" + value))
        self._xenstored.receive(self._connection, request)
        replies = [each for each in self._replies if each.op == op]
        return replies[0].payload if replies else None

    def close(self) -> None:
        """Leave."""
        self._xenstored.detach(self._connection)


class Importer:
    """Takes over the connections of a service for a guest that has booted."""

    def __init__(
        self,
        xenstored: Xenstored,
        service: Service,
        adopt: Callable[[Tcb, bytes], None],
        lives: Callable[[], bool],
        pause: Callable[[], float],
    ) -> None:
        """`adopt` goes on with a connection, `lives` says whether the guest does."""
        self._top = conduit(service.name)
        self._adopt = adopt
        self._lives = lives
        self._pause = pause
        look = StoreSpeaker(xenstored, DOM0)
        domid = look.ask(Op.READ, self._top)
        epoch = look.ask(Op.READ, self._top + b"/epoch")
        look.close()
        self._speaker = StoreSpeaker(xenstored, Actor(int(domid or 0)))
        self._epoch = Epoch(int(epoch or 0))
        self._word = word_of(service.name, self._epoch)

    async def run(self) -> None:
        """Be prepared, wait for the commit, import; or die on the way."""
        try:
            self._speaker.ask(Op.WRITE, self._word, PREPARED)
            state = b"%b/handoff/%d" % (self._top, self._epoch)
            while self._speaker.ask(Op.READ, state) != b"committed":
                await asyncio.sleep(0.001)
                if not self._lives():
                    return
            for version in (b"4", b"6"):
                count = self._speaker.ask(Op.READ, self._top + b"/tcpv" + version)
                for number in range(int(count or 0)):
                    await asyncio.sleep(self._pause())
                    if not self._lives():
                        return
                    self._import(b"%b/tcpv%b/%d" % (self._top, version, number))
            self._speaker.ask(Op.WRITE, self._word, IMPORTED)
        finally:
            self._speaker.close()

    def _import(self, path: bytes) -> None:
        line = self._speaker.ask(Op.READ, path)
        assert line is not None, "what is committed is there"
        flow = tcb.decode(line)
        data = b""
        while len(data) < flow.rx:
            chunk = self._speaker.ask(Op.READ, b"%b/rx/%d" % (path, len(data) // 2048))
            assert chunk, "and so is all that was acknowledged"
            data += chunk
        assert len(data) == flow.rx
        self._adopt(flow, data)
