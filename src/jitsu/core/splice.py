"""Splicing: a connection that Synjitsu has opened goes on with a guest that knows nothing of it.

Theory of operation.

A guest opens a connection when it gets a SYN, and chooses its own initial sequence number. So it
gets one: the client's, once more. What the guest then says differs from what the client has been
told by the difference of two numbers, which the kernel makes up for on the guest's own link
(`bpf/splice.c`), from then on and for as long as the connection lives:

    client          Synjitsu                       kernel              guest
      | SYN  seq=irs    |                             |                  |
      |---------------->|                             |                  |
      |<----------------| SYN-ACK seq=iss             |                  |
      | bytes           |                             |                  |
      |---------------->| kept, acknowledged          .                  .  boots
      |                 |                             |                  |
      |                 | Shift(None)                 |                  |
      |                 |---------------------------->| is not heard     |
      |                 | SYN  seq=irs                |                  |
      |                 |-----------------------------|----------------->|
      |                 |<------ as the guest sent it - X <--------------| SYN-ACK seq=g
      |                 | Shift(Numbers(iss - g, g))  |                  |
      |                 |---------------------------->| seq + , ack -    |
      |                 | the client's bytes          |                  |
      |                 |-----------------------------|----------------->|
      |<----------------------------------------------|------------------| the answer
      |                 |<------ its acknowledgement -|                  |
      |                 | Spliced                     |                  |

*Synjitsu stands in for the client* until the guest has acknowledged all that Synjitsu has: the
client will never send it again. It speaks the client's numbers, which the kernel translates like
the client's own; what the guest sends it sees on the guest's link, before the kernel changes it.

*The guest is heard as soon as the difference is known*: its answer may carry the acknowledgement
that we wait for. An old acknowledgement in it means nothing to the client, which is ahead.

*What is negotiated must suit both*: a window scale, SACK or timestamps that the client was promised
the guest would not know of, so connections that are to be spliced are opened without (`Terms`).

*A handshake under way* is finished by the guest: it gets the SYN, and its SYN-ACK, in our numbers,
goes to the client. To one that has ours already it is an old one, which is acknowledged.

*Whoever answers RST* has nobody listening there: the client gets one in our numbers. So do both
ends when a guest does not answer at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address

from jitsu.core.deadlines import Deadlines
from jitsu.core.segment import Ends, decode, encode
from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import MSS_DEFAULT, MSS_MIN, Flags, Options, Segment, seq_add, seq_diff

RETRY = 0.2
"""Seconds until something is sent again, doubled with each try: a guest is no network away."""
MSS_MAX = {4: 1460, 6: 1440}
"""What fits the frames of a guest's link, however much a guest says that it takes."""
_WINDOW_MAX = 0xFFFF


class Stage(Enum):
    """How far a splice has come."""

    ASKING = auto()
    """The guest has got the SYN."""
    TELLING = auto()
    """The guest is being told what the client has said."""
    DONE = auto()


@dataclass(frozen=True, slots=True)
class ToGuest:
    """Send `frame` on the guest's link."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send `frame` from Synjitsu's port."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Numbers:
    """By what the kernel translates, and knows whether a connection is still the same."""

    iss: int
    """The guest's initial sequence number, as the client was told."""
    isn: int
    """As the guest has chosen it."""
    acked: int
    """What the guest has acknowledged, its SYN-ACK the SYN."""

    @property
    def delta(self) -> int:
        """What is added to the guest's numbers, modulo 2**32."""
        return seq_diff(self.iss, self.isn) & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Shift:
    """Have the kernel translate between the ends, before anything else is sent.

    If `numbers` is None they are not known, and the guest is not heard yet.
    """

    ends: Ends
    numbers: Numbers | None


@dataclass(frozen=True, slots=True)
class Spliced:
    """The guest has all that the client has said up to now: the client may speak to it."""

    ends: Ends


@dataclass(frozen=True, slots=True)
class Failed:
    """It came to nothing, and the ends have been told; the kernel need not translate any more."""

    ends: Ends
    reason: str


Effect = ToGuest | ToClient | Shift | Spliced | Failed


