"""One TCP connection, held open for a guest that is not there yet.

The passive half of RFC 9293, as far as a connection can come without a server: Synjitsu answers
the handshake, acknowledges what the client sends and keeps it, and sends nothing of its own. Then
somebody else goes on (`tcb`), or nobody (`abort`).

            SYN                    ACK                      FIN
    (none) ----> SYN_RECEIVED ----------> ESTABLISHED ----------> CLOSE_WAIT
                     |    RST, no answer       |    RST                | RST
                     +-------------------> CLOSED <--------------------+

Theory of operation.

*Whatever is said must be true of the coming owner.* Options are negotiated only as its `Terms`
say that it can go on with them, and the window is what it can take over at once. The right edge of
the window never moves: the buffer ends where it ends, for nobody reads.

*Segments in order are kept, others are not*: they get the acknowledgement of what is there, and
the client sends again. So there is no SACK block to send either; that it was permitted is for the
owner to come. Of a segment that overlaps what is there or exceeds the window, what is new and fits
is taken. When the budget of all connections is exhausted, what does not fit is not acknowledged.

*A stranger who guesses* gets nowhere: RST must hit `rcv_nxt` exactly, a RST or SYN elsewhere in the
window gets a challenge (RFC 5961), an acknowledgement of what was never sent is not taken.

Left out: urgent data (delivered in line, RFC 6093), round-trip measurement (there is nothing to
retransmit but the SYN-ACK), data in a SYN (the client sends it again, RFC 9293 allows it).
"""

from typing import Self

from jitsu.core.segment import Ends
from jitsu.model import Terms
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import (
    MSS_DEFAULT,
    MSS_MIN,
    Flags,
    Options,
    Segment,
    Timestamps,
    seq_add,
    seq_diff,
    seq_lt,
)

SYN_ACK_RETRY = 1.0
"""Seconds (RFC 6298 section 2.1), doubled with each try."""
SYN_ACK_TRIES = 4
"""So a half-open connection ends after 15 s; a client that is there has answered long before."""
_WINDOW_FIELD_MAX = 0xFFFF
_MASK = 0xFFFF_FFFF


