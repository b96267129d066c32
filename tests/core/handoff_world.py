"""The hand-over with everything that can go wrong: the true core and store, and what is around.

Clients speak over links that lose, double and reorder; the guest and the daemon die at any step.
What must always hold is checked where it would be broken.
"""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from core.test_connection import ENDS
from jitsu.core import handoff
from jitsu.core.connection import Connection
from jitsu.core.events import (
    Arrived,
    CanServe,
    Clear,
    Commit,
    Committed,
    Effect,
    GuestWrote,
    Moved,
    Moving,
    Send,
    SendToGuest,
    StateEntered,
    Track,
    Tracked,
    Wake,
)
from jitsu.core.flows import Key
from jitsu.core.segment import Ends, decode, encode
from jitsu.core.synjitsu import Synjitsu
from jitsu.core.xenstore.access import NONE, READ, WRITE, Actor, Given
from jitsu.core.xenstore.path import names
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.space import Space
from jitsu.model import Epoch, Handoff, State, Terms
from jitsu.testing.world import SUBNET, service
from jitsu.wire import tcb
from jitsu.wire.tcb import TcbState
from jitsu.wire.tcp import Flags, Options, Segment, seq_add, seq_diff, seq_lt
from jitsu.wire.xenstore import Message, Messages, Op
from jitsu.wire.xenstore import encode as message

WWW = replace(
    service(0), handoff=Handoff.IMPORT, terms=Terms(connections=4, window=300, window_scale=0)
)
TEXT = bytes(range(1, 251)) * 2
"""What every client has to say; longer than the window."""
CHUNK = 90
ACK, FIN, RST, SYN, PSH = Flags.ACK, Flags.FIN, Flags.RST, Flags.SYN, Flags.PSH
CLIENTS = 3


@dataclass(slots=True)
class Client:
    """A client that sends TEXT and then FIN; `una` counts from its ISN on."""

    number: int
    ends: Ends
    isn: int
    una: int = 0
    theirs: int | None = None
    reset: bool = False
    forsaken: bool = False
    """Its connection died with who had it: it may be reset."""

    def segment(self, at: int, size: int) -> bytes:
        """Return what it sends: SYN, text, or text and FIN."""
        if self.theirs is None:
            syn = Segment(self.ends.port, 80, self.isn, 0, SYN, 5000, Options(mss=1000))
            return encode(self.ends, syn)
        data = TEXT[at : at + size]
        flags = ACK | (FIN if at + len(data) == len(TEXT) else PSH)
        seq, ack = seq_add(self.isn, 1 + at), seq_add(self.theirs, 1)
        return encode(self.ends, Segment(self.ends.port, 80, seq, ack, flags, 5000, payload=data))

    def hears(self, got: Segment) -> None:
        """Take an answer, as RFC 9293 has it."""
        if got.flags & RST:
            if self.theirs is None or got.seq == seq_add(self.theirs, 1):
                assert self.forsaken, f"client {self.number} is innocent, and was reset"
                self.reset = True
            return
        if got.flags & SYN:
            if self.theirs is None:
                self.theirs = got.seq
                self.una = 1
            return
        if self.theirs is not None:
            acknowledged = seq_diff(got.ack, self.isn)
            assert acknowledged <= len(TEXT) + 2, "more than was sent"
            self.una = max(self.una, acknowledged)


@dataclass(slots=True)
class Adopted:
    """A connection in the guest: what the application has read, and where the stream stands."""

    rcv_nxt: int
    text: bytes
    ended: bool
    iss: int
    established: bool = True


@dataclass(slots=True)
class Guest:
    """The guest of one epoch."""

    epoch: Epoch
    flows: dict[Ends, Adopted] = field(default_factory=dict)
    said: bool = False
    committed: bool = False
    left: int = 0
    imported: bool = False


