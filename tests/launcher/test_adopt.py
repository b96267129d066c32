"""Connections that no handshake has made: both ends are adopted, and talk."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Interface, ip_address
from typing import Any

import pytest
from pyroute2 import IPRoute

from host.kernel import marks
from jitsu.host.netns import CLIENT_PORT, UPLINK, TwoHosts, two_hosts
from jitsu.model import Mac
from jitsu.wire import ethernet, ipv4, ipv6, tcp
from jitsu.wire.tcb import Tcb, TcbState
from jitsu.wire.tcp import Flags, Timestamps, seq_add
from launcher.library import adopt

pytestmark = marks()
NOBODY = "02:00:00:00:00:99"
PAIRS = {4: ("10.77.0.1", "10.77.0.2"), 6: ("fd77::1", "fd77::2")}
ISS, IRS = 0xFFFF_FFF0, 0xFFFF_FFFA  # so that both wrap


def flow(version: int, state: TcbState, received: bytes = b"", **more: Any) -> Tcb:
    """Return the server's view of a connection whose client has sent `received`."""
    local, peer = map(ip_address, PAIRS[version])
    rcv_nxt = IRS + 1 + len(received) + (state is TcbState.CLOSE_WAIT) & 0xFFFF_FFFF
    half = state is TcbState.SYN_RECEIVED
    plain = Tcb(
        state=state,
        local=local,
        port=80,
        peer=peer,
        peer_port=40000,
        peer_mac=Mac(bytes(6)),
        iss=ISS,
        snd_una=ISS if half else ISS + 1,
        snd_nxt=ISS + 1,
        snd_wnd=20000,
        irs=IRS,
        rcv_nxt=rcv_nxt,
        rcv_wnd=16384,
        mss=1400,
        rx=len(received),
    )
    return replace(plain, **more)


def expects(server: Tcb) -> int:
    """Return the number after the last byte of the client's; its FIN has it."""
    return seq_add(server.rcv_nxt, -1) if server.state is TcbState.CLOSE_WAIT else server.rcv_nxt


def mirrored(server: Tcb) -> Tcb:
    """Return the client's view: it has sent all that the server has."""
    return replace(
        server,
        state=TcbState.ESTABLISHED,
        local=server.peer,
        port=server.peer_port,
        peer=server.local,
        peer_port=server.port,
        iss=expects(server) - 1 & 0xFFFF_FFFF,
        snd_una=expects(server),
        snd_nxt=expects(server),
        irs=ISS,
        rcv_nxt=ISS + 1,
        rcv_wnd=20000,
        snd_wnd=server.rcv_wnd,
        snd_wscale=server.rcv_wscale,
        rcv_wscale=server.snd_wscale,
        rx=0,
    )


ALL: dict[str, Any] = {
    "snd_wscale": 7,
    "rcv_wscale": 7,
    "sack": True,
    "ts": True,
    "ts_val": 77,
}


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with ExitStack() as stack:
        hosts = stack.enter_context(two_hosts(IPv4Interface("10.77.0.2/24")))
        for place, name, end in ((hosts.host, UPLINK, 1), (hosts.client, CLIENT_PORT, 2)):
            with hosts.at(place), IPRoute() as ipr:
                (index,) = ipr.link_lookup(ifname=name)
                if end == 1:
                    ipr.addr("add", index=index, address=PAIRS[4][0], prefixlen=24)
                ipr.addr("add", index=index, address=f"fd77::{end}", prefixlen=64, flags=2)
        yield hosts


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "agreed", [{}, ALL, {"snd_wscale": 7}], ids=["nothing", "all", "the client's scale alone"]
)
@pytest.mark.parametrize("state", TcbState)
def test_both_ends_talk(
    hosts: TwoHosts, version: int, agreed: dict[str, Any], state: TcbState
) -> None:
    said = b"" if state is TcbState.SYN_RECEIVED else bytes(range(256)) * 150
    server = flow(version, state, said, **agreed)
    # Or who is not there yet would reset who is.
    reach(hosts, dict.fromkeys((UPLINK, CLIENT_PORT), NOBODY))
    with hosts.at(hosts.client):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        client = adopt(mirrored(server), b"")
    with hosts.at(hosts.host):
        ours = adopt(server, said)
    reach(hosts, macs(hosts))
    with client, ours, wire:
        for each in (client, ours, wire):
            each.settimeout(5)
        assert ours.getpeername()[:2] == (PAIRS[version][1], 40000)
        assert received(ours, len(said)) == said
        if state is TcbState.CLOSE_WAIT:
            assert ours.recv(1) == b"", "the client has said all"
            client.shutdown(socket.SHUT_WR)  # which it had done before: it says it once more
        else:
            client.sendall(b"more")
            assert ours.recv(100) == b"more"
        if state is TcbState.SYN_RECEIVED:
            again = seen(wire, Flags.SYN | Flags.ACK)
            assert (again.seq, again.ack, again.window) == (ISS, IRS + 1, 16384)
            assert again.options == options(server)
        ours.sendall(b"answer")
        assert received(client, 6) == b"answer"
        ours.close()
        assert client.recv(1) == b""


