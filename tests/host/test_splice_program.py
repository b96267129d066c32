"""The kernel's part of splicing, frame by frame: the kernel runs a program on what we give it."""

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host import kernel
from jitsu.core.segment import Ends, decode, encode
from jitsu.core.splice import Numbers
from jitsu.host import bpf, splice
from jitsu.host.splice import Splicer
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv4
from jitsu.wire.tcp import Flags, Options, Segment, seq_add

pytestmark = kernel.marks()
GO_ON, DROP = -1, 2
_TEST_RUN, _SYSCALL = 10, bpf._SYSCALL["x86_64"]
ISN, DELTA = 1, 0xFFFF_1234
NUMBERS = Numbers(seq_add(ISN, DELTA), ISN, 6)
GUEST, CLIENT = Mac(b"\x02guest"[:6]), Mac(b"\x02client"[:6])
ENDS4 = Ends(GUEST, IPv4Address("10.77.0.10"), 80, CLIENT, IPv4Address("10.77.0.9"), 40000)
ENDS6 = Ends(GUEST, IPv6Address("fd77::10"), 80, CLIENT, IPv6Address("fd77::9"), 40000)
EITHER = pytest.mark.parametrize("ends", [ENDS4, ENDS6])


class Program(Splicer):
    """The programs, attached to nothing."""

    def __init__(self) -> None:
        self.loaded = bpf.load(splice.OBJECT)
        self._flows = self.loaded.map

    def close(self) -> None:
        self.loaded.close()

    def sends(self, frame: bytes) -> tuple[int, bytes]:
        """Return what becomes of a frame of the guest's."""
        return self._run("from_guest", frame)

    def gets(self, frame: bytes) -> tuple[int, bytes]:
        """Return what becomes of a frame to the guest."""
        return self._run("to_guest", frame)

    def _run(self, name: str, frame: bytes) -> tuple[int, bytes]:
        given = ctypes.create_string_buffer(frame, len(frame))
        got = ctypes.create_string_buffer(len(frame) + 64)
        head = (self.loaded.programs[name], 0, len(frame), len(got))
        addresses = (ctypes.addressof(given), ctypes.addressof(got))
        attributes = ctypes.create_string_buffer(struct.pack("<4I2Q", *head, *addresses), 128)
        assert ctypes.CDLL(None).syscall(_SYSCALL, _TEST_RUN, attributes, 128) == 0
        _, verdict, _, size = struct.unpack_from("<IiII", attributes.raw)
        return verdict, got.raw[:size]


@pytest.fixture
def program() -> Iterator[Program]:
    it = Program()
    yield it
    it.close()


def said(ends: Ends, flags: Flags, seq: int = 5, ack: int = 6, payload: bytes = b"") -> bytes:
    """Return a segment of the guest's; with `ends` turned, one of the client's."""
    content = Segment(ends.port, ends.peer_port, seq, ack, flags, 1000, payload=payload)
    return encode(ends, content)


numbers = st.integers(0, 0xFFFF_FFFF)


@EITHER
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    delta=numbers,
    seq=numbers,
    ack=numbers,
    payload=st.binary(max_size=1400),
    mss=st.none() | st.just(1460),
)
def test_numbers_are_shifted_and_sums_are_right(
    program: Program, ends: Ends, delta: int, seq: int, ack: int, payload: bytes, mss: int | None
) -> None:
    program.add(ends, Numbers(delta, 0, 0))
    content = Segment(80, 40000, seq, ack, Flags.ACK, 1000, Options(mss=mss), payload)
    verdict, frame = program.sends(encode(ends, content))
    assert verdict == GO_ON
    assert decode(frame) == (ends.turned(), replace(content, seq=seq_add(seq, delta)))
    back = replace(content, source_port=40000, destination_port=80)
    verdict, frame = program.gets(encode(ends.turned(), back))
    assert verdict == GO_ON
    assert decode(frame) == (ends, replace(back, ack=seq_add(ack, -delta)))


