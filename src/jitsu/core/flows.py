"""The connections of one service that Synjitsu holds until the guest takes them over.

*A table that a flood does not close.* Who spoofs its address never completes a handshake. When the
table is full, and some in it have not answered, SYNs can be answered with cookies (`core.isn`),
which keep nothing. The acknowledgement of a cookie brings a real client's connection into the
table, where the one goes for it that has not answered for longest. What cookies cannot keep is
window scale and timestamps, and a client that acknowledges one when the guest has taken over has
no connection: so a burst of honest clients gets none (`Synjitsu` holds its SYNs first).

*What is kept is bounded* by the number of connections that the guest can take over, by the window
of each, and by the `Budget` of all services together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jitsu.core import isn
from jitsu.core.connection import Connection
from jitsu.core.deadlines import Deadlines
from jitsu.core.segment import Ends, decode, encode
from jitsu.model import Terms
from jitsu.wire.tcb import Tcb
from jitsu.wire.tcp import MSS_DEFAULT, Flags, Options, Segment, seq_add

COOKIE_LIFE = 128.0
"""Seconds after the last cookie within which an acknowledgement may bring one back."""

Key = tuple[bytes, int, int]
"""Of a connection: the client's address and port, the service's port."""


@dataclass(slots=True)
class Budget:
    """Bytes that are kept for clients of all services."""

    most: int
    used: int = 0

    @property
    def room(self) -> int:
        """How many more may be kept."""
        return self.most - self.used


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection as it is handed over: its state, and the client's bytes."""

    tcb: Tcb
    received: bytes


