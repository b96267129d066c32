"""What a client's network card sees, with the kernel's own time-stamps."""

import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Self

from jitsu.wire import ipv4, tcp
from jitsu.wire.ethernet import HEADER_BYTES
from jitsu.wire.peek import Kind, glance

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
    resets: int = 0
    _flows: set[tuple[int, bytes]] = field(default_factory=set)

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
        elif sent and seen.kind is Kind.TCP_SYN:
            flow = (seen.source_port, seen.destination_ip)
            self.syn_retransmits += flow in self._flows
            self._flows.add(flow)
            self.syn = self.syn or at
        elif not sent and seen.kind is Kind.TCP_OTHER:
            self._received(frame, seen.flags, at)

    def _received(self, frame: bytes, flags: int, at: float) -> None:
        packet = ipv4.decode(frame[HEADER_BYTES:])
        segment = tcp.decode(packet.payload, packet.source, packet.destination, verify=False)
        self.resets += bool(flags & tcp.Flags.RST)
        if flags & tcp.Flags.SYN:
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

    def drain(self) -> Seen:
        """Return what has been seen since the last time."""
        seen = Seen()
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
