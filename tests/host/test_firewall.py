"""nftables for real: who may send what on the bridge, and what is counted of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from socket import AF_INET, SOCK_STREAM, socket

import pytest

from host import kernel
from host.kernel import BRIDGE, CLIENT, MAIL, NETWORK, SUBNET, WWW, Lab, Station
from jitsu.errors import HostError
from jitsu.host.firewall import Firewall, Usage
from jitsu.model import Mac, Service, mac_of
from jitsu.testing.peer import frame, segment
from jitsu.wire import arp, ethernet, ipv4, tcp, udp
from jitsu.wire.ethernet import BROADCAST, UNKNOWN, EtherType
from jitsu.wire.tcp import Flags

pytestmark = kernel.marks()
Who = tuple[Mac, IPv4Address]
HOST = (mac_of(f"bridge {BRIDGE}"), SUBNET[1])
PORT = 80


def who(service: Service) -> Who:
    return service.mac, service.address


def datagram(source: Who, to: Who, text: bytes = b"") -> bytes:
    content = udp.encode(udp.Datagram(1000, 2000, text), source[1], to[1])
    return frame(source, to, ipv4.Protocol.UDP, content)


def question(sender: Who, asked: IPv4Address, ether: Mac | None = None) -> bytes:
    """Return an ARP request; `ether` sends it, if it is not who it says."""
    packet = arp.encode(arp.Arp(arp.Operation.REQUEST, *sender, UNKNOWN, asked))
    sent = ethernet.Frame(BROADCAST, ether or sender[0], EtherType.ARP, packet)
    return ethernet.encode(sent)


def ip6(source: str, to: Mac = CLIENT[0], mac: Mac = WWW.mac) -> bytes:
    """Return an IPv6 packet without content."""
    header = bytes.fromhex(f"60000000 0000 3b 40 {source} {'0' * 31}9")
    return ethernet.encode(ethernet.Frame(to, mac, EtherType.IPV6, header))


def raw(ethertype: int) -> bytes:
    return ethernet.encode(ethernet.Frame(CLIENT[0], WWW.mac, ethertype, bytes(46)))


@dataclass(frozen=True, slots=True)
class Place:
    """Two guests and a client on a bridge with rules."""

    lab: Lab
    rules: Firewall
    www: Station
    mail: Station

    @property
    def client(self) -> Station:
        return self.lab.client

    def passes(self, sender: Station, sent: bytes, receiver: Station) -> bool:
        """Say whether a frame arrives: one that may pass is sent after it, and is waited for."""
        marker = datagram(CLIENT, (BROADCAST, SUBNET[255]), b"marker")
        if sender is not self.client:
            own = WWW if sender is self.www else MAIL
            marker = question(who(own), IPv4Address("10.77.0.200"))
        if receiver is sender:
            pytest.fail("nobody hears himself")
        sender.send(sent)
        if sender is not self.client and receiver is not self.client:
            # No frame of a guest reaches another guest, so the client passes it on.
            sender.send(marker)
            self.client.until(marker.__eq__)
            marker = datagram(CLIENT, (BROADCAST, SUBNET[255]), b"marker")
            self.client.send(marker)
        else:
            sender.send(marker)
        return sent in receiver.until(marker.__eq__)

    def flows(self) -> int:
        return self.rules.usage()["www"].flows

    def segments(self, *sent: tuple[str, Flags]) -> None:
        """Send segments of one connection, each when the one before has arrived."""
        for sender, flags in sent:
            guest = sender == "www"
            ports = (PORT, 4000) if guest else (4000, PORT)
            content = tcp.Segment(*ports, seq=1, ack=1, flags=flags, window=1000)
            source, to = (who(WWW), CLIENT) if guest else (CLIENT, who(WWW))
            data = segment(source, to, content)
            assert self.passes(
                self.www if guest else self.client, data, self.client if guest else self.www
            )


@contextmanager
def place(bridge: str = BRIDGE, **service: float) -> Iterator[Place]:
    services = [(f"{bridge}-g{i}", replace(s, **service)) for i, s in enumerate((WWW, MAIL))]  # type: ignore[arg-type]
    with ExitStack() as stack:
        lab = stack.enter_context(kernel.lab(replace(NETWORK, bridge=bridge)))
        rules = Firewall(bridge, services)
        stack.callback(rules.close)
        guests = [lab.guest(0), lab.guest(1)]
        for guest in guests:
            stack.callback(guest.socket.close)
        yield Place(lab, rules, *guests)


def test_a_guest_sends_only_as_itself() -> None:
    other = (mac_of("other"), IPv4Address("10.77.0.12"))
    www, nobody = who(WWW), IPv4Address("0.0.0.0")
    assert WWW.address6 is not None
    assert MAIL.address6 is not None
    may = {
        "a datagram": datagram(www, CLIENT),
        "a broadcast": datagram(www, (BROADCAST, SUBNET[255])),
        "what DHCP sends first": datagram((WWW.mac, nobody), (BROADCAST, SUBNET[255])),
        "an ARP request": question(www, CLIENT[1]),
        "an ARP probe": question((WWW.mac, nobody), WWW.address),
        "its IPv6 address": ip6(WWW.address6.packed.hex()),
        "its link-local address": ip6(f"fe80{7:028x}"),
        "no IPv6 address yet": ip6("0" * 32),
    }
    may_not = {
        "another MAC address": datagram((other[0], WWW.address), CLIENT),
        "another guest's MAC address": datagram((MAIL.mac, WWW.address), CLIENT),
        "another IP address": datagram((WWW.mac, other[1]), CLIENT),
        "another guest's addresses": datagram(who(MAIL), CLIENT),
        "the host's addresses": datagram(HOST, CLIENT),
        "the client's addresses": datagram(CLIENT, (BROADCAST, SUBNET[255])),
        "ARP of another IP address": question((WWW.mac, other[1]), CLIENT[1]),
        "ARP of the gateway": question((WWW.mac, SUBNET[1]), CLIENT[1]),
        "ARP of another MAC address": question((other[0], WWW.address), CLIENT[1], WWW.mac),
        "ARP from another MAC address": question(www, CLIENT[1], other[0]),
        "another guest's IPv6 address": ip6(MAIL.address6.packed.hex()),
        "any IPv6 address": ip6(f"2001{1:028x}"),
        "LLDP": raw(0x88CC),
        "a VLAN": raw(0x8100),
        "a switch's spanning tree": ethernet.encode(
            ethernet.Frame(Mac(bytes.fromhex("0180c2000000")), WWW.mac, 38, bytes(46))
        ),
        "Jitsu's own": raw(EtherType.STORE_LINK),
    }
    with place() as here:
        passed = {
            name
            for name, sent in (may | may_not).items()
            if here.passes(here.www, sent, here.client)
        }
        assert passed == set(may)


def test_guests_do_not_reach_each_other() -> None:
    with place() as here:
        for sent in (
            datagram(who(WWW), who(MAIL)),
            datagram(who(WWW), (BROADCAST, SUBNET[255])),
            question(who(WWW), MAIL.address),
            ip6(f"fe80{7:028x}", MAIL.mac),
        ):
            assert not here.passes(here.www, sent, here.mail)
        assert here.passes(here.client, datagram(CLIENT, who(MAIL)), here.mail)
        assert here.passes(here.mail, datagram(who(MAIL), CLIENT), here.client)


def syn(source: Who) -> bytes:
    return segment(source, HOST, tcp.Segment(4000, PORT, 1, 0, Flags.SYN, 1000))


def is_tcp(data: bytes) -> bool:
    return data[12:14] == b"\x08\x00" and data[23] == ipv4.Protocol.TCP


def is_arp_reply(data: bytes) -> bool:
    return data[12:14] == b"\x08\x06" and data[21] == arp.Operation.REPLY


def test_a_guest_opens_nothing_on_the_host() -> None:
    """Its SYN is not answered, where a client's is; the host's ARP replies tell when to look."""
    with place() as here, socket(AF_INET, SOCK_STREAM) as server:
        server.bind((str(HOST[1]), PORT))
        server.listen()
        for station, sender, answered in (
            (here.www, who(WWW), False),
            (here.client, CLIENT, True),
        ):
            station.send(question(sender, HOST[1]))
            station.until(is_arp_reply)
            station.send(syn(sender))
            station.send(question(sender, HOST[1]))
            assert any(map(is_tcp, station.until(is_arp_reply))) == answered


def test_a_guest_answers_the_host() -> None:
    """Which is how the operator's own browser reaches a service."""
    with place() as here, socket(AF_INET, SOCK_STREAM) as browser:
        browser.setblocking(False)
        browser.connect_ex((str(WWW.address), PORT))
        here.www.until(lambda data: data[12:14] == b"\x08\x06")
        asked = arp.Arp(arp.Operation.REPLY, *who(WWW), *HOST)
        here.www.send(
            ethernet.encode(ethernet.Frame(HOST[0], WWW.mac, EtherType.ARP, arp.encode(asked)))
        )
        packet = ipv4.decode(ethernet.decode(here.www.until(is_tcp)[-1]).payload)
        got = tcp.decode(packet.payload, packet.source, packet.destination, verify=False)
        answer = tcp.Segment(
            PORT, got.source_port, 7, tcp.seq_add(got.seq, 1), Flags.SYN | Flags.ACK, 1000
        )
        here.www.send(segment(who(WWW), HOST, answer))
        here.www.until(is_tcp)
        assert browser.getpeername() == (str(WWW.address), PORT)


