"""A ring's bytes, and daemons that are killed between any two of their steps."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.xenstore.ring_guest import ERROR, REQ_PROD, RSP_CONS, STATE, RingGuest
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.journal import Cursor, Introduced, Recovered
from jitsu.core.xenstore.ring import RING, Ring
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import Effect, Persist, Send
from jitsu.core.xenstore.stream import Stream
from jitsu.errors import ProtocolError, WireError
from jitsu.wire.xenstore import Message, Op, encode, join


class Killed(BaseException):
    """The daemon ends here."""


class MortalRing(Ring):
    """A ring whose daemon may be killed before and after each store of a count."""

    step: Callable[[], None] = staticmethod(lambda: None)

    def consume(self, count: int) -> None:
        self.step()
        super().consume(count)
        self.step()

    def produce(self, data: bytes) -> None:
        self.step()
        super().produce(data)
        self.step()


class Daemon:
    """A server with one ring: what `host.xen.rings` does, without a host."""

    def __init__(self, guest: RingGuest, log: bytearray, step: Callable[[], None]) -> None:
        self.log = log
        self.step = step
        self.mark: Cursor | None = None
        recovered = Recovered()
        recovered.load(bytes(log))
        self.server = Server(recovered)
        ring = MortalRing(memoryview(guest.page))
        self.stream = Stream(1, ring, self.server.store.cursors.get(1))
        ring.step = step
        if 1 in self.server.store.domains:
            self.connection = self.server.resume_ring(Actor(1), now=1000.0)
        else:
            self.connection = self.server.connect_ring(Actor(1))
            self.perform(self.server.introduce(Introduced(1, 0, 0)))
        self.perform(self.server.store.take())

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                mark, self.mark = self.mark, None
                record = effect.record + (self.server.note(mark) if mark else b"")
                self.step()
                self.log += record
                self.step()
            elif isinstance(effect, Send) and effect.connection is self.connection:
                self.stream.put(effect.connection.take_each())

    def serve(self, request: bytes, mark: Cursor) -> bool:
        self.mark = mark
        self.perform(self.server.receive(self.connection, request, 0.0))
        self.mark = None
        return not self.connection.closed

    def note(self, cursor: Cursor) -> bool:
        self.step()
        self.log += self.server.note(cursor)
        self.step()
        return True

    def work(self) -> None:
        while self.stream.round(self.serve, self.note):
            pass


BIG = b"x" * 2000


def requests(chance: random.Random) -> list[Message]:
    """Return what is done once or fails: each watch is set once, and ended once."""
    asked = [
        Message(Op.WRITE, 0, 0, join(b"/home/big") + BIG),
        Message(Op.WRITE, 0, 0, join(b"/home/a") + b"1"),
        Message(Op.READ, 0, 0, b"/home/big\0"),
        Message(Op.READ, 0, 0, b"/home/a\0"),
    ]
    chosen = [chance.choice(asked) for _ in range(20)]
    for i in range(8):
        at = chance.randrange(len(chosen) + 1)
        chosen.insert(at, Message(Op.WATCH, 0, 0, join(b"/home", b"token %d" % i)))
        later = chance.randrange(at + 1, len(chosen) + 1)
        if i % 2:
            end = Message(Op.UNWATCH, 0, 0, join(b"/home", b"token %d" % i))
            chosen.insert(later, end)
    first = Message(Op.WRITE, 0, 0, join(b"/home/big") + BIG)
    second = Message(Op.WRITE, 0, 0, join(b"/home/a") + b"1")
    return [m._replace(request=i) for i, m in enumerate([first, second, *chosen], 1)]


def home(log: bytearray) -> None:
    """Give domain 1 a directory of its own."""
    server = Server()
    dom0 = server.connect()
    for payload in (join(b"/home"), join(b"/home", b"n1")):
        op = Op.SET_PERMS if b"n1" in payload else Op.MKDIR
        for effect in server.receive(dom0, encode(Message(op, 1, 0, payload)), 0.0):
            if isinstance(effect, Persist):
                log += effect.record


@settings(deadline=None, max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 3000))
def test_daemons_that_are_killed(chance: random.Random, start: int) -> None:
    """All is answered, in order; what changes something is done once, whoever dies and when."""
    guest, log = RingGuest(start * 1_431_655), bytearray()
    home(log)
    asked = requests(chance)
    guest.outgoing = b"".join(map(encode, asked))
    replies: list[Message] = []
    lives = chance.randrange(1, 12)
    left = [0]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    daemon = None
    for _ in range(4000):
        if len(replies) >= len(asked) and replies[-1].request == asked[-1].request:
            break
        try:
            if daemon is None:
                left[0] = chance.randrange(1, 60) if lives else 0
                lives -= 1
                daemon = Daemon(guest, log, step)
            guest.write(chance.choice([RING, RING, 5, 100, 1]))
            daemon.work()
        except Killed:
            daemon = None
        for message in guest.read(chance.choice([RING, RING, 7, 300])):
            if message.op != Op.WATCH_EVENT:
                replies.append(message)
    once: list[Message] = []
    for reply in replies:
        if once and once[-1].request == reply.request:
            assert reply.op == Op.READ  # the one kind that may be answered twice
            assert reply == once[-1]
        else:
            once.append(reply)
    assert [(reply.op, reply.request) for reply in once] == [(m.op, m.request) for m in asked]
    assert all(reply.payload in (b"OK\0", BIG, b"1") for reply in once)


@pytest.fixture
def log() -> bytearray:
    written = bytearray()
    home(written)
    return written


def never() -> None:
    """Nobody is killed."""


def test_watches_outlive_the_daemon_and_are_told_of_themselves(log: bytearray) -> None:
    guest = RingGuest()
    daemon = Daemon(guest, log, never)
    for i, path in enumerate([b"/home", b"relative", b"/gone"]):
        guest.outgoing += encode(Message(Op.WATCH, i, 0, join(path, b"t")))
    guest.outgoing += encode(Message(Op.UNWATCH, 9, 0, join(b"/gone", b"t")))
    guest.write()
    daemon.work()
    first = guest.read()
    assert [m.payload for m in first if m.op == Op.WATCH_EVENT] == [
        join(b"/home", b"t"),
        join(b"relative", b"t"),
        join(b"/gone", b"t"),
    ]
    for kept in (log, bytearray(b"".join(daemon.server.snapshot()))):
        again = Daemon(guest, kept, never)
        again.work()
        assert [(m.op, m.payload) for m in guest.read()] == [
            (Op.WATCH_EVENT, join(b"/home", b"t")),
            (Op.WATCH_EVENT, join(b"relative", b"t")),
        ]
        dom0 = again.server.connect()
        for path in (b"/local/domain/1/relative", b"/home/hidden"):
            write = Message(Op.WRITE, 1, 0, join(path) + b"1")
            again.perform(again.server.receive(dom0, encode(write), 0.0))
        again.work()
        assert [m.payload for m in guest.read()] == [join(b"/home/hidden", b"t")]


def test_watches_end_with_the_connection_and_with_the_domain(log: bytearray) -> None:
    guest = RingGuest()
    daemon = Daemon(guest, log, never)
    guest.outgoing = encode(Message(Op.WATCH, 1, 0, join(b"@releaseDomain", b"t")))
    guest.outgoing += encode(Message(Op.WATCH, 1, 0, join(b"/home", b"t")))
    guest.write()
    daemon.work()
    replies = [m for m in guest.read() if m.op != Op.WATCH_EVENT]
    assert [m.payload for m in replies] == [b"EACCES\0", b"OK\0"]
    daemon.perform(daemon.server.reset(daemon.connection))
    daemon.perform(daemon.server.reset(daemon.connection))
    assert read(log).watches == {1: {}}
    guest.outgoing = encode(Message(Op.WATCH, 1, 0, join(b"/home", b"t")))
    guest.write()
    daemon.work()
    assert read(log).watches == {1: {(b"/home", b"t"): None}}
    assert read(log).cursors[1].domid == 1
    daemon.perform(daemon.server.release(1))
    assert (read(log).watches, read(log).cursors) == ({}, {})
    assert daemon.connection.closed


def test_special_watches_are_told_of_themselves_too() -> None:
    recovered = Recovered()
    recovered.watches[0] = {(b"@introduceDomain", b"t"): None}
    server = Server(recovered)
    connection = server.resume_ring(Actor(0, privileged=True), now=1.0)
    assert [type(effect) for effect in server.store.take()] == [Send]
    (event,) = connection.take_each()
    assert event.endswith(join(b"@introduceDomain", b"t"))


def read(log: bytearray) -> Recovered:
    recovered = Recovered()
    assert recovered.load(bytes(log)) == len(log)
    return recovered


def test_a_guest_that_breaks_the_rules(log: bytearray) -> None:
    guest = RingGuest()
    daemon = Daemon(guest, log, never)
    guest.outgoing = encode(Message(Op.READ, 1, 0, b"/\0"))[:12] + b"\xff\xff\0\0"
    guest.write()
    with pytest.raises(ProtocolError, match="65535 bytes"):
        daemon.work()
    guest.set(REQ_PROD, 5000)
    with pytest.raises(WireError):
        daemon.work()
    guest.set(STATE, 1)
    guest.set(ERROR, 2)
    daemon.note(daemon.stream.blank())
    daemon.stream.reset()
    guest.outgoing = encode(Message(Op.READ, 1, 0, b"/\0"))
    guest.write()
    daemon.work()
    assert [m.payload for m in guest.read()] == [b"EACCES\0"]
    guest.set(RSP_CONS, 5000)
    guest.outgoing = encode(Message(Op.READ, 1, 0, b"/\0"))
    guest.write()
    with pytest.raises(WireError):
        daemon.work()
    assert repr(daemon.stream).startswith("<Stream of domain 1, 0 taken")


def test_who_is_held_up_is_sent_what_waits_and_not_served(log: bytearray) -> None:
    guest = RingGuest()
    daemon = Daemon(guest, log, never)
    guest.outgoing = encode(Message(Op.READ, 1, 0, b"/\0"))
    guest.write()
    daemon.stream.put([b"some event"])
    assert daemon.stream.round(daemon.serve, daemon.note, serving=False)
    assert guest.page[RING : RING + 10] == b"some event"
    assert not daemon.stream.round(daemon.serve, daemon.note, serving=False)
    assert guest.get(REQ_PROD) != guest.get(REQ_PROD - 4)


def test_what_cannot_be_written_down_is_not_done(log: bytearray) -> None:
    guest = RingGuest()
    daemon = Daemon(guest, log, never)
    untouched = bytes(guest.page)
    daemon.stream.put([BIG])

    def refuse(_cursor: Cursor) -> bool:
        return False

    assert not daemon.stream.round(daemon.serve, refuse)
    assert guest.page == untouched
    assert daemon.stream.queued == len(BIG)
    daemon.stream.reset()
    guest.outgoing = b"part"
    guest.write()
    assert not daemon.stream.round(daemon.serve, refuse)
    assert guest.get(REQ_PROD - 4) == 0
    daemon.stream.reset()
    guest.outgoing = encode(Message(Op.READ, 1, 0, b"/\0"))
    guest.write()
    assert not daemon.stream.round(lambda _request, _mark: False, refuse)
    assert guest.get(REQ_PROD - 4) == 0


def test_a_full_ring_waits_for_its_guest(log: bytearray) -> None:
    guest = RingGuest()
    daemon = Daemon(guest, log, never)
    events = [
        encode(Message(Op.WATCH_EVENT, 0, 0, join(b"/home/%03d" % i, b"t"))) for i in range(99)
    ]
    daemon.stream.put(events)
    daemon.work()
    size = len(log)
    daemon.work()
    assert len(log) == size  # nothing is written down again while nothing moves
    heard: list[Message] = []
    while messages := guest.read():
        heard += messages
        daemon.work()
    assert [encode(m) for m in heard] == events


def test_a_transaction_of_a_daemon_that_was_killed_is_done_again(log: bytearray) -> None:
    guest = RingGuest()

    def ask(daemon: Daemon, op: Op, payload: bytes, transaction: int) -> bytes:
        guest.outgoing = encode(Message(op, 1, transaction, payload))
        guest.write()
        daemon.work()
        (reply,) = guest.read()
        return reply.payload

    first = Daemon(guest, log, never)
    old = int(ask(first, Op.TRANSACTION_START, b"\0", 0)[:-1])
    aborted = int(ask(first, Op.TRANSACTION_START, b"\0", 0)[:-1])
    assert ask(first, Op.WRITE, join(b"/home/a") + b"1", old) == b"OK\0"
    assert ask(first, Op.READ, b"/home/a\0", 99) == b"ENOENT\0"
    heir = Daemon(guest, log, never)
    assert ask(heir, Op.WRITE, join(b"/home/b") + b"2", old) == b"OK\0"
    assert ask(heir, Op.READ, b"/home/b\0", old) == b"2"
    assert ask(heir, Op.TRANSACTION_END, b"T\0", old) == b"EAGAIN\0"
    assert ask(heir, Op.TRANSACTION_END, b"F\0", aborted) == b"OK\0"
    assert ask(heir, Op.READ, b"/home/b\0", 0) == b"ENOENT\0"
    assert heir.server.store.conflicts == 0
    again = int(ask(heir, Op.TRANSACTION_START, b"\0", 0)[:-1])
    assert again > 1_000_000  # numbered by the time
    assert ask(heir, Op.WRITE, join(b"/home/a") + b"1", again) == b"OK\0"
    assert ask(heir, Op.TRANSACTION_END, b"T\0", again) == b"OK\0"
    assert ask(heir, Op.TRANSACTION_END, b"T\0", again) == b"ENOENT\0"
    assert ask(heir, Op.READ, b"/home/a\0", 0) == b"1"
    for serial in range(1, 11):
        assert ask(heir, Op.READ, b"/home/a\0", serial) == b"1"
    assert ask(heir, Op.READ, b"/home/a\0", 11) == b"ENOSPC\0"
