"""A TCP connection as it is written to the store, to be continued by somebody else.

One line of text, `key=value` apart by single spaces, so that `jitsu store read` shows it to people
and a guest in C reads it without a parser's worth of code:

    state=established local=10.77.0.10 port=80 peer=10.77.0.9 peer_port=40000
    peer_mac=02:00:00:00:00:09 iss=7 snd_una=8 snd_nxt=8 snd_wnd=64240 irs=99 rcv_nxt=117
    rcv_wnd=8174 mss=1460 snd_wscale=0 rcv_wscale=0 sack=0 ts=0 ts_val=0 ts_recent=0 rx=17

The names are those of RFC 9293 section 3.3.1 and RFC 7323. Numbers are decimal. Keys that a reader
does not know it skips.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from jitsu.errors import WireError
from jitsu.model import Mac

RX_NODE_BYTES_MAX = 2048
"""Bytes of the client's in one node: half of what a node of XenStore holds."""


class TcbState(StrEnum):
    """Of the states of RFC 9293 those that a connection can be in before it is handed over."""

    SYN_RECEIVED = "syn-received"
    """Our SYN-ACK is not acknowledged: `snd_una` is `iss`."""
    ESTABLISHED = "established"
    CLOSE_WAIT = "close-wait"
    """The client has sent FIN, which is acknowledged: `rcv_nxt` is beyond it."""


@dataclass(frozen=True, slots=True)
class Tcb:
    """What the coming owner must know of a connection.

    Nothing but the SYN-ACK has been sent, so `snd_nxt` is `iss + 1`. The `rx` bytes of the client
    that are acknowledged end at `rcv_nxt`, but for the FIN in CLOSE_WAIT, and nobody has read them.
    Windows are in bytes, already scaled; `rcv_wnd` begins at `rcv_nxt`, and the client has been
    told of it. `mss` is the largest segment that the client takes. With `ts`, `ts_val` is the
    latest value of our clock that the client has seen, in milliseconds: go on from there.
    """

    state: TcbState
    local: IPv4Address | IPv6Address
    port: int
    peer: IPv4Address | IPv6Address
    peer_port: int
    peer_mac: Mac
    iss: int
    snd_una: int
    snd_nxt: int
    snd_wnd: int
    irs: int
    rcv_nxt: int
    rcv_wnd: int
    mss: int
    snd_wscale: int = 0
    rcv_wscale: int = 0
    sack: bool = False
    ts: bool = False
    ts_val: int = 0
    ts_recent: int = 0
    rx: int = 0


_NUMBERS = {
    "port": 0xFFFF,
    "peer_port": 0xFFFF,
    **dict.fromkeys(("iss", "snd_una", "snd_nxt", "irs", "rcv_nxt"), 0xFFFF_FFFF),
    **dict.fromkeys(("snd_wnd", "rcv_wnd", "rx"), 1 << 30),
    "mss": 0xFFFF,
    **dict.fromkeys(("snd_wscale", "rcv_wscale"), 14),
    **dict.fromkeys(("ts_val", "ts_recent"), 0xFFFF_FFFF),
}


def encode(tcb: Tcb) -> bytes:
    """Render a connection as the value of a node."""
    return " ".join(f"{f.name}={_render(getattr(tcb, f.name))}" for f in fields(tcb)).encode()


def decode(value: bytes) -> Tcb:
    """Parse the value of a node. Raises WireError."""
    try:
        words = dict(word.split("=", 1) for word in value.decode("ascii").split(" "))
        local, peer = ip_address(words["local"]), ip_address(words["peer"])
        mac = bytes.fromhex(words["peer_mac"].replace(":", ""))
        state = TcbState(words["state"])
        numbers: dict[str, Any] = {key: int(words[key]) for key in _NUMBERS}
        sack, ts = (int(words[key]) != 0 for key in ("sack", "ts"))
    except (ValueError, KeyError) as error:
        raise WireError(f"no connection: {error}") from None
    if len(mac) != 6 or local.version != peer.version:
        raise WireError("no connection: its addresses do not go together")
    for key, most in _NUMBERS.items():
        if not 0 <= numbers[key] <= most:
            raise WireError(f"no connection: {key}={numbers[key]}")
    return Tcb(state, local, peer=peer, peer_mac=Mac(mac), sack=sack, ts=ts, **numbers)


def _render(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex(":")
    return str(int(value) if isinstance(value, bool) else value)