class Splice:
    """One connection, its state `tcb` and the client's bytes `received`."""

    def __init__(self, mac: Mac, tcb: Tcb, received: bytes, patience: float) -> None:
        """Prepare to join the connection to the guest that has `mac`; `begin` does it.

        A guest that takes nothing for `patience` seconds is given up.
        """
        self.ends = Ends(mac, tcb.local, tcb.port, tcb.peer_mac, tcb.peer, tcb.peer_port)
        self.stage = Stage.ASKING
        self._tcb = tcb
        self._received = received
        # Numbers count from the client's first byte; a FIN is one after the last.
        self._end = len(received) + (tcb.state is TcbState.CLOSE_WAIT)
        self._sent = 0
        self._sent_most = 0
        self._acknowledged = 0
        self._window = 0
        self._mss = MSS_MIN
        self._delta = 0
        self._said = seq_add(tcb.iss, 1)
        """What the guest will say next, in our numbers."""
        self._patience = patience
        self._tries = 0
        self._give_up = 0.0
        self._deadline: float | None = None

    def __repr__(self) -> str:
        """Say who it is with, and how far it has come."""
        ends, stage = self.ends, self.stage.name.lower()
        told = f"{self._acknowledged} of {self._end}"
        return f"<Splice {ends.peer}:{ends.peer_port} {stage}, {told}>"

    def begin(self, now: float) -> list[Effect]:
        """Send the client's SYN to the guest."""
        self._progress(now)
        return [Shift(self.ends, None), self._syn()]

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._deadline

    def tick(self, now: float) -> list[Effect]:
        """Say it again, or give up."""
        if self._deadline is None or now < self._deadline:
            return []
        if now >= self._give_up:
            return self.abort("the guest does not answer")
        self._tries += 1
        self._arm(now)
        if self.stage is Stage.ASKING:
            return [self._syn()]
        self._sent = self._acknowledged
        # With a closed window, one byte asks whether it is still (RFC 9293 section 3.8.6.1).
        return [self._next(max(1, self._window))]

    def handle(self, segment: Segment, now: float) -> list[Effect]:
        """Take a segment of the guest's to the client, as the guest has sent it."""
        if self.stage is Stage.ASKING:
            return self._answered(segment, now)
        return self._heard(segment, now) if self.stage is Stage.TELLING else []

    def abort(self, reason: str) -> list[Effect]:
        """End the connection, and tell both ends."""
        first = seq_add(self._tcb.irs, 1)
        ends = self.ends
        # Without ACK: it passes however far the kernel is.
        reset = Segment(
            ends.peer_port, ends.port, seq_add(first, self._acknowledged), 0, Flags.RST, 0
        )
        return [ToGuest(encode(ends.turned(), reset)), *self._fail(reason)]

    # What the guest says.

    def _answered(self, segment: Segment, now: float) -> list[Effect]:
        """Judge the answer to the SYN (RFC 9293 section 3.10.7.3)."""
        if not segment.flags & Flags.ACK or segment.ack != seq_add(self._tcb.irs, 1):
            return []
        if segment.flags & Flags.RST:
            return self._fail("nobody listens there")
        if not segment.flags & Flags.SYN:
            return []
        version = self.ends.local.version
        mss = MSS_DEFAULT[version] if segment.options.mss is None else segment.options.mss
        self._mss = max(MSS_MIN, min(mss, MSS_MAX[version]))
        self._window = segment.window
        numbers = Numbers(self._tcb.iss, segment.seq, segment.ack)
        self._delta = numbers.delta
        shift = Shift(self.ends, numbers)
        if self._tcb.state is TcbState.SYN_RECEIVED:
            answer = ToClient(encode(self.ends, replace(segment, seq=self._tcb.iss)))
            return [shift, answer, *self._finish()]
        self.stage = Stage.TELLING
        self._progress(now)
        if self._end == 0:
            # Should it be lost, the guest's next SYN-ACK draws one from the client.
            return [shift, self._next(0), *self._finish()]
        return [shift, *(self._tell() or [self._next(0)])]

    def _heard(self, segment: Segment, now: float) -> list[Effect]:
        """Take an acknowledgement; go on telling."""
        if segment.flags & Flags.RST:
            return self._finish(Failed(self.ends, "the guest has reset it"))
        self._listen(segment)
        acknowledged = seq_diff(segment.ack, seq_add(self._tcb.irs, 1))
        valid = self._acknowledged <= acknowledged <= self._sent_most
        if not segment.flags & Flags.ACK or not valid:
            return []
        self._window = segment.window
        if acknowledged > self._acknowledged:
            self._acknowledged = acknowledged
            self._sent = max(self._sent, acknowledged)
            self._progress(now)
        if acknowledged == self._end:
            return self._finish()
        return self._tell()

    def _listen(self, segment: Segment) -> None:
        """Remember how far the guest has spoken: to the client, as the kernel passes it on."""
        end = seq_add(seq_add(segment.seq, segment.length), self._delta)
        if seq_diff(end, self._said) > 0:
            self._said = end

    # What we say.

    def _tell(self) -> list[Effect]:
        """Send as much as the guest has room for."""
        effects: list[Effect] = []
        while (room := min(self._end, self._acknowledged + self._window) - self._sent) > 0:
            effects.append(self._next(room))
        return effects

    def _next(self, room: int) -> Effect:
        """Send the next segment, of at most `room` bytes, the FIN counted."""
        start = self._sent
        payload = self._received[start : start + min(room, self._mss)]
        flags = Flags.ACK
        self._sent += len(payload)
        if self._sent == len(self._received) < min(self._end, start + room):
            flags |= Flags.FIN
            self._sent += 1
        self._sent_most = max(self._sent_most, self._sent)
        if payload and self._sent == self._end:
            flags |= Flags.PSH
        seq = seq_add(self._tcb.irs, 1 + start)
        return self._to_guest(flags, seq, seq_add(self._tcb.iss, 1), payload=payload)

    def _syn(self) -> Effect:
        return self._to_guest(Flags.SYN, self._tcb.irs, 0, Options(mss=self._tcb.mss))

    def _to_guest(
        self,
        flags: Flags,
        seq: int,
        ack: int,
        options: Options = Options(),  # noqa: B008 - it is frozen
        payload: bytes = b"",
    ) -> Effect:
        window = min(self._tcb.snd_wnd, _WINDOW_MAX)
        ends = self.ends
        segment = Segment(
            ends.peer_port, ends.port, seq, ack, flags, window, options, payload=payload
        )
        return ToGuest(encode(ends.turned(), segment))

    def _fail(self, reason: str) -> list[Effect]:
        """Tell the client that it is over."""
        ends, tcb = self.ends, self._tcb
        reset = Segment(
            ends.port, ends.peer_port, self._said, tcb.rcv_nxt, Flags.RST | Flags.ACK, 0
        )
        return [ToClient(encode(ends, reset)), *self._finish(Failed(ends, reason))]

    def _finish(self, last: Effect | None = None) -> list[Effect]:
        self.stage = Stage.DONE
        self._deadline = None
        return [last or Spliced(self.ends)]

    def _progress(self, now: float) -> None:
        """The guest has taken something: be patient anew."""
        self._tries = 0
        self._give_up = now + self._patience
        self._arm(now)

    def _arm(self, now: float) -> None:
        self._deadline = min(now + RETRY * 2**self._tries, self._give_up)