# What is counted.


def test_only_unicast_ip_is_use() -> None:
    with place() as here:
        for sender, sent, receiver in (
            (here.www, question(who(WWW), CLIENT[1]), here.client),
            (here.client, question(CLIENT, WWW.address), here.www),
            (here.www, datagram(who(WWW), (BROADCAST, SUBNET[255])), here.client),
            (here.client, datagram(CLIENT, (BROADCAST, SUBNET[255]), b"x"), here.www),
            (here.www, ip6(f"fe80{7:028x}", Mac(bytes.fromhex("333300000001"))), here.client),
        ):
            assert here.passes(sender, sent, receiver)
            assert here.rules.usage() == {"www": Usage(None, 0), "mail": Usage(None, 0)}
        # What is dropped is no use either.
        assert not here.passes(here.www, datagram((WWW.mac, CLIENT[1]), CLIENT), here.client)
        assert here.rules.usage()["www"].age is None


@pytest.mark.parametrize("idle_after", [1.0, 100_000.0])
@pytest.mark.parametrize("sender", ["www", "client"])
@pytest.mark.parametrize("version", [4, 6])
def test_use_is_counted_both_ways(sender: str, version: int, idle_after: float) -> None:
    with place(idle_after=idle_after) as here:
        source, to = (who(WWW), CLIENT) if sender == "www" else (CLIENT, who(WWW))
        stations = (here.www, here.client) if sender == "www" else (here.client, here.www)
        sent = datagram(source, to) if version == 4 else ip6(f"fe80{7:028x}", to[0], source[0])
        assert here.passes(stations[0], sent, stations[1])
        usage = here.rules.usage()
        assert usage["www"].age is not None
        assert 0.0 <= usage["www"].age < 2.0
        assert usage["mail"] == Usage(None, 0)