class Connection:
    """See the module's theory of operation."""

    def __init__(
        self, ends: Ends, syn: Segment, terms: Terms, numbers: tuple[int, int], now: float
    ) -> None:
        """Begin with the client's SYN. `numbers` are an initial sequence number and a clock's.

        Nothing is sent yet: `syn_ack` is the answer.
        """
        offered = syn.options
        self.ends = ends
        self.state: TcbState | None = TcbState.SYN_RECEIVED
        """None once it is closed."""
        self.received = bytearray()
        self._terms = terms
        self._iss, self._stamp = numbers
        self._irs = syn.seq
        self._rcv_nxt = seq_add(syn.seq, 1)
        default = MSS_DEFAULT[ends.local.version]
        self._mss = max(MSS_MIN, default if offered.mss is None else offered.mss)
        scaled = terms.window_scale is not None and offered.window_scale is not None
        self._snd_wscale = offered.window_scale or 0 if scaled else 0
        self._rcv_wscale = terms.window_scale or 0 if scaled else 0
        self._sack = terms.sack and offered.sack_permitted
        self._ts_recent = (
            offered.timestamps.tsval if terms.timestamps and offered.timestamps else None
        )
        self._ts_val = 0
        self._snd_wnd = syn.window
        self._snd_wl1 = syn.seq
        options = Options(
            mss=terms.mss,
            window_scale=self._rcv_wscale if scaled else None,
            sack_permitted=self._sack,
            timestamps=self._timestamps(now),
        )
        window = min(terms.window, _WINDOW_FIELD_MAX)  # that of a SYN is not scaled
        flags = Flags.SYN | Flags.ACK
        self.syn_ack = self._segment(flags, self._iss, self._rcv_nxt, window, options)
        """The same however often it is sent."""
        self._tries = 1
        self._deadline: float | None = now + SYN_ACK_RETRY

    @classmethod
    def revive(cls, ends: Ends, ack: Segment, mss: int, terms: Terms, now: float) -> Self:
        """Return the half-open connection of which nothing was kept but a cookie.

        Nothing but the client's `mss` was negotiated. Its `ack` is still to be handled.
        """
        plain = Terms(terms.connections, terms.window, terms.mss)
        syn = Segment(
            ends.peer_port, ends.port, seq_add(ack.seq, -1), 0, Flags.SYN, ack.window, Options(mss)
        )
        return cls(ends, syn, plain, (seq_add(ack.ack, -1), 0), now)

    def __repr__(self) -> str:
        """Say who it is with, and how far it has come."""
        state = self.state or "closed"
        ends = self.ends
        return f"<Connection {ends.peer}:{ends.peer_port} {state}, {len(self.received)} bytes>"

    @property
    def irs(self) -> int:
        """The client's initial sequence number."""
        return self._irs

    @property
    def is_half_open(self) -> bool:
        """Say whether the handshake is under way."""
        return self.state is TcbState.SYN_RECEIVED

    def expects(self, segment: Segment) -> bool:
        """Say whether it is this SYN-ACK that a segment acknowledges, if none was before."""
        return not self.is_half_open or seq_add(segment.ack, -1) == self._iss

    def deadline(self) -> float | None:
        """Return when `tick` next has something to do, if ever."""
        return self._deadline

    def tick(self, now: float) -> list[Segment]:
        """Send the SYN-ACK again, or give up."""
        if self._deadline is None or now < self._deadline:
            return []
        if self._tries == SYN_ACK_TRIES:
            self._close()
            return []
        self._deadline = now + SYN_ACK_RETRY * 2**self._tries
        self._tries += 1
        return [self.syn_ack]

    def handle(self, segment: Segment, now: float, room: int) -> list[Segment]:
        """Take a segment of the client's; return what answers it.

        `room` is how many more bytes may be kept, whatever the window says.
        """
        if self.state is None:
            return []
        if segment.flags & Flags.SYN:
            return self._syn(segment, now)
        if self._is_stale(segment):
            return [self._ack(now)]
        if not self._is_acceptable(segment):
            return [] if segment.flags & Flags.RST else [self._ack(now)]
        if segment.flags & Flags.RST:
            return self._rst(segment, now)
        if not segment.flags & Flags.ACK:
            return []
        return self._acknowledged(segment, now) or self._text(segment, now, room)

    def abort(self) -> Segment:
        """End it; return the RST that says so."""
        reset = self._segment(
            Flags.RST | Flags.ACK, seq_add(self._iss, 1), self._rcv_nxt, 0, Options()
        )
        self._close()
        return reset

    def tcb(self) -> Tcb:
        """Return what the next owner must know; `received` goes with it."""
        assert self.state is not None, "a closed connection has no next owner"
        half_open = self.is_half_open
        return Tcb(
            state=self.state,
            local=self.ends.local,
            port=self.ends.port,
            peer=self.ends.peer,
            peer_port=self.ends.peer_port,
            peer_mac=self.ends.peer_mac,
            iss=self._iss,
            snd_una=self._iss if half_open else seq_add(self._iss, 1),
            snd_nxt=seq_add(self._iss, 1),
            snd_wnd=self._snd_wnd,
            irs=self._irs,
            rcv_nxt=self._rcv_nxt,
            rcv_wnd=self._window,
            mss=self._mss,
            snd_wscale=self._snd_wscale,
            rcv_wscale=self._rcv_wscale,
            sack=self._sack,
            ts=self._ts_recent is not None,
            ts_val=self._ts_val,
            ts_recent=self._ts_recent or 0,
            rx=len(self.received),
        )

    # What each kind of segment means (RFC 9293 section 3.10.7.4).

    def _syn(self, segment: Segment, now: float) -> list[Segment]:
        again = segment.seq == self._irs and not segment.flags & (Flags.ACK | Flags.RST)
        if again and self.is_half_open:
            return [self.syn_ack]
        return [] if segment.flags & Flags.RST else [self._ack(now)]

    def _rst(self, segment: Segment, now: float) -> list[Segment]:
        if segment.seq != self._rcv_nxt:
            return [self._ack(now)]
        self._close()
        return []

    def _acknowledged(self, segment: Segment, now: float) -> list[Segment]:
        """Take the acknowledgement; return what must be said to a wrong one, and nothing else."""
        ours = segment.ack == seq_add(self._iss, 1)
        if self.is_half_open:
            if not ours:
                reset = Segment(
                    self.ends.port, self.ends.peer_port, segment.ack, 0, Flags.RST, window=0
                )
                return [reset]
            self.state = TcbState.ESTABLISHED
            self._deadline = None
        elif seq_lt(seq_add(self._iss, 1), segment.ack):
            return [self._ack(now)]
        if not seq_lt(segment.seq, self._snd_wl1):
            self._snd_wl1 = segment.seq
            self._snd_wnd = segment.window << self._snd_wscale
        stamps = segment.options.timestamps
        if self._ts_recent is not None and stamps and seq_diff(segment.seq, self._rcv_nxt) <= 0:
            self._ts_recent = stamps.tsval
        return []

    def _text(self, segment: Segment, now: float, room: int) -> list[Segment]:
        """Keep what is new of the payload, and note the client's FIN."""
        if not segment.length:
            return []
        skip = seq_diff(self._rcv_nxt, segment.seq)
        if skip < 0 or self.state is TcbState.CLOSE_WAIT:
            return [self._ack(now)]
        new = segment.payload[skip : skip + min(self._window, room)]
        self.received += new
        self._rcv_nxt = seq_add(self._rcv_nxt, len(new))
        all_taken = skip + len(new) == len(segment.payload)
        if segment.flags & Flags.FIN and all_taken:
            self._rcv_nxt = seq_add(self._rcv_nxt, 1)
            self.state = TcbState.CLOSE_WAIT
        return [self._ack(now)]

    def _is_stale(self, segment: Segment) -> bool:
        """Say whether timestamps show the segment to be old (PAWS, RFC 7323 section 5)."""
        stamps = segment.options.timestamps
        if self._ts_recent is None or segment.flags & Flags.RST:
            return False
        return stamps is None or seq_lt(stamps.tsval, self._ts_recent)

    def _is_acceptable(self, segment: Segment) -> bool:
        """Say whether any of the segment is in the window (RFC 9293 section 3.10.7.4)."""
        first = seq_diff(segment.seq, self._rcv_nxt)
        window = self._window
        if not segment.length:
            return first == 0 or 0 <= first < window
        return window > 0 and first < window and first + segment.length > 0

    # Small things.

    @property
    def _window(self) -> int:
        return self._terms.window - len(self.received)

    def _ack(self, now: float) -> Segment:
        # Rounded up: rounded down, the right edge would move back.
        window = -(-self._window >> self._rcv_wscale)
        options = Options(timestamps=self._timestamps(now))
        seq = seq_add(self._iss, 1)
        return self._segment(Flags.ACK, seq, self._rcv_nxt, min(window, _WINDOW_FIELD_MAX), options)

    def _timestamps(self, now: float) -> Timestamps | None:
        if self._ts_recent is None:
            return None
        self._ts_val = (int(now * 1000) + self._stamp) & _MASK
        return Timestamps(self._ts_val, self._ts_recent)

    def _segment(self, flags: Flags, seq: int, ack: int, window: int, options: Options) -> Segment:
        return Segment(self.ends.port, self.ends.peer_port, seq, ack, flags, window, options)

    def _close(self) -> None:
        self.state = None
        self._deadline = None