@EITHER
def test_what_acknowledges_nothing_has_nothing_to_shift(program: Program, ends: Ends) -> None:
    program.add(ends, NUMBERS)
    frame = said(ends.turned(), Flags.RST)
    assert program.gets(frame) == (GO_ON, frame)


@EITHER
def test_a_guest_is_not_heard_before_its_number_is_known(program: Program, ends: Ends) -> None:
    program.add(ends, None)
    for flags in (Flags.SYN | Flags.ACK, Flags.RST | Flags.ACK, Flags.ACK):
        assert program.sends(said(ends, flags))[0] == DROP
    assert program.gets(said(ends.turned(), Flags.ACK))[0] == DROP
    syn = said(ends.turned(), Flags.SYN)
    assert program.gets(syn) == (GO_ON, syn)


OTHERS = [
    said(replace(ENDS4, port=81), Flags.ACK),
    said(replace(ENDS4, peer_port=40001), Flags.ACK),
    said(replace(ENDS4, peer=IPv4Address("10.77.0.8")), Flags.ACK),
    said(replace(ENDS6, local=IPv6Address("fd77::11")), Flags.ACK),
    ethernet.encode(ethernet.Frame(CLIENT, GUEST, 0x0806, bytes(28))),
    said(ENDS4, Flags.ACK)[:-1],
    said(ENDS6, Flags.ACK)[:-1],
    said(ENDS4, Flags.ACK)[:34],
    said(ENDS6, Flags.ACK)[:54],
]


@pytest.mark.parametrize("frame", OTHERS, ids=range(len(OTHERS)))
def test_other_frames_are_left_alone(program: Program, frame: bytes) -> None:
    program.add(ENDS4, NUMBERS)
    program.add(ENDS6, NUMBERS)
    assert program.sends(frame) == (GO_ON, frame)
    assert program.gets(frame) == (GO_ON, frame)


def test_options_of_the_packet_and_fragments(program: Program) -> None:
    program.add(ENDS4, NUMBERS)
    payload = said(ENDS4, Flags.ACK, payload=bytes(range(64)))[34:]
    assert isinstance(ENDS4.local, IPv4Address)
    assert isinstance(ENDS4.peer, IPv4Address)
    plain = ipv4.Packet(ENDS4.local, ENDS4.peer, ipv4.Protocol.TCP, payload)

    def framed(packet: ipv4.Packet) -> bytes:
        return ethernet.encode(ethernet.Frame(CLIENT, GUEST, 0x0800, ipv4.encode(packet)))

    _, frame = program.sends(framed(replace(plain, options=b"\x94\x04\0\0")))
    assert decode(frame)[1].seq == seq_add(5, DELTA)
    first = replace(plain, payload=payload[:40], more_fragments=True)
    _, frame = program.sends(framed(first))
    assert frame[14 + 20 + 4 : 14 + 20 + 8] == seq_add(5, DELTA).to_bytes(4, "big")
    # The second has the bytes of a header where one would be, and is none.
    second = framed(replace(plain, fragment_offset=8))
    assert program.sends(second) == (GO_ON, second)


def is_over(program: Program) -> bool:
    (how,) = program.flows().values()
    return how.is_over


FIN, RST, ACK, SYN = Flags.FIN | Flags.ACK, Flags.RST, Flags.ACK, Flags.SYN


def play(program: Program, ends: Ends, story: list[tuple[str, Flags]]) -> None:
    """Have each say what it does: the client at 6, its FIN before that; a forger does not know."""
    for who, flags in story:
        if who == "guest":
            program.sends(said(ends, flags))
        else:
            seq = 0x4000_0000 if who == "forger" else 5 if flags & Flags.FIN else 6
            program.gets(said(ends.turned(), flags, seq))


