"""Conversations with a store, in the notation of Xen's xenstore.txt: `|` is a NUL.

    store.says(
        ("dom0", "WRITE /a|1", "OK|"),
        ("1", "READ /a|", "!EACCES"),
        ("dom0 tx", "TRANSACTION_START |", ...),
    )

Who speaks is `dom0` or a domain's number, and then the name of a transaction, if it is in one.
A reply that begins with `!` is an error, `...` stands for any. Watch events wait in `events(who)`.
"""

from types import EllipsisType

from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import DOM0, Close, Effect
from jitsu.wire.xenstore import Message, Messages, Op, encode

Line = tuple[str, str, str | EllipsisType]


class Conversation:
    """A server and its clients."""

    def __init__(self, server: Server | None = None) -> None:
        self.server = server or Server()
        self.now = 0.0
        self.clients: dict[str, Connection] = {}
        self.transactions: dict[str, int] = {}
        self.heard: dict[str, list[str]] = {}
        self.closed: dict[str, str] = {}
        self.effects: list[Effect] = []

    def client(self, who: str) -> Connection:
        if who not in self.clients:
            number = who.rstrip("abc")  # "1b" is another connection of domain 1
            actor = DOM0 if number == "dom0" else Actor(int(number))
            self.clients[who] = self.server.connect(actor)
        return self.clients[who]

    def says(self, *lines: Line) -> None:
        for who, request, expected in lines:
            reply = self.ask(who, request)
            assert expected in (..., reply), f"{who}: {request} -> {reply}, not {expected}"

    def ask(self, who: str, request: str) -> str:
        name, _, transaction = who.partition(" ")
        number = self.transactions.get(transaction, 0)
        operation, _, fields = request.partition(" ")
        payload = fields.encode("latin-1").replace(b"|", b"\0")
        op = Op[operation]
        begins = op is Op.TRANSACTION_START
        reply = self.send(name, Message(op, 7, 0 if begins else number, payload))
        if begins and transaction:
            self.transactions[transaction] = int(reply[:-1])
        return reply

    def send(self, who: str, message: Message) -> str:
        """Send a message; return the reply, and keep the events of all clients."""
        client = self.client(who)
        self.note(self.server.receive(client, encode(message), self.now))
        replies = self.collect(who, client)
        for other, connection in self.clients.items():
            if other != who:
                assert self.collect(other, connection) == []
        if not replies:
            return "closed" if who in self.closed else "nothing"
        (reply,) = replies
        assert (reply.request, reply.transaction) == (message.request, message.transaction)
        assert reply.op in (message.op, Op.ERROR)
        return ("!" if reply.op == Op.ERROR else "") + text(reply.payload).removesuffix(
            "|" if reply.op == Op.ERROR else ""
        )

    def note(self, effects: list[Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Close):
                (who,) = [w for w, c in self.clients.items() if c is effect.connection]
                self.closed[who] = effect.reason

    def collect(self, who: str, client: Connection) -> list[Message]:
        replies = []
        for message in Messages().feed(client.take()):
            if message.op == Op.WATCH_EVENT:
                self.heard.setdefault(who, []).append(text(message.payload))
            else:
                replies.append(message)
        return replies

    def tick(self, now: float) -> None:
        self.now = now
        self.note(self.server.tick(now))

    def events(self, who: str) -> list[str]:
        """Return what a client has heard since the last time."""
        return self.heard.pop(who, [])


def text(payload: bytes) -> str:
    return payload.replace(b"\0", b"|").decode("latin-1")
