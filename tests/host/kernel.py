"""A real bridge in a namespace without a name, and stations that send frames to its ports."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import Any

import pytest
from pyroute2 import IPRoute

from jitsu.host.bridge import Bridge, bridge
from jitsu.host.netns import CLIENT_PORT, UPLINK, TwoHosts, settle, two_hosts
from jitsu.model import Mac, Name, NetworkConfig, Service, mac_of

PATIENCE = 5.0
BRIDGE = "tcfg0"
SUBNET = IPv4Network("10.77.0.0/24")
NETWORK = NetworkConfig(BRIDGE, SUBNET, None, SUBNET[1], SUBNET[254], UPLINK)
CLIENT = (Mac(b"\x06client"[:6]), IPv4Address("10.77.0.99"))
"""Nobody's addresses: the client's kernel takes no part in what is said with them."""
_KERNEL = IPv4Interface("10.77.0.2/24")


def marks() -> list[pytest.MarkDecorator]:
    """Return what a module of tests that need the real kernel says of itself."""
    reason = ""
    if os.geteuid() != 0:
        reason = "needs root"
    elif not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        reason = "needs /dev/net/tun"
    elif shutil.which("nft") is None:
        reason = "not installed: nft"
    return [pytest.mark.host, pytest.mark.skipif(bool(reason), reason=reason)]


def service(name: str, number: int) -> Service:
    """Return a service that the tests know by its name."""
    address6 = IPv6Address(f"fd77::{number:x}")
    return Service(Name(name), (), "www.elf", SUBNET[number], mac_of(name), address6)


WWW, MAIL = service("www", 10), service("mail", 11)


class Station:
    """Raw frames on one interface."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((interface, 3))

    def send(self, frame: bytes) -> None:
        """Send a frame."""
        self.socket.send(frame)

    def until(self, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """Return what comes, up to and with the first that is wanted."""
        came: list[bytes] = []
        deadline = time.monotonic() + PATIENCE
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            frame, origin = self.socket.recvfrom(65536)
            if origin[2] == socket.PACKET_OUTGOING:
                continue
            came.append(frame)
            if wanted(frame):
                return came


@dataclass(frozen=True, slots=True)
class Lab:
    """The host's namespace, in which the test is, and the client's."""

    hosts: TwoHosts
    bridge: Bridge
    client: Station

    def guest(self, number: int) -> Station:
        """Return the guest on the port of service `number`."""
        ours, theirs = f"{self.bridge.name}-g{number}", f"guest{number}"
        with IPRoute() as ipr:
            peer = {"ifname": theirs, "net_ns_fd": self.hosts.client}
            ipr.link("add", ifname=ours, kind="veth", peer=peer)
            ipr.link("set", ifname=ours, master=self.bridge.index, state="up")
        with self.hosts.at(self.hosts.client), IPRoute() as ipr:
            ipr.link("set", ifname=theirs, state="up")
            settle(ipr, theirs)
            station = Station(theirs)
        forwards(ours)
        return station


@contextmanager
def host() -> Iterator[TwoHosts]:
    """Be in a host's namespace, cabled to a client's, while the context is open."""
    with two_hosts(_KERNEL) as hosts, hosts.at(hosts.host):
        yield hosts


@contextmanager
def lab(config: NetworkConfig = NETWORK) -> Iterator[Lab]:
    """Be on a host with a bridge whose uplink leads to a client."""
    with ExitStack() as stack:
        hosts = stack.enter_context(host())
        up = stack.enter_context(bridge(config))
        with hosts.at(hosts.client):
            client = Station(CLIENT_PORT)
        forwards(UPLINK)
        stack.callback(client.socket.close)
        yield Lab(hosts, up, client)


def forwards(port: str) -> None:
    """Wait for a port to forward: a cable is noticed some time after it has been plugged in."""
    deadline = time.monotonic() + PATIENCE
    where = ("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_STATE")
    with IPRoute() as ipr:
        while ipr.link("get", ifname=port)[0].get_nested(*where) != 3:
            assert time.monotonic() < deadline, f"{port} does not forward"
            time.sleep(0.005)


def routed(address: IPv6Address) -> None:
    """Wait for an address to be the host's own: it has it some time before that has its route."""
    deadline = time.monotonic() + PATIENCE
    local = {"family": socket.AF_INET6, "table": 255, "dst": f"{address}/128"}
    with IPRoute() as ipr:
        while not ipr.get_routes(**local):
            assert time.monotonic() < deadline, f"{address} has no route"
            time.sleep(0.005)


def interfaces() -> set[str]:
    """Return the names of the interfaces that are here."""
    return {name for _, name in socket.if_nameindex()}


def nft(*command: str) -> list[dict[str, Any]]:
    """Return what nft(8) lists here."""
    done = subprocess.run(["nft", "-j", *command], capture_output=True, check=True)
    if not done.stdout:
        return []
    listed: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return listed
