"""Connections that become sockets of this kernel, by TCP_REPAIR (net/ipv4/tcp.c, after CRIU).

A socket in repair mode takes sequence numbers, queues, options and windows as they are told it,
binds and connects without a packet, and is ESTABLISHED when the mode ends. Two states of a
connection have no such way in:

    syn-received    the socket is ESTABLISHED. Should the SYN-ACK have been lost, the client asks
                    again and the kernel's answer does not help it, so the SYN-ACK is sent once
                    more. Keep-alives find out who was never there.
    close-wait      the client's FIN is sent to the socket, from this machine to itself.
"""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from jitsu.wire import ipv4, ipv6, tcp
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import Flags, Timestamps, seq_add

# linux/tcp.h, netinet/in.h
_REPAIR, _REPAIR_QUEUE, _QUEUE_SEQ, _REPAIR_OPTIONS = 19, 20, 21, 22
_TIMESTAMP, _REPAIR_WINDOW = 24, 29
_RECV_QUEUE, _SEND_QUEUE = 1, 2
_OPTION_MSS, _OPTION_WINDOW_SCALE, _OPTION_SACK, _OPTION_TIMESTAMPS = 2, 3, 4, 8
_IPV6_HDRINCL = 36
_PIECE = 16 << 10
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds and tries: as long as Synjitsu has patience with who is half open."""


def adopt(flow: Tcb, received: bytes) -> socket.socket:
    """Return a connected socket that goes on with `flow`, whose next bytes are `received`.

    Needs CAP_NET_ADMIN, and a route to the client. Raises OSError.
    """
    sock = socket.socket(_family(flow), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
        _restore(sock, flow, received)
        sock.setsockopt(socket.IPPROTO_TCP, _REPAIR, 0)
        if flow.state is TcbState.SYN_RECEIVED:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            _send_raw(flow, syn_ack(flow), to_client=True)
        elif flow.state is TcbState.CLOSE_WAIT:
            _send_raw(flow, fin(flow), to_client=False)
    except OSError:
        sock.close()  # in repair mode that sends nothing
        raise
    return sock


def _restore(sock: socket.socket, flow: Tcb, received: bytes) -> None:
    def number(queue: int, value: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, queue)
        sock.setsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ, struct.pack("=I", value))

    expected = expects(flow)
    number(_SEND_QUEUE, flow.snd_nxt)
    number(_RECV_QUEUE, seq_add(expected, -len(received)))
    sock.bind((str(flow.local), flow.port))
    sock.connect((str(flow.peer), flow.peer_port))
    sock.setsockopt(socket.IPPROTO_TCP, _REPAIR_OPTIONS, options(flow))
    if flow.ts:
        clock = flow.ts_val + 1 & 0xFFFF_FFFF
        sock.setsockopt(socket.IPPROTO_TCP, _TIMESTAMP, struct.pack("=I", clock))
    sock.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, _RECV_QUEUE)
    for at in range(0, len(received), _PIECE):
        sock.sendall(received[at : at + _PIECE])
    windows = (expected, flow.snd_wnd, flow.snd_wnd, flow.rcv_wnd, expected)
    sock.setsockopt(socket.IPPROTO_TCP, _REPAIR_WINDOW, struct.pack("=5I", *windows))


def expects(flow: Tcb) -> int:
    """Return the number after the last byte of the client's; its FIN, if any, has it."""
    return seq_add(flow.rcv_nxt, -1) if flow.state is TcbState.CLOSE_WAIT else flow.rcv_nxt


def options(flow: Tcb) -> bytes:
    """Return what was agreed on, as an array of struct tcp_repair_opt."""
    found = [(_OPTION_MSS, flow.mss)]
    if flow.snd_wscale or flow.rcv_wscale:
        found.append((_OPTION_WINDOW_SCALE, flow.snd_wscale | flow.rcv_wscale << 16))
    if flow.sack:
        found.append((_OPTION_SACK, 0))
    if flow.ts:
        found.append((_OPTION_TIMESTAMPS, 0))
    return b"".join(struct.pack("=II", *option) for option in found)


def syn_ack(flow: Tcb) -> tcp.Segment:
    """Return the segment that says again what the client may not have heard."""
    agreed = tcp.Options(
        mss=1460 if flow.local.version == 4 else 1440,
        window_scale=flow.rcv_wscale or None,
        sack_permitted=flow.sack,
        timestamps=Timestamps(flow.ts_val, flow.ts_recent) if flow.ts else None,
    )
    return tcp.Segment(
        source_port=flow.port,
        destination_port=flow.peer_port,
        seq=flow.iss,
        ack=flow.rcv_nxt,
        flags=Flags.SYN | Flags.ACK,
        window=min(flow.rcv_wnd, 0xFFFF),
        options=agreed,
    )


def fin(flow: Tcb) -> tcp.Segment:
    """Return the client's FIN."""
    return tcp.Segment(
        source_port=flow.peer_port,
        destination_port=flow.port,
        seq=expects(flow),
        ack=flow.snd_nxt,
        flags=Flags.FIN | Flags.ACK,
        window=flow.snd_wnd >> flow.snd_wscale,
    )


def _family(flow: Tcb) -> socket.AddressFamily:
    return socket.AF_INET if flow.local.version == 4 else socket.AF_INET6


def _send_raw(flow: Tcb, segment: tcp.Segment, *, to_client: bool) -> None:
    """Send a segment of a connection, in either direction, past the kernel's own TCP."""
    source, to = (flow.local, flow.peer) if to_client else (flow.peer, flow.local)
    content = tcp.encode(segment, source, to)
    if isinstance(source, IPv4Address) and isinstance(to, IPv4Address):
        packet = ipv4.encode(ipv4.Packet(source, to, ipv4.Protocol.TCP, content))
    else:
        assert isinstance(source, IPv6Address), "both ends are of one family"
        assert isinstance(to, IPv6Address), "both ends are of one family"
        packet = ipv6.encode(ipv6.Packet(source, to, ipv4.Protocol.TCP, content))
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(_family(flow), kind, socket.IPPROTO_RAW) as raw:
        if isinstance(to, IPv6Address):
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        raw.sendto(packet, (str(to), 0))