class World:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.now = 0.0
        self.daemons = 0
        self.store = Server()
        self.store.edit(lambda space: space.mkdir(b"/conduit", (b"conduit",)))
        self.core = self._daemon()
        self.epoch = 0
        self.state = State.ASLEEP
        self.entry = "synjitsu"
        self.guest: Guest | None = None
        self.stale: list[Guest] = []
        self.to_host: list[tuple[Client, bytes]] = []
        self.to_client: list[bytes] = []
        self.tracks: list[Track] = []
        self.counted: set[Ends] = set()
        """Connections that keep the guest."""
        self.troubled = False
        """Something has died, or was given up: answers may be late."""
        self.granted: dict[Ends, int] = {}
        """Connections of the guest of now, and how they begin: Synjitsu is silent for them."""
        self.clients = []
        for number in range(CLIENTS):
            ends = replace(ENDS, mac=WWW.mac, local=WWW.address)
            ends = replace(ends, peer=SUBNET[100 + number], peer_port=4000 + number).turned()
            self.clients.append(Client(number, ends, isn=0xFFFF_FFC0 + number))

    def _daemon(self) -> Synjitsu:
        """Return one whose sequence numbers are no other's: its secret is its own."""
        self.daemons += 1
        return Synjitsu([WWW], SUBNET[-2], [SUBNET], b"secret %d" % self.daemons)

    # Synjitsu's effects.

    def tell(self, effects: list[Effect]) -> None:
        """Perform effects, as the daemon does."""
        for effect in effects:
            match effect:
                case Send(frame):
                    self._sent(frame)
                case SendToGuest(_, frame):
                    self._to_guest(frame)
                case Wake() if self.state is State.ASLEEP:
                    self.boots()
                case Track():
                    self.tracks.append(effect)
                case Commit(name, epoch, flows):
                    self.store.edit(lambda space: self._write(space, name, epoch, flows))
                    self.granted = {self._ends(flow.tcb): flow.tcb.iss for flow in flows}
                    assert self.granted.keys() <= self.counted, (
                        "who does not count is cut by idleness"
                    )
                    self.tell(self.core.handle(Committed(name, epoch), self.now))
                case Clear(name, _):
                    self.store.edit(lambda space: _remove(space, *handoff.cleared(name)))
                case CanServe():
                    self.enters(State.AWAKE)
                case _:
                    pass

    def _ends(self, flow: tcb.Tcb) -> Ends:
        assert isinstance(flow.peer, IPv4Address)
        return Ends(WWW.mac, WWW.address, flow.port, flow.peer_mac, flow.peer, flow.peer_port)

    def _write(self, space: Space, name: object, epoch: Epoch, flows: object) -> None:
        for path, value in handoff.commit(WWW.name, epoch, flows):  # type: ignore[arg-type]
            space.write(path, names(path), value)

    def _sent(self, frame: bytes) -> None:
        ends, segment = decode(frame)
        ours = ends.turned()
        if not segment.flags & RST:
            assert ours not in self.granted, "silent for what it has committed"
        self.to_client.append(frame)

    # The life of the service, as the summoner would have it.

    def enters(self, state: State) -> None:
        """Enter a state."""
        self.state = state
        self.tell(self.core.handle(StateEntered(WWW.name, state, Epoch(self.epoch)), self.now))

    def boots(self) -> None:
        """Boot the next guest."""
        self.epoch += 1
        epoch = Epoch(self.epoch)
        its = Given(0, NONE, ((self.epoch, READ),), None)

        def begin(space: Space) -> None:
            top = handoff.conduit(WWW.name)
            _remove(space, top)
            space.mkdir(top, names(top))
            space.permit(top, names(top), its)
            for path, value in handoff.beginning(WWW.name, epoch):
                space.write(path, names(path), value)
            word = handoff.word_of(WWW.name, epoch)
            space.mkdir(word, names(word))
            space.permit(word, names(word), Given(0, NONE, ((self.epoch, READ | WRITE),), None))

        self.store.edit(begin)
        self.guest = Guest(epoch)
        self.enters(State.BOOTING)

    def guest_dies(self) -> None:
        """End the guest; the service boots again if it was booting."""
        self.troubled = True
        guest, self.guest = self.guest, None
        assert guest is not None
        self.stale.append(guest)
        for client in self.clients:
            client.forsaken |= client.ends.turned() in self.granted
        self.granted = {}
        self.counted.clear()
        if self.state is State.AWAKE:
            self.tell(self.core.handle(Moving(WWW.name), self.now))
            self.entry = "synjitsu"
            self.state = State.ASLEEP
            self.tell(self.core.handle(Moved(WWW.name, to_guest=False), self.now))
            if self.state is State.ASLEEP:
                self.enters(State.ASLEEP)
        else:
            self.boots()

    def daemon_dies(self) -> None:
        """End the daemon; its heir ends the guests, and knows nothing of any connection."""
        self.troubled = True
        if self.guest is not None:
            self.stale.append(self.guest)
        self.guest = None
        for client in self.clients:
            client.forsaken |= client.theirs is not None
        self.granted = {}
        self.tracks.clear()
        self.counted.clear()
        self.entry = "synjitsu"
        self.state = State.ASLEEP
        self.core = self._daemon()

    def fails(self) -> None:
        """Give the boot up; then be ready for the next."""
        self.troubled = True
        if self.guest is not None:
            self.stale.append(self.guest)
        self.guest = None
        self.granted = {}
        waiting = [connection.ends for connection in self._held().values()]
        self.to_client.clear()
        for client in self.clients:
            client.forsaken = True
        self.enters(State.FAILED)
        told = [decode(frame) for frame in self.to_client]
        resets = [ends.turned() for ends, segment in told if segment.flags & RST]
        assert set(resets) >= set(waiting), "whoever waits is told"
        self.enters(State.ASLEEP)

    def moves(self) -> None:
        """Move the entry to the guest."""
        self.tell(self.core.handle(Moving(WWW.name), self.now))
        self.entry = "guest"
        self.tell(self.core.handle(Moved(WWW.name, to_guest=True), self.now))

    def tracked(self) -> None:
        """Finish one Track."""
        done = self.tracks.pop(0)
        self.counted = self.counted.union(done.opened).difference(done.ended)
        self.tell(self.core.handle(Tracked(WWW.name), self.now))

    # The network.

    def arrives(self, client: Client, frame: bytes) -> None:
        """Bring a client's frame to whom the entry says."""
        if self.entry == "guest" and self.guest is not None:
            self._to_guest(frame)
        else:
            self.tell(self.core.handle(Arrived(frame), self.now))

    def hears(self, frame: bytes) -> None:
        """Bring a frame to its client."""
        ends, segment = decode(frame)
        for client in self.clients:
            if client.ends == ends and not client.reset:
                begins = client.theirs is None
                client.hears(segment)
                if begins and client.theirs is not None and not self._has_said(client):
                    assert self.troubled, "nobody knows what was answered just now"
                    client.forsaken = True

    # The guest.

    def ask(self, guest: Guest, op: Op, path: bytes, value: bytes = b"") -> bytes | None:
        """Ask the store as a guest: its domain is its epoch."""
        connection = self.store.connect(Actor(int(guest.epoch)))
        self.store.receive(connection, message(Message(op, 1, 0, path + b"\0" + value)), self.now)
        (reply,) = Messages().feed(connection.take())
        self.store.disconnect(connection)
        return reply.payload if reply.op == op else None

    def guest_steps(self, guest: Guest) -> None:
        """Let a guest do the next of what it has to do; one of the dead may still try."""
        top = handoff.conduit(WWW.name)
        word = handoff.word_of(WWW.name, guest.epoch)
        lives = guest is self.guest
        if not guest.said:
            guest.said = True
            self._says(guest, word, handoff.PREPARED)
        elif not guest.committed:
            state = self.ask(guest, Op.READ, b"%b/handoff/%d" % (top, guest.epoch))
            guest.committed = state == b"committed"
            assert lives or not guest.committed, "an epoch that is over is committed to"
            if guest.committed:
                guest.left = int(self.ask(guest, Op.READ, top + b"/tcpv4") or 0)
        elif guest.left:
            guest.left -= 1
            if lives:
                self._import(guest, b"%b/tcpv4/%d" % (top, guest.left))
        elif not guest.imported:
            guest.imported = True
            self._says(guest, word, handoff.IMPORTED)

    def forges(self, guest: Guest) -> None:
        """Let a guest try what it may not: all of it is refused."""
        top = handoff.conduit(WWW.name)
        state = b"%b/handoff/%d" % (top, self.epoch)
        for path in (state, top + b"/epoch", top + b"/tcpv4", top + b"/tcpv4/0", top):
            assert self.ask(guest, Op.WRITE, path, b"committed") is None
        if guest is not self.guest:
            assert self.ask(guest, Op.WRITE, state + b"/guest", handoff.PREPARED) is None
            assert self.ask(guest, Op.READ, state) is None

    def _says(self, guest: Guest, path: bytes, word: bytes) -> None:
        done = self.ask(guest, Op.WRITE, path, word)
        assert (done is not None) == (guest is self.guest), "only the guest of now has a say"
        if done is not None:
            event = GuestWrote(WWW.name, guest.epoch, word)
            self.tell(self.core.handle(event, self.now))

    def _import(self, guest: Guest, path: bytes) -> None:
        line = self.ask(guest, Op.READ, path)
        assert line is not None
        flow = tcb.decode(line)
        text = b""
        while len(text) < flow.rx:
            chunk = self.ask(guest, Op.READ, b"%b/rx/%d" % (path, len(text) // 2048))
            assert chunk
            text += chunk
        ended = flow.state is TcbState.CLOSE_WAIT
        assert text == TEXT[: flow.rx], "what was acknowledged, once and in order"
        assert flow.rcv_nxt == seq_add(flow.irs, 1 + flow.rx + ended)
        guest.flows[self._ends(flow)] = Adopted(
            flow.rcv_nxt, text, ended, flow.iss, flow.state is not TcbState.SYN_RECEIVED
        )

    def _to_guest(self, frame: bytes) -> None:
        guest = self.guest
        if guest is None:
            return
        ends, segment = decode(frame)
        flow = guest.flows.get(ends)
        assert guest.imported, "before it has its connections a guest is left alone"
        if flow is None and segment.flags & SYN:
            rcv_nxt = seq_add(segment.seq, 1)
            guest.flows[ends] = Adopted(rcv_nxt, b"", False, iss=7777, established=False)
            self.granted[ends] = 7777
            answer = Segment(ends.port, ends.peer_port, 7777, rcv_nxt, SYN | ACK, 300)
            self.to_client.append(encode(ends, answer))
            return
        ours = flow is not None and segment.ack == seq_add(flow.iss, 1)
        if flow is None or not (ours or flow.established or segment.flags & SYN):
            # Of a guest before.
            reset = Segment(ends.port, ends.peer_port, segment.ack, 0, RST, 0)
            self.to_client.append(encode(ends, reset))
            return
        if ours:
            flow.established = True
            self._take(flow, segment)
        answer = Segment(ends.port, ends.peer_port, segment.ack, flow.rcv_nxt, ACK, 300)
        self.to_client.append(encode(ends, answer))

    def _take(self, flow: Adopted, segment: Segment) -> None:
        skip = seq_diff(flow.rcv_nxt, segment.seq)
        if segment.flags & SYN or skip < 0 or flow.ended:
            return
        new = segment.payload[skip:]
        flow.text += new
        flow.rcv_nxt = seq_add(flow.rcv_nxt, len(new))
        if segment.flags & FIN and not seq_lt(seq_add(segment.seq, segment.length), flow.rcv_nxt):
            flow.ended = True
            flow.rcv_nxt = seq_add(flow.rcv_nxt, 1)
        assert flow.text == TEXT[: len(flow.text)], "the application reads it once and in order"

    # What must hold.

    def heals(self) -> None:
        """Let all go well from now on: everybody is served to the end, or told."""
        self.to_host.clear()
        for _ in range(40):
            self.passes(0.5)
            while self.to_client:
                self.hears(self.to_client.pop(0))
            while self.tracks:
                self.tracked()
            if self.guest is not None and not self.guest.imported:
                self.guest_steps(self.guest)
            if self.state is State.AWAKE and self.entry != "guest":
                self.moves()
            for client in self.clients:
                if not client.reset:
                    at = max(0, client.una - 1)
                    self.arrives(client, client.segment(min(at, len(TEXT)), CHUNK))
        for client in self.clients:
            if client.reset:
                continue
            assert self.guest is not None
            flow = self.guest.flows.get(client.ends.turned())
            assert flow, "nobody owns it, and nobody says so"
            assert flow.text == TEXT, "nobody waits for ever"
            assert client.una == len(TEXT) + 2

    def passes(self, seconds: float) -> None:
        """Let time pass, and timers run."""
        before = set(self._held())
        self.now += seconds
        self.tell(self.core.tick(self.now))
        for client in self.clients:
            # It has not answered the SYN-ACK for so long that it is taken for a flood's.
            if _key(client) in before - set(self._held()):
                client.forsaken = self.troubled = True

    def _held(self) -> dict[Key, Connection]:
        flows = self.core._sleepers[WWW.name].flows
        assert flows is not None
        return flows._table

    def _has_said(self, client: Client) -> bool:
        """Say whether who has the connection now has answered its SYN, not one before."""
        ends, held = client.ends.turned(), self._held().get(_key(client))
        if held is not None:
            return held.syn_ack.seq == client.theirs
        return self.granted.get(ends) == client.theirs

    def _is_owned(self, client: Client) -> bool:
        return _key(client) in self._held() or client.ends.turned() in self.granted

    def check(self) -> None:
        """Check who owns what, and that what was acknowledged is somewhere."""
        for client in self.clients:
            ends = client.ends.turned()
            held = self._held().get(_key(client))
            assert not (held and ends in self.granted), "two own it"
            if client.theirs is None or client.forsaken:
                continue
            assert self._is_owned(client), "nobody owns it"
            if held:
                assert client.una - 1 <= len(held.received) + 1
            elif self.guest is not None and ends in self.guest.flows:
                assert client.una - 1 <= len(self.guest.flows[ends].text) + 1


def _key(client: Client) -> Key:
    return client.ends.local.packed, client.ends.port, client.ends.peer_port


def _remove(space: Space, *paths: bytes) -> None:
    for path in paths:
        space.remove(path, names(path))