OPEN = [
    ("client", Flags.SYN),
    ("www", Flags.SYN | Flags.ACK),
    ("client", Flags.ACK),
]


@pytest.mark.parametrize(
    ("more", "flows"),
    [
        ([], 1),
        ([("client", Flags.ACK | Flags.PSH), ("www", Flags.ACK)], 1),
        ([("client", Flags.FIN | Flags.ACK)], 1),
        ([("www", Flags.FIN | Flags.ACK)], 0),
        ([("www", Flags.RST | Flags.ACK)], 0),
        ([("www", Flags.RST)], 0),
        ([("client", Flags.RST)], 0),
        ([("client", Flags.RST | Flags.ACK)], 0),
        ([("www", Flags.FIN | Flags.ACK), ("client", Flags.ACK)], 0),
        ([("client", Flags.RST), ("client", Flags.ACK), ("www", Flags.ACK)], 0),
    ],
)
def test_a_connection_is_open_until(more: list[tuple[str, Flags]], flows: int) -> None:
    with place() as here:
        here.segments(*OPEN, *more)
        assert here.flows() == flows


def test_what_opens_no_connection() -> None:
    with place() as here:
        for sent in (
            ("client", Flags.SYN),
            ("client", Flags.ACK),
            ("www", Flags.ACK | Flags.PSH),
            ("client", Flags.SYN | Flags.ACK),
            ("www", Flags.RST | Flags.ACK),
            ("www", Flags.SYN | Flags.ACK | Flags.RST),
        ):
            here.segments(sent)
            assert here.flows() == 0, sent


