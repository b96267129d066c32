"""What a domain is told on its command line, and how a daemon knows its own."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network

import pytest

from jitsu.backends.xen import tag
from jitsu.host.xen.domain import Kind
from jitsu.host.xen.guests import cmdline
from jitsu.model import Epoch, Handoff, Name, NetworkConfig, Service, mac_of

SUBNET = IPv4Network("10.77.0.0/24")
NETWORK = NetworkConfig("jitsu0", SUBNET, None, SUBNET[1], SUBNET[254])
NETWORK6 = replace(NETWORK, subnet6=IPv6Network("fd77::/64"), gateway6=IPv6Address("fd77::1"))
WWW = Service(Name("www"), (), "www.elf", SUBNET[10], mac_of("www"), handoff=Handoff.REPLAY)
IMPORT = replace(WWW, handoff=Handoff.IMPORT, cmdline="a b", address6=IPv6Address("fd77::10"))
IP, IP6 = "ip=10.77.0.10::10.77.0.1:255.255.255.0:www::off", "ip6=fd77::10/64,fd77::1"


@pytest.mark.parametrize(
    ("service", "epoch", "network", "kind", "words"),
    [
        (WWW, 3, NETWORK, Kind.PVH, f"{IP} store"),
        (WWW, 3, NETWORK, Kind.PV, IP),
        (IMPORT, 3, NETWORK6, Kind.PVH, f"{IP} {IP6} store handoff=www/3 a b"),
        (IMPORT, None, NETWORK6, Kind.PVH, "store a b"),
        (WWW, None, NETWORK, Kind.PV, IP),
    ],
)
def test_what_a_domain_is_told(
    service: Service, epoch: int | None, network: NetworkConfig, kind: Kind, words: str
) -> None:
    assert cmdline(service, None if epoch is None else Epoch(epoch), network, kind) == words


def test_daemons_of_two_places_do_not_know_each_others_domains() -> None:
    assert tag("/run/jitsu") != tag("/run/other")
    assert len(tag("/run/jitsu")) == 16 - len(WWW.mac), "the handle is that and the MAC address"