def test_a_fin_that_comes_before_its_address_is_known(hosts: TwoHosts) -> None:
    """The kernel's worker is late: what is for the new address leaves the machine, at first."""
    address, peer = PAIRS[6]
    reach(hosts, dict.fromkeys((UPLINK, CLIENT_PORT), NOBODY))
    with hosts.at(hosts.client):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    with wire, hosts.at(hosts.host), IPRoute() as ipr, ThreadPoolExecutor(1) as pool:
        wire.settimeout(5)
        (index,) = ipr.link_lookup(ifname=UPLINK)
        route = {"dst": f"{address}/128", "oif": index, "table": 255, "type": "local"}
        ipr.route("del", family=socket.AF_INET6, **route)
        adopted = pool.submit(adopt, flow(6, TcbState.CLOSE_WAIT), b"")
        while ip_address(address).packed not in wire.recv(2000)[38:]:
            pass  # until it has been looked for
        ipr.route("add", family=socket.AF_INET6, **route)
        with adopted.result() as ours:
            ours.settimeout(5)
            assert ours.getpeername()[:2] == (peer, 40000)
            assert ours.recv(1) == b""


def reach(hosts: TwoHosts, neighbours: dict[str, str]) -> None:
    """Have each host send what is for the other to a MAC address."""
    for place, name, other in ((hosts.host, UPLINK, 1), (hosts.client, CLIENT_PORT, 0)):
        mac = neighbours[name]
        with hosts.at(place), IPRoute() as ipr:
            (index,) = ipr.link_lookup(ifname=name)
            for addresses in PAIRS.values():
                ipr.neigh(
                    "replace", ifindex=index, dst=addresses[other], lladdr=mac, state="permanent"
                )


def macs(hosts: TwoHosts) -> dict[str, str]:
    """Return by a host's interface the MAC address at the other end of the cable."""
    found = []
    for place, name in ((hosts.client, CLIENT_PORT), (hosts.host, UPLINK)):
        with hosts.at(place), IPRoute() as ipr:
            (link,) = ipr.link("get", ifname=name)
            found.append(dict(link["attrs"])["IFLA_ADDRESS"])
    return dict(zip((UPLINK, CLIENT_PORT), found, strict=True))


def received(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        assert more, "it ended too soon"
        data += more
    return data


def options(server: Tcb) -> tcp.Options:
    """Return what the server has said in its SYN-ACK."""
    return tcp.Options(
        mss=1460 if server.local.version == 4 else 1440,
        window_scale=server.rcv_wscale if server.snd_wscale or server.rcv_wscale else None,
        sack_permitted=server.sack,
        timestamps=Timestamps(server.ts_val, server.ts_recent) if server.ts else None,
    )


def seen(wire: socket.socket, flags: Flags) -> tcp.Segment:
    """Return the next segment with these flags."""
    while True:
        frame = ethernet.decode(wire.recv(2000))
        if frame.ethertype == ethernet.EtherType.IPV4:
            packet: ipv4.Packet | ipv6.Packet = ipv4.decode(frame.payload)
        elif frame.ethertype == ethernet.EtherType.IPV6:
            packet = ipv6.decode(frame.payload)
        else:
            continue
        if packet.protocol == 6:
            segment = tcp.decode(packet.payload, packet.source, packet.destination, verify=False)
            if segment.flags == flags:
                return segment