def lasts(here: Place) -> int:
    """Return for how many seconds the kernel will remember the connection."""
    for item in kernel.nft("list", "set", "bridge", f"jitsu_{here.lab.bridge.name}", "open"):
        for element in item.get("set", {}).get("elem", []):
            return int(element["elem"]["expires"])
    raise AssertionError("no connection is open")


def test_a_handshake_must_be_completed() -> None:
    """A client that never does holds the guest for a minute; one that does, for days."""
    with place() as here:
        here.segments(*OPEN[:2])
        assert here.flows() == 1
        assert lasts(here) <= 60
        here.segments(OPEN[2])
        assert lasts(here) > 86400
        here.segments(("client", Flags.FIN | Flags.ACK))
        assert here.flows() == 1


def test_connections_are_counted_each() -> None:
    with place() as here:
        for port in range(4000, 4005):
            answer = tcp.Segment(PORT, port, 1, 1, Flags.SYN | Flags.ACK, 1000)
            assert here.passes(here.www, segment(who(WWW), CLIENT, answer), here.client)
        assert here.flows() == 5
        assert here.rules.usage()["mail"].flows == 0


# The tables.


def tables() -> set[str]:
    listed = kernel.nft("list", "tables")
    return {f"{t['table']['family']} {t['table']['name']}" for t in listed if "table" in t}


def test_closing_removes_the_tables() -> None:
    with kernel.host():
        rules = Firewall(BRIDGE, [(f"{BRIDGE}-g0", WWW)])
        assert len(tables()) == 2
        rules.close()
        assert tables() == set()


def test_a_killed_daemons_tables_are_replaced() -> None:
    with kernel.host():
        left = Firewall(BRIDGE, [(f"{BRIDGE}-g0", WWW), (f"{BRIDGE}-g1", MAIL)])
        rules = Firewall(BRIDGE, [(f"{BRIDGE}-g0", MAIL)])
        assert len(tables()) == 2
        assert rules.usage() == {"mail": Usage(None, 0)}
        rules.close()
        left.close()
        assert tables() == set()


@pytest.mark.parametrize("bridge", ["bridge", "ip", "0", "_x", "ingress"])
def test_a_bridge_may_have_any_name(bridge: str) -> None:
    """Also one that means something to nftables."""
    with place(bridge) as here:
        here.segments(*OPEN)
        assert here.flows() == 1
        assert not here.passes(here.www, datagram(who(MAIL), CLIENT), here.client)


def test_an_operators_own_table_is_left_alone() -> None:
    with kernel.host():
        kernel.nft("add", "table", "inet", BRIDGE)
        Firewall(BRIDGE, [(f"{BRIDGE}-g0", WWW)]).close()
        assert tables() == {f"inet {BRIDGE}"}


def test_what_nftables_does_not_take() -> None:
    with kernel.host():
        with pytest.raises(HostError, match=r"nftables: Error: .*; Jitsu needs the kernel's"):
            Firewall("no bridge", [("no bridge-g0", WWW)])
        assert tables() == set()