class Flows:
    """See the module's docstring."""

    def __init__(self, terms: Terms, budget: Budget, secret: bytes) -> None:
        """Hold connections on `terms`."""
        self.terms = terms
        self._budget = budget
        self._secret = secret
        self._table: dict[Key, Connection] = {}
        self._lent: dict[Key, Connection] = {}
        self._half_open = 0
        self._cookies_until = 0.0
        self._deadlines = Deadlines()
        self._opened: list[Ends] = []
        self._ended: list[Ends] = []

    def __len__(self) -> int:
        """Return how many connections are held."""
        return len(self._table)

    @property
    def is_full(self) -> bool:
        """Say whether there is no room for another one."""
        return len(self._table) >= self.terms.connections

    @property
    def is_unanswered(self) -> bool:
        """Say whether most of the clients have not answered yet."""
        return 2 * self._half_open > len(self._table)

    def knows(self, key: Key) -> bool:
        """Say whether a connection is held."""
        return key in self._table

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._deadlines.next()

    def tick(self, now: float) -> list[bytes]:
        """Return the SYN-ACKs that are due again, and forget who has not answered them."""
        frames = []
        for due in self._deadlines.due(now):
            connection = self._table[due]  # type: ignore[index]
            frames += [encode(connection.ends, segment) for segment in connection.tick(now)]
            self._settle(due, connection, was_half_open=True)  # type: ignore[arg-type]
        return frames

    def open(self, key: Key, frame: bytes, now: float) -> list[bytes]:
        """Answer a client's SYN: with a cookie, if there is no room for it. Raises WireError."""
        ends, syn = decode(frame)
        known = self._table.get(key)
        if known is not None and not (known.is_half_open and syn.seq != known.irs):
            return self._go_on(key, known, syn, now)
        if known is not None:
            self._forget(key, known)  # the client has begun anew
        if self.is_full:
            return [self._cookie(ends, syn, now)]
        numbers = isn.first_numbers(ends, self._secret, now)
        connection = Connection(ends, syn, self.terms, numbers, now)
        self._table[key] = connection
        self._half_open += 1
        self._deadlines.set(key, connection.deadline())
        return [encode(ends, connection.syn_ack)]

    def take(self, key: Key, frame: bytes, now: float) -> list[bytes] | None:
        """Take a segment that is no SYN; return None if it is of no connection. Raises WireError.

        What answers it goes back to the client.
        """
        connection = self._table.get(key)
        if connection is None and now >= self._cookies_until:
            return None
        ends, segment = decode(frame)
        if connection is None or not connection.expects(segment):
            connection = self._revived(key, ends, segment, now) or connection
        return None if connection is None else self._go_on(key, connection, segment, now)

    def news(self) -> tuple[tuple[Ends, ...], tuple[Ends, ...]]:
        """Return the connections that were established since the last call, and that ended."""
        opened, ended = tuple(self._opened), tuple(self._ended)
        self._opened.clear()
        self._ended.clear()
        return opened, ended

    def half_open(self) -> tuple[Ends, ...]:
        """Return whose handshakes are under way."""
        return tuple(c.ends for c in self._table.values() if c.is_half_open)

    def established(self) -> tuple[Ends, ...]:
        """Return whose handshakes are complete."""
        return tuple(c.ends for c in self._table.values() if not c.is_half_open)

    def abort(self) -> list[bytes]:
        """Forget all connections; return the RSTs that tell the clients."""
        self._ended += [c.ends for c in self._table.values() if not c.is_half_open]
        return [encode(c.ends, c.abort()) for c in self._release()]

    def hand_over(self) -> tuple[Flow, ...]:
        """Forget all connections; return them for who goes on."""
        return tuple(Flow(c.tcb(), bytes(c.received)) for c in self._release())

    def lend(self) -> tuple[Flow, ...]:
        """Return all connections for who may go on, or not; `settle` or `take_back` each."""
        self._lent = dict(self._table)
        self._budget.used += sum(len(c.received) for c in self._lent.values())
        return self.hand_over()

    def settle(self, ends: Ends) -> None:
        """Forget a connection that was lent: somebody goes on with it, or nobody does."""
        lent = self._lent.pop(_key(ends))
        self._budget.used -= len(lent.received)

    def take_back(self, ends: Iterable[Ends]) -> None:
        """Go on with connections that were lent."""
        for key in map(_key, ends):
            connection = self._table[key] = self._lent.pop(key)
            self._half_open += connection.is_half_open
            self._deadlines.set(key, connection.deadline())

    def _release(self) -> list[Connection]:
        connections = list(self._table.values())
        self._budget.used -= sum(len(c.received) for c in connections)
        self._table.clear()
        self._deadlines = Deadlines()
        self._half_open = 0
        self._opened.clear()
        return connections

    def _go_on(self, key: Key, connection: Connection, segment: Segment, now: float) -> list[bytes]:
        before, was_half_open = len(connection.received), connection.is_half_open
        answers = connection.handle(segment, now, self._budget.room)
        self._budget.used += len(connection.received) - before
        self._settle(key, connection, was_half_open=was_half_open)
        return [encode(connection.ends, answer) for answer in answers]

    def _settle(self, key: Key, connection: Connection, *, was_half_open: bool) -> None:
        """Take note of what has become of a connection."""
        if connection.state is None:
            self._forget(key, connection, was_half_open=was_half_open)
        elif was_half_open:
            self._deadlines.set(key, connection.deadline())
            if not connection.is_half_open:
                self._half_open -= 1
                self._opened.append(connection.ends)

    def _forget(self, key: Key, connection: Connection, *, was_half_open: bool = True) -> None:
        del self._table[key]
        self._deadlines.set(key, None)
        if was_half_open:
            self._half_open -= 1
        else:
            self._ended.append(connection.ends)
        self._budget.used -= len(connection.received)

    def _cookie(self, ends: Ends, syn: Segment, now: float) -> bytes:
        self._cookies_until = now + COOKIE_LIFE
        default = MSS_DEFAULT[ends.local.version]
        mss = default if syn.options.mss is None else syn.options.mss
        number = isn.cookie(ends, syn.seq, mss, self._secret, now)
        answer = Segment(
            ends.port,
            ends.peer_port,
            number,
            seq_add(syn.seq, 1),
            Flags.SYN | Flags.ACK,
            min(self.terms.window, 0xFFFF),
            Options(mss=self.terms.mss),
        )
        return encode(ends, answer)

    def _revived(self, key: Key, ends: Ends, ack: Segment, now: float) -> Connection | None:
        """Return the connection that an acknowledgement brings back, if it is one of a cookie.

        Who has acknowledged one may have been answered otherwise since, when there was room again.
        """
        if ack.flags & (Flags.SYN | Flags.RST | Flags.ACK) != Flags.ACK:
            return None
        number, irs = seq_add(ack.ack, -1), seq_add(ack.seq, -1)
        mss = isn.baked(ends, number, irs, self._secret, now)
        if mss is None:
            return None
        goes = key if key in self._table else None
        if goes is None and self.is_full:
            goes = self._longest_waiting()
            if goes is None:
                return None
        if goes is not None:
            self._forget(goes, self._table[goes])
        connection = Connection.revive(ends, ack, mss, self.terms, now)
        self._table[key] = connection
        self._half_open += 1
        return connection

    def _longest_waiting(self) -> Key | None:
        """Return whose SYN-ACK has been unanswered for longest."""
        return next((key for key, c in self._table.items() if c.is_half_open), None)


def _key(ends: Ends) -> Key:
    return ends.peer.packed, ends.peer_port, ends.port
