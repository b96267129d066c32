"""What a client's network card sees, with the kernel's own time-stamps."""

import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Self

from jitsu.core.segment import Ends, decode
from jitsu.wire.peek import Kind, glance
from jitsu.wire.tcp import Flags, seq_add, seq_diff

_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
_BUFFER = 8 << 20
"""Bytes; frames wait in the socket until somebody looks, so that looking costs the run nothing."""
_DNS = 53


@dataclass(slots=True)
class Seen:
    """One request, as it went over the wire; times are Unix time in seconds, 0 if not seen."""

    query: float = 0.0
    answer: float = 0.0
    syn: float = 0.0
    syn_ack: float = 0.0
    first_byte: float = 0.0
    syn_retransmits: int = 0
    """SYNs that the client has sent again."""
    retransmits: int = 0
    """Segments with data or FIN that either end has sent again."""
    resets: int = 0
    """RSTs that the client was sent."""
    _next: dict[Ends, int] = field(default_factory=dict)
    """What each end of a connection sends next."""

    def note(self, frame: bytes, at: float, *, sent: bool) -> None:
        """Take in one frame."""
        seen = glance(frame)
        if seen is None:
            return
        if seen.kind is Kind.UDP:
            if sent and seen.destination_port == _DNS:
                self.query = self.query or at
            elif seen.source_port == _DNS:
                self.answer = self.answer or at
        elif seen.kind in (Kind.TCP_SYN, Kind.TCP_OTHER):
            self._segment(frame, at, sent=sent)

    def _segment(self, frame: bytes, at: float, *, sent: bool) -> None:
        ends, segment = decode(frame, verify=False)  # which is left to the hardware
        known = self._next.get(ends)
        end = seq_add(segment.seq, segment.length)
        begins = Flags.SYN in segment.flags and end != known
        again = known is not None and not begins and seq_diff(segment.seq, known) < 0
        if begins or not again:
            self._next[ends] = end
        if sent and Flags.SYN in segment.flags:
            self.syn_retransmits += again
            self.syn = self.syn or at
        elif segment.length and Flags.SYN not in segment.flags:
            self.retransmits += again
        if sent:
            return
        self.resets += Flags.RST in segment.flags
        if Flags.SYN in segment.flags:
            self.syn_ack = self.syn_ack or at
        if segment.payload:
            self.first_byte = self.first_byte or at


class Capture:
    """Listens on an interface of the namespace that it is made in."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, _ETH_P_ALL))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop listening."""
        self._socket.close()

    def drain(self, seen: Seen | None = None) -> Seen:
        """Return what has been seen since the last time, added to `seen` if that is given."""
        seen = seen or Seen()
        while True:
            try:
                frame, ancillary, _, origin = self._socket.recvmsg(65536, 64)
            except BlockingIOError:
                return seen
            stamps = [data for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS]
            at = time.time()
            if stamps:
                seconds, nanoseconds = struct.unpack("qq", stamps[0][:16])
                at = seconds + nanoseconds / 1e9
            seen.note(frame, at, sent=origin[2] == socket.PACKET_OUTGOING)