_Key = tuple[IPv4Address | IPv6Address, int, IPv4Address | IPv6Address, int]


class Splices:
    """All the connections of one service that are being spliced to one guest."""

    def __init__(self, mac: Mac, flows: Iterable[tuple[Tcb, bytes]], patience: float) -> None:
        """Prepare to join connections, each with the client's bytes, to the guest with `mac`.

        One of which the guest takes nothing for `patience` seconds is given up.
        """
        splices = [Splice(mac, tcb, received, patience) for tcb, received in flows]
        self._splices = {_key(splice.ends): splice for splice in splices}
        self._deadlines = Deadlines()

    def __len__(self) -> int:
        """Return how many are not joined yet."""
        return len(self._splices)

    def begin(self, now: float) -> list[Effect]:
        """Send the clients' SYNs to the guest."""
        effects: list[Effect] = []
        for key, splice in self._splices.items():
            effects += splice.begin(now)
            self._deadlines.set(key, splice.deadline())
        return effects

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._deadlines.next()

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        for key in self._deadlines.due(now):
            splice = self._splices[key]  # type: ignore[index]
            effects += self._settled(splice, splice.tick(now))
        return effects

    def handle(self, frame: bytes, now: float) -> list[Effect]:
        """Take a frame of the guest's, whatever it is."""
        try:
            ends, segment = decode(frame, verify=False)
        except WireError:
            return []
        splice = self._splices.get(_key(ends.turned()))
        return [] if splice is None else self._settled(splice, splice.handle(segment, now))

    def recall(self) -> list[Ends]:
        """Leave off the connections of which the guest has not answered the SYN; return whose.

        Nothing of them has reached an application, and the client has heard nothing of the guest.
        """
        asking = [s for s in self._splices.values() if s.stage is Stage.ASKING]
        for splice in asking:
            del self._splices[_key(splice.ends)]
        return [splice.ends for splice in asking]

    def abort(self, reason: str) -> list[Effect]:
        """End what is not joined yet: there is nobody to join it to."""
        splices = list(self._splices.values())
        return [effect for s in splices for effect in self._settled(s, s.abort(reason))]

    def drop(self, ends: Ends, reason: str) -> list[Effect]:
        """End one connection, if it is not joined yet: it cannot be."""
        splice = self._splices.get(_key(ends))
        return [] if splice is None else self._settled(splice, splice.abort(reason))

    def _settled(self, splice: Splice, effects: list[Effect]) -> list[Effect]:
        key = _key(splice.ends)
        self._deadlines.set(key, splice.deadline())
        if splice.stage is Stage.DONE:
            del self._splices[key]
        return effects


def _key(ends: Ends) -> _Key:
    return ends.peer, ends.peer_port, ends.local, ends.port
