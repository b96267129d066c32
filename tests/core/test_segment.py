"""Segments in frames, of either family."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from jitsu.core.segment import Ends, decode, encode
from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv4
from jitsu.wire.tcp import Flags, Segment

HERE, THERE = Mac(b"\x02\0\0\0\0\1"), Mac(b"\x02\0\0\0\0\2")
ENDS4 = Ends(HERE, IPv4Address("10.77.0.10"), 80, THERE, IPv4Address("10.77.0.9"), 40000)
ENDS6 = Ends(HERE, IPv6Address("fd77::10"), 80, THERE, IPv6Address("fd77::9"), 40000)
SEGMENT = Segment(80, 40000, 7, 99, Flags.ACK, 1000, payload=b"hello")


@pytest.mark.parametrize("ends", [ENDS4, ENDS6])
def test_what_one_side_sends_the_other_sees(ends: Ends) -> None:
    assert decode(encode(ends, SEGMENT)) == (ends.turned(), SEGMENT)
    assert ends.turned().turned() == ends


@pytest.mark.parametrize("ends", [ENDS4, ENDS6])
def test_a_checksum_may_be_left_to_others(ends: Ends) -> None:
    frame = bytearray(encode(ends, SEGMENT))
    frame[-len(SEGMENT.payload) - 4] ^= 0xFF
    with pytest.raises(WireError):
        decode(bytes(frame))
    assert decode(bytes(frame), verify=False) == (ends.turned(), SEGMENT)


def _frame(ethertype: int, payload: bytes) -> bytes:
    return ethernet.encode(ethernet.Frame(HERE, THERE, ethertype, payload))


DATAGRAM = ipv4.Packet(IPv4Address("10.77.0.9"), IPv4Address("10.77.0.10"), 17, b"")
WHOLE6 = encode(ENDS6, SEGMENT)[ethernet.HEADER_BYTES :]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        _frame(0x0806, b""),
        _frame(0x0800, ipv4.encode(DATAGRAM)),
        _frame(0x86DD, b"\x60"),
        _frame(0x86DD, b"\x40" + WHOLE6[1:]),
        _frame(0x86DD, WHOLE6[:-1]),
        _frame(0x86DD, WHOLE6[:6] + b"\x11" + WHOLE6[7:]),
    ],
)
def test_what_holds_no_segment(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode(frame)
