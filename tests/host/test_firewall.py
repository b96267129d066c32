"""nftables for real: who may send what on the bridge, and what is counted of it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_STREAM, socket

import pytest
from pyroute2 import IPRoute

from host import kernel
from host.kernel import BRIDGE, CLIENT, MAIL, NETWORK, SUBNET, WWW, Lab, Station
from jitsu.errors import HostError, WireError
from jitsu.host.firewall import OPEN_FLOWS_MAX, Firewall, Usage
from jitsu.model import Mac, Service, mac_of
from jitsu.testing.peer import Station as Who
from jitsu.testing.peer import frame, framed6, segment
from jitsu.wire import arp, ethernet, ipv4, ipv6, ndp, tcp, udp
from jitsu.wire.ethernet import BROADCAST, UNKNOWN, EtherType
from jitsu.wire.ipv6 import link_local
from jitsu.wire.tcp import Flags

pytestmark = kernel.marks()
HOST = (mac_of(f"bridge {BRIDGE}"), SUBNET[1])
PORT = 80
CLIENT6 = (CLIENT[0], IPv6Address("fd77::99"))
LINK_LOCAL = link_local(WWW.mac).packed.hex()


def who(service: Service) -> tuple[Mac, IPv4Address]:
    return service.mac, service.address


def who6(service: Service) -> tuple[Mac, IPv6Address]:
    assert service.address6 is not None
    return service.mac, service.address6


def datagram(source: Who, to: Who, text: bytes = b"") -> bytes:
    content = udp.encode(udp.Datagram(1000, 2000, text), source[1], to[1])
    return frame(source, to, ipv4.Protocol.UDP, content)


def question(
    sender: tuple[Mac, IPv4Address], asked: IPv4Address, ether: Mac | None = None
) -> bytes:
    """Return an ARP request; `ether` sends it, if it is not who it says."""
    packet = arp.encode(arp.Arp(arp.Operation.REQUEST, *sender, UNKNOWN, asked))
    sent = ethernet.Frame(BROADCAST, ether or sender[0], EtherType.ARP, packet)
    return ethernet.encode(sent)


def ip6(source: str, to: Mac = CLIENT[0], mac: Mac = WWW.mac) -> bytes:
    """Return an IPv6 packet without content."""
    header = bytes.fromhex(f"60000000 0000 3b 40 {source} {'0' * 31}9")
    return ethernet.encode(ethernet.Frame(to, mac, EtherType.IPV6, header))


ROUTER_ADVERT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT, REDIRECT = 134, 135, 136, 137
ALL_NODES = Mac(bytes.fromhex("333300000001"))


def icmp6(kind: int, about: IPv6Address, before: bytes = b"") -> bytes:
    """Return what `www` says of an address to all; `before` are extension headers."""
    content = bytes([kind]) + bytes(7) + about.packed + bytes([2, 1]) + WWW.mac
    after = bytes([0 if before else 58, 255])
    header = b"\x60" + bytes(3) + (len(before) + len(content)).to_bytes(2) + after
    ends = link_local(WWW.mac).packed + IPv6Address("ff02::1").packed
    packet = header + ends + before + content
    return ethernet.encode(ethernet.Frame(ALL_NODES, WWW.mac, EtherType.IPV6, packet))


def from_port(port: int) -> bytes:
    """Return a datagram of `www` from a port that is not for guests."""
    content = udp.encode(udp.Datagram(port, 68, b""), WWW.address, CLIENT[1])
    return frame(who(WWW), CLIENT, ipv4.Protocol.UDP, content)


def raw(ethertype: int) -> bytes:
    return ethernet.encode(ethernet.Frame(CLIENT[0], WWW.mac, ethertype, bytes(46)))


@dataclass(frozen=True, slots=True)
class Place:
    """Two guests and a client on a bridge with rules."""

    lab: Lab
    rules: Firewall
    www: Station
    mail: Station
    said: list[str]

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
        return self.usage()["www"].flows

    def usage(self) -> dict[str, Usage]:
        return self.rules.usage([WWW, MAIL])

    def segments(self, *sent: tuple[str, Flags], version: int = 4) -> None:
        """Send segments of one connection, each when the one before has arrived."""
        ends: tuple[Who, Who] = (who(WWW), CLIENT) if version == 4 else (who6(WWW), CLIENT6)
        for sender, flags in sent:
            guest = sender == "www"
            ports = (PORT, 4000) if guest else (4000, PORT)
            content = tcp.Segment(*ports, seq=1, ack=1, flags=flags, window=1000)
            data = segment(*(ends if guest else (ends[1], ends[0])), content)
            assert self.passes(
                self.www if guest else self.client, data, self.client if guest else self.www
            )


@contextmanager
def place(bridge: str = BRIDGE, **service: object) -> Iterator[Place]:
    said: list[str] = []
    services = [(f"{bridge}-g{i}", replace(s, **service)) for i, s in enumerate((WWW, MAIL))]  # type: ignore[arg-type]
    with ExitStack() as stack:
        lab = stack.enter_context(kernel.lab(replace(NETWORK, bridge=bridge)))
        rules = Firewall(bridge, NETWORK.probe, services, said.append)
        stack.callback(rules.close)
        guests = [lab.guest(0), lab.guest(1)]
        for guest in guests:
            stack.callback(guest.socket.close)
        yield Place(lab, rules, guests[0], guests[1], said)


def test_a_guest_sends_only_as_itself() -> None:
    other = (mac_of("other"), IPv4Address("10.77.0.12"))
    www, nobody = who(WWW), IPv4Address("0.0.0.0")
    assert WWW.address6 is not None
    assert MAIL.address6 is not None
    gateway6 = IPv6Address("fd77::1")
    may = {
        "a datagram": datagram(www, CLIENT),
        "a broadcast": datagram(www, (BROADCAST, SUBNET[255])),
        "what DHCP sends first": datagram((WWW.mac, nobody), (BROADCAST, SUBNET[255])),
        "an ARP request": question(www, CLIENT[1]),
        "an ARP probe": question((WWW.mac, nobody), WWW.address),
        "its IPv6 address": ip6(WWW.address6.packed.hex()),
        "its link-local address": ip6(LINK_LOCAL),
        "where it is": icmp6(NEIGHBOUR_ADVERT, WWW.address6),
        "where its link-local address is": icmp6(NEIGHBOUR_ADVERT, link_local(WWW.mac)),
        "who has an address": icmp6(NEIGHBOUR_SOLICIT, gateway6),
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
        "another link-local address": ip6(f"fe80{7:028x}"),
        "another guest's link-local address": ip6(link_local(MAIL.mac).packed.hex()),
        "where the gateway is": icmp6(NEIGHBOUR_ADVERT, gateway6),
        "where another guest is": icmp6(NEIGHBOUR_ADVERT, MAIL.address6),
        "that it is a router": icmp6(ROUTER_ADVERT, gateway6),
        "that, behind an option": icmp6(ROUTER_ADVERT, gateway6, bytes([58, 0, 1, 4, 0, 0, 0, 0])),
        "a better router": icmp6(REDIRECT, gateway6),
        "an answer of a DHCP server": from_port(67),
        "an answer of a DHCPv6 server": from_port(547),
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


def test_a_guest_without_an_ipv6_address_has_no_ipv6() -> None:
    with place(address6=None) as here:
        for sent in (
            ip6(LINK_LOCAL),
            ip6("0" * 32),
            icmp6(NEIGHBOUR_ADVERT, link_local(WWW.mac)),
            icmp6(NEIGHBOUR_SOLICIT, IPv6Address("fd77::1")),
        ):
            assert not here.passes(here.www, sent, here.client)
        assert here.passes(here.www, datagram(who(WWW), CLIENT), here.client)


def test_a_host_that_routes_brings_no_guest_to_another() -> None:
    """Though it brings guests to clients, and clients to guests."""
    router = HOST[0]
    with place() as here, IPRoute() as ipr:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for mac, address in (who(MAIL), CLIENT):
            index, lladdr = here.lab.bridge.index, mac.hex(":")
            ipr.neigh("add", dst=str(address), lladdr=lladdr, ifindex=index, state="permanent")
        here.www.send(datagram(who(WWW), (router, MAIL.address), b"of a guest"))
        here.www.send(datagram(who(WWW), (router, CLIENT[1]), b"to a client"))
        here.client.until(lambda data: b"to a client" in data)
        here.client.send(datagram(CLIENT, (router, MAIL.address), b"of a client"))
        came = here.mail.until(lambda data: b"of a client" in data)
        assert not any(b"of a guest" in data for data in came)


def test_guests_do_not_reach_each_other() -> None:
    with place() as here:
        for sent in (
            datagram(who(WWW), who(MAIL)),
            datagram(who(WWW), (BROADCAST, SUBNET[255])),
            question(who(WWW), MAIL.address),
            ip6(LINK_LOCAL, MAIL.mac),
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


def is_tcp6(data: bytes) -> bool:
    return data[12:14] == b"\x86\xdd" and data[20] == ipv6.Protocol.TCP


def has_ndp(data: bytes, kind: type[ndp.Message]) -> bool:
    with suppress(WireError):
        return isinstance(ndp.decode(ipv6.decode(ethernet.decode(data).payload)), kind)
    return False


def solicits(data: bytes, target: IPv6Address) -> bool:
    with suppress(WireError):
        asked = ndp.decode(ipv6.decode(ethernet.decode(data).payload))
        return isinstance(asked, ndp.Solicitation) and asked.target == target
    return False


def test_a_guest_answers_the_host_over_ipv6() -> None:
    """Each finds the other, the host's connection is answered, and the guest's own is not."""
    gateway6 = IPv6Address("fd77::1")
    www, host = who6(WWW), (HOST[0], gateway6)
    with place() as here, IPRoute() as ipr, socket(AF_INET6, SOCK_STREAM) as browser:
        index = here.lab.bridge.index
        ipr.addr("add", index=index, address=str(gateway6), prefixlen=64, flags=2)
        kernel.routed(gateway6)
        browser.setblocking(False)
        browser.connect_ex((str(www[1]), PORT))
        told = ndp.answer(ndp.Solicitation(www[1]), gateway6, WWW.mac)

        def is_tcp(data: bytes) -> bool:
            """Answer whoever asks for us meanwhile: a host that has just come up may ask twice."""
            if solicits(data, www[1]):
                here.www.send(framed6(WWW.mac, HOST[0], told))
            return is_tcp6(data)

        packet = ipv6.decode(ethernet.decode(here.www.until(is_tcp)[-1]).payload)
        got = tcp.decode(packet.payload, packet.source, packet.destination, verify=False)
        here.www.send(segment(www, host, tcp.Segment(4000, PORT, 1, 0, Flags.SYN, 1000)))
        here.www.send(framed6(WWW.mac, HOST[0], ndp.question(gateway6, www[1], WWW.mac)))
        came = here.www.until(lambda data: has_ndp(data, ndp.Advertisement))
        # The host may have asked for its connection once more meanwhile.
        assert not any(is_tcp6(data) and data[56:58] == (4000).to_bytes(2) for data in came)
        answer = tcp.Segment(
            PORT, got.source_port, 7, tcp.seq_add(got.seq, 1), Flags.SYN | Flags.ACK, 1000
        )
        here.www.send(segment(www, host, answer))
        here.www.until(is_tcp6)
        assert browser.getpeername()[:2] == (str(www[1]), PORT)


def test_a_guests_store_is_the_hosts_alone() -> None:
    sent = ethernet.Frame(WWW.mac, CLIENT[0], EtherType.STORE_LINK, bytes(46))
    with place() as here:
        assert not here.passes(here.client, ethernet.encode(sent), here.www)


# What is counted.


def test_only_unicast_ip_is_use() -> None:
    with place() as here:
        for sender, sent, receiver in (
            (here.www, question(who(WWW), CLIENT[1]), here.client),
            (here.client, question(CLIENT, WWW.address), here.www),
            (here.www, datagram(who(WWW), (BROADCAST, SUBNET[255])), here.client),
            (here.client, datagram(CLIENT, (BROADCAST, SUBNET[255]), b"x"), here.www),
            (here.www, ip6(LINK_LOCAL, Mac(bytes.fromhex("333300000001"))), here.client),
        ):
            assert here.passes(sender, sent, receiver)
            assert here.usage() == {"www": Usage(None, 0), "mail": Usage(None, 0)}
        # What is dropped is no use either.
        assert not here.passes(here.www, datagram((WWW.mac, CLIENT[1]), CLIENT), here.client)
        assert here.usage()["www"].age is None


@pytest.mark.parametrize("idle_after", [1.0, 100_000.0])
@pytest.mark.parametrize("sender", ["www", "client"])
@pytest.mark.parametrize("version", [4, 6])
def test_use_is_counted_both_ways(sender: str, version: int, idle_after: float) -> None:
    with place(idle_after=idle_after) as here:
        source, to = (who(WWW), CLIENT) if sender == "www" else (CLIENT, who(WWW))
        stations = (here.www, here.client) if sender == "www" else (here.client, here.www)
        sent = datagram(source, to) if version == 4 else ip6(LINK_LOCAL, to[0], source[0])
        assert here.passes(stations[0], sent, stations[1])
        usage = here.usage()
        assert usage["www"].age is not None
        assert 0.0 <= usage["www"].age < 2.0
        assert usage["mail"] == Usage(None, 0)


def test_to_ask_where_a_service_is_is_no_use() -> None:
    """Nor to be told: the caches of neighbours keep nobody awake."""
    www, asked = who6(WWW), ndp.Solicitation(CLIENT6[1], WWW.mac)
    with place() as here:
        for sender, sent, receiver in (
            (here.client, ndp.encode(ndp.Solicitation(www[1]), CLIENT6[1], www[1]), here.www),
            (here.client, ndp.answer(asked, www[1], CLIENT6[0]), here.www),
            (here.www, ndp.encode(asked, www[1], CLIENT6[1]), here.client),
            (here.www, ndp.answer(ndp.Solicitation(www[1]), CLIENT6[1], WWW.mac), here.client),
        ):
            ends = (WWW.mac, CLIENT6[0]) if sender is here.www else (CLIENT6[0], WWW.mac)
            assert here.passes(sender, framed6(*ends, sent), receiver)
            assert here.usage()["www"].age is None


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
@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_is_open_until(
    version: int, more: list[tuple[str, Flags]], flows: int
) -> None:
    with place() as here:
        here.segments(*OPEN, *more, version=version)
        assert here.flows() == flows


def test_connections_of_both_families_are_counted() -> None:
    with place() as here:
        here.segments(*OPEN)
        here.segments(*OPEN, version=6)
        assert here.flows() == 2
        here.segments(("www", Flags.FIN | Flags.ACK))
        assert here.flows() == 1
        assert here.usage()["mail"].flows == 0
        here.rules.forget(WWW)
        assert here.flows() == 0


def test_a_guest_without_an_ipv6_address_has_nothing_open_over_it() -> None:
    with place(address6=None) as here:
        assert here.usage() == {"www": Usage(None, 0), "mail": Usage(None, 0)}
        listed = kernel.nft("list", "table", "bridge", f"jitsu_{BRIDGE}")
        sets = {item["set"]["name"] for item in listed if "set" in item}
        assert {"open0", "open1"} == {name for name in sets if name.startswith("open")}


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
    for item in kernel.nft("list", "set", "bridge", f"jitsu_{here.lab.bridge.name}", "open0"):
        for element in item.get("set", {}).get("elem", []):
            return int(element["elem"]["expires"])
    raise AssertionError("no connection is open")


def test_an_answer_to_a_probe_is_no_use() -> None:
    """It goes over the bridge; what Jitsu sends does not, so no RST would take it out again."""
    answer = tcp.Segment(PORT, 49152, 1, 1, Flags.SYN | Flags.ACK, 1000)
    with place() as here:
        prober = (CLIENT[0], NETWORK.probe)
        assert here.passes(here.www, segment(who(WWW), prober, answer), here.client)
        assert here.usage()["www"] == Usage(None, 0)


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
        assert here.usage()["mail"].flows == 0


def test_a_flood_holds_only_the_guest_that_it_meets() -> None:
    with place() as here:
        for number in range(OPEN_FLOWS_MAX + 100):
            answer = tcp.Segment(PORT, 1 + number, 1, 1, Flags.SYN | Flags.ACK, 1000)
            data = segment(who(WWW), CLIENT, answer)
            here.www.send(data)
            here.client.until(data.__eq__)
        answer = tcp.Segment(PORT, 4000, 1, 1, Flags.SYN | Flags.ACK, 1000)
        here.mail.send(segment(who(MAIL), CLIENT, answer))
        marker = question(who(MAIL), CLIENT[1])
        assert here.passes(here.mail, marker, here.client)
        assert here.flows() == OPEN_FLOWS_MAX
        assert here.usage()["mail"].flows == 1


def test_a_guest_that_is_no_more_has_nothing_open() -> None:
    with place() as here:
        here.segments(*OPEN)
        answer = tcp.Segment(PORT, 4000, 1, 1, Flags.SYN | Flags.ACK, 1000)
        assert here.passes(here.mail, segment(who(MAIL), CLIENT, answer), here.client)
        here.rules.forget(WWW)
        assert here.flows() == 0
        assert here.usage()["mail"].flows == 1


# The tables.


@pytest.mark.parametrize("noticed", ["by a look", "by a death"])
def test_tables_that_somebody_has_flushed(noticed: str) -> None:
    """`systemctl reload nftables` does. What was known is lost: for once all are in use."""
    with place() as here:
        kernel.nft("flush", "ruleset")
        if noticed == "by a look":
            assert here.usage() == {"www": Usage(0.0, 0), "mail": Usage(0.0, 0)}
        else:
            here.rules.forget(WWW)
        assert len(here.said) == 1
        assert here.usage() == {"www": Usage(None, 0), "mail": Usage(None, 0)}
        assert not here.passes(here.www, datagram(who(MAIL), CLIENT), here.client)
        here.segments(*OPEN)
        assert here.flows() == 1
        assert len(here.said) == 1


def tables() -> set[str]:
    listed = kernel.nft("list", "tables")
    return {f"{t['table']['family']} {t['table']['name']}" for t in listed if "table" in t}


def test_closing_removes_the_tables() -> None:
    with kernel.host():
        rules = Firewall(BRIDGE, NETWORK.probe, [(f"{BRIDGE}-g0", WWW)], pytest.fail)
        assert len(tables()) == 2
        rules.close()
        assert tables() == set()


def test_a_killed_daemons_tables_are_replaced() -> None:
    with kernel.host():
        left = Firewall(
            BRIDGE, NETWORK.probe, [(f"{BRIDGE}-g0", WWW), (f"{BRIDGE}-g1", MAIL)], pytest.fail
        )
        rules = Firewall(BRIDGE, NETWORK.probe, [(f"{BRIDGE}-g0", MAIL)], pytest.fail)
        assert len(tables()) == 2
        assert rules.usage([MAIL]) == {"mail": Usage(None, 0)}
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
        Firewall(BRIDGE, NETWORK.probe, [(f"{BRIDGE}-g0", WWW)], pytest.fail).close()
        assert tables() == {f"inet {BRIDGE}"}


def test_what_nftables_does_not_take() -> None:
    with kernel.host():
        with pytest.raises(HostError, match=r"nftables: Error: .*; Jitsu needs the kernel's"):
            Firewall("no bridge", NETWORK.probe, [("no bridge-g0", WWW)], pytest.fail)
        assert tables() == set()


def test_no_guest_inherits_its_socket() -> None:
    with kernel.lab():
        before = descriptors()
        rules = Firewall(BRIDGE, NETWORK.probe, [(f"{BRIDGE}-g0", WWW)], pytest.fail)
        made = {fd: os.get_inheritable(fd) for fd in descriptors() - before}
        rules.close()
    assert list(made.values()) == [False]


def descriptors() -> set[int]:
    """Return which are open, but that of the listing itself."""
    return {int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists()}
