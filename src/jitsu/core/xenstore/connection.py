"""One client of the store, as the server sees it."""

from collections import deque

from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.path import home_of
from jitsu.core.xenstore.quota import GUEST, PRIVILEGED
from jitsu.core.xenstore.transaction import Transaction
from jitsu.core.xenstore.watch import Watch
from jitsu.wire.xenstore import HEADER, PAYLOAD_MAX, Message, Messages, Op


class Connection:
    """A stream of requests, and what its client has open."""

    __slots__ = (
        "actor",
        "closed",
        "former",
        "home",
        "lasting",
        "messages",
        "number",
        "out",
        "pending",
        "queued",
        "quota",
        "serial",
        "transactions",
        "waiting",
        "watches",
    )

    def __init__(self, number: int, actor: Actor, lasting: bool = False) -> None:
        self.number = number
        self.actor = actor
        self.lasting = lasting
        """It is a ring, which outlives the daemon: so do its watches."""
        self.home = home_of(actor.domid)
        self.quota = PRIVILEGED if actor.privileged else GUEST
        self.messages = Messages()
        self.out: list[bytes] = []
        self.pending = 0
        """Bytes in `out`."""
        self.queued = 0
        """Bytes that its transport holds, for the client has not taken them; the host says so."""
        self.serial = 0
        self.former = 0
        """Transactions up to this number may be open with a daemon that was killed."""
        self.transactions: dict[int, Transaction] = {}
        self.watches: dict[tuple[bytes, bytes], Watch] = {}
        self.waiting: deque[Message] = deque()
        """Requests of a domain that is held up."""
        self.closed = False

    def __repr__(self) -> str:
        """Say who it is and what it has open."""
        has = f"{len(self.watches)} watches, {len(self.transactions)} transactions"
        return f"<Connection {self.number} of domain {self.actor.domid}, {has}>"

    def reply(self, message: Message, op: int, payload: bytes) -> None:
        """Answer a request."""
        if len(payload) > PAYLOAD_MAX:
            op, payload = int(Op.ERROR), b"E2BIG\0"
        data = HEADER.pack(op, message.request, message.transaction, len(payload)) + payload
        self.out.append(data)
        self.pending += len(data)

    def event(self, watch: Watch, path: bytes) -> None:
        """Tell the client that what it watches has changed."""
        payload = b"%b\0%b\0" % (path[watch.cut :], watch.token)
        if len(payload) <= PAYLOAD_MAX:  # WATCH has seen to it for the watch's own path
            data = HEADER.pack(Op.WATCH_EVENT, 0, 0, len(payload)) + payload
            self.out.append(data)
            self.pending += len(data)

    def take_each(self) -> list[bytes]:
        """Return what is to be sent, once, message by message."""
        self.pending = 0
        messages, self.out = self.out, []
        return messages

    def take(self) -> bytes:
        """Return what is to be sent, once."""
        self.pending = 0
        if len(self.out) == 1:
            return self.out.pop()
        data = b"".join(self.out)
        self.out.clear()
        return data
