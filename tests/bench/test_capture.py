"""What a capture counts: what was sent again, by whom, and resets."""

from dataclasses import replace

import pytest

from core.test_connection import ENDS
from jitsu.bench.capture import Seen
from jitsu.core.segment import Ends, encode
from jitsu.wire.tcp import Flags, Segment, seq_add

ACK, FIN, RST, SYN = Flags.ACK, Flags.FIN, Flags.RST, Flags.SYN
FIRST, THEIRS = 0xFFFF_FFFE, 7


def client(flags: Flags, at: int, payload: bytes = b"") -> tuple[bool, Ends, Segment]:
    """Return what the client sends; its numbers wrap."""
    seq = seq_add(FIRST, at)
    return True, ENDS.turned(), Segment(ENDS.peer_port, 80, seq, 0, flags, 9, payload=payload)


def guest(flags: Flags, at: int, payload: bytes = b"") -> tuple[bool, Ends, Segment]:
    return False, ENDS, Segment(80, ENDS.peer_port, THEIRS + at, 0, flags, 9, payload=payload)


TALK = [
    client(SYN, 0),
    guest(SYN | ACK, 0),
    client(ACK, 1),
    client(ACK, 1, b"GET"),
    guest(ACK, 1),
    guest(ACK, 1, b"page"),
    client(ACK, 4),
    guest(FIN | ACK, 5),
    client(FIN | ACK, 4),
    guest(ACK, 6),
]


def counts(talk: list[tuple[bool, Ends, Segment]]) -> tuple[int, int, int]:
    seen = Seen()
    for at, (sent, ends, segment) in enumerate(talk):
        seen.note(encode(ends, segment), 1.0 + at, sent=sent)
    return seen.syn_retransmits, seen.retransmits, seen.resets


def test_a_clean_talk() -> None:
    seen = Seen()
    for at, (sent, ends, segment) in enumerate(TALK):
        seen.note(encode(ends, segment), 1.0 + at, sent=sent)
    assert (seen.syn, seen.syn_ack, seen.first_byte) == (1.0, 2.0, 6.0)
    assert counts(TALK) == (0, 0, 0)


@pytest.mark.parametrize(
    ("at", "again", "expected"),
    [
        (1, client(SYN, 0), (1, 0, 0)),
        (4, client(ACK, 1, b"GET"), (0, 1, 0)),
        (6, guest(ACK, 1, b"page"), (0, 1, 0)),
        (9, client(FIN | ACK, 4), (0, 1, 0)),
        (9, guest(FIN | ACK, 5), (0, 1, 0)),
        (9, guest(ACK, 5), (0, 0, 0)),
        (4, guest(RST, 1), (0, 0, 1)),
        (4, client(RST, 4), (0, 0, 0)),
    ],
)
def test_what_is_said_again(
    at: int, again: tuple[bool, Ends, Segment], expected: tuple[int, int, int]
) -> None:
    assert counts([*TALK[:at], again, *TALK[at:]]) == expected


def test_a_port_that_is_used_again() -> None:
    sent, ends, syn = client(SYN, 0)
    anew = [(sent, ends, replace(syn, seq=77)), guest(SYN | ACK, 50)]
    assert counts(TALK + anew) == (0, 0, 0)