@EITHER
@pytest.mark.parametrize(
    ("story", "over"),
    [
        ([("client", ACK), ("guest", ACK)], False),
        ([("client", FIN), ("guest", ACK)], False),
        ([("client", FIN), ("guest", FIN), ("client", ACK)], True),
        ([("guest", FIN), ("client", FIN), ("guest", ACK)], True),
        ([("guest", FIN), ("client", FIN)], False),  # the guest has not got it yet
        ([("guest", FIN), ("forger", FIN), ("guest", ACK)], False),
        ([("guest", RST)], True),
        ([("client", RST)], True),
        ([("client", RST), ("guest", ACK)], False),  # the guest did not believe it
        ([("guest", RST), ("guest", ACK)], False),  # it has refused what another had forged
        ([("forger", RST)], False),
        ([("forger", RST), ("forger", SYN)], False),
        ([("client", RST), ("client", SYN)], True),
        ([("client", RST), ("client", SYN), ("guest", ACK)], False),
    ],
)
def test_when_a_flow_is_over(
    program: Program, ends: Ends, story: list[tuple[str, Flags]], over: bool
) -> None:
    program.add(ends, NUMBERS)
    play(program, ends, story)
    assert is_over(program) is over
    # However that is, it is translated: a guest that has not ended it is understood.
    _, frame = program.sends(said(ends, ACK))
    assert decode(frame)[1].seq == seq_add(5, DELTA)
    _, frame = program.gets(said(ends.turned(), ACK))
    assert decode(frame)[1].ack == seq_add(6, -DELTA)


@EITHER
def test_a_fin_counts_when_all_before_it_is_acknowledged(program: Program, ends: Ends) -> None:
    program.add(ends, NUMBERS)
    program.sends(said(ends, FIN))
    program.gets(said(ends.turned(), FIN, 6, payload=b"bye"))
    program.sends(said(ends, ACK, ack=9))
    assert not is_over(program)
    program.sends(said(ends, ACK, ack=10))
    assert is_over(program)


@EITHER
@pytest.mark.parametrize("end", [[], [("client", RST)], [("client", FIN), ("guest", FIN)]])
def test_a_syn_ack_of_the_guest_with_another_number_begins_another(
    program: Program, ends: Ends, end: list[tuple[str, Flags]]
) -> None:
    program.add(ends, NUMBERS)
    play(program, ends, end)
    syn = said(ends.turned(), SYN, 7000, 0)
    assert program.gets(syn) == (GO_ON, syn)
    assert program.flows()
    answer = said(ends, SYN | ACK, seq_add(ISN, 64_000), 7001)
    assert program.sends(answer) == (GO_ON, answer)
    assert program.flows() == {}
    theirs = said(ends.turned(), ACK, 7001, seq_add(ISN, 64_001))
    assert program.gets(theirs) == (GO_ON, theirs)


@EITHER
def test_a_syn_ack_that_comes_again_is_of_the_same_connection(program: Program, ends: Ends) -> None:
    program.add(ends, NUMBERS)
    play(program, ends, [("client", RST), ("forger", SYN)])
    _, frame = program.sends(said(ends, SYN | ACK, ISN))
    assert decode(frame)[1].seq == NUMBERS.iss
    assert not is_over(program)


@EITHER
def test_a_reset_of_what_is_over_anyway_is_not_heard(program: Program, ends: Ends) -> None:
    """The guest has got a late ACK of a connection that both have ended."""
    program.add(ends, NUMBERS)
    program.sends(said(ends, FIN))
    assert program.sends(said(ends, RST))[0] == GO_ON
    program.add(ends, NUMBERS)
    play(program, ends, [("client", FIN), ("guest", FIN)])
    assert program.sends(said(ends, RST))[0] == DROP
    assert program.sends(said(ends, FIN))[0] == GO_ON
    assert program.sends(said(ends, RST | ACK))[0] == GO_ON, "it refuses another connection"


def test_what_is_over_is_swept_when_it_is_quiet(program: Program) -> None:
    program.add(ENDS4, NUMBERS)
    program.add(ENDS6, NUMBERS)
    program.sends(said(ENDS4, RST))
    program.sends(said(ENDS6, ACK))
    flows = {flow.peer.version: how for flow, how in program.flows().items()}
    assert program.sweep(flows[4].seen + 119.9) == 2
    assert program.sweep(flows[4].seen + 120.0) == 1
    assert program.sweep(flows[6].seen + 1e6) == 1
