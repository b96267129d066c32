from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu.errors import WireError
from jitsu.model import Mac
from jitsu.wire.tcb import Tcb, TcbState, decode, encode

ANY32 = st.integers(0, 0xFFFF_FFFF)
PORT = st.integers(0, 0xFFFF)
LINE = (
    b"state=established local=10.77.0.10 port=80 peer=10.77.0.9 peer_port=40000 "
    b"peer_mac=02:00:00:00:00:09 iss=7 snd_una=8 snd_nxt=8 snd_wnd=64240 irs=99 rcv_nxt=117 "
    b"rcv_wnd=8174 mss=1460 snd_wscale=0 rcv_wscale=0 sack=0 ts=0 ts_val=0 ts_recent=0 rx=17"
)
TCB = Tcb(
    TcbState.ESTABLISHED,
    local=IPv4Address("10.77.0.10"),
    port=80,
    peer=IPv4Address("10.77.0.9"),
    peer_port=40000,
    peer_mac=Mac(bytes.fromhex("020000000009")),
    iss=7,
    snd_una=8,
    snd_nxt=8,
    snd_wnd=64240,
    irs=99,
    rcv_nxt=117,
    rcv_wnd=8174,
    mss=1460,
    rx=17,
)


def tcbs() -> st.SearchStrategy[Tcb]:
    pairs = st.one_of(
        st.tuples(st.builds(IPv4Address, ANY32), st.builds(IPv4Address, ANY32)),
        st.tuples(*[st.builds(IPv6Address, st.integers(0, 2**128 - 1))] * 2),
    )
    window = st.integers(0, 1 << 30)
    shift = st.integers(0, 14)
    return pairs.flatmap(
        lambda pair: st.builds(
            Tcb,
            local=st.just(pair[0]),
            peer=st.just(pair[1]),
            port=PORT,
            peer_port=PORT,
            peer_mac=st.builds(Mac, st.binary(min_size=6, max_size=6)),
            iss=ANY32,
            snd_una=ANY32,
            snd_nxt=ANY32,
            snd_wnd=window,
            irs=ANY32,
            rcv_nxt=ANY32,
            rcv_wnd=window,
            mss=PORT,
            snd_wscale=shift,
            rcv_wscale=shift,
            ts_val=ANY32,
            ts_recent=ANY32,
            rx=window,
        )
    )


def test_a_connection_is_one_line() -> None:
    assert encode(TCB) == LINE
    assert decode(LINE + b" later=1") == TCB


@given(tcbs())
def test_what_is_written_is_what_is_read(tcb: Tcb) -> None:
    assert decode(encode(tcb)) == tcb
    assert len(encode(tcb)) <= 512, "a guest in C reads it into so much"


@given(st.binary())
def test_any_bytes_raise_only_wire_error(value: bytes) -> None:
    with pytest.raises(WireError):
        decode(value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"iss=7", b"iss=4294967296"),
        (b"iss=7", b"iss=-1"),
        (b"iss=7", b"iss"),
        (b"mss=1460 ", b""),
        (b"state=established", b"state=listen"),
        (b"peer=10.77.0.9", b"peer=fd77::9"),
        (b"02:00:00:00:00:09", b"02:00"),
        (b"ts=0", b"ts=no"),
        (b"snd_wscale=0", b"snd_wscale=15"),
    ],
)
def test_what_makes_no_sense_is_refused(old: bytes, new: bytes) -> None:
    assert old in LINE
    with pytest.raises(WireError):
        decode(LINE.replace(old, new))
