"""A network of its own for a guest that is a process, joined to ours by a cable."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from jitsu.errors import HostError
from jitsu.host import netlink
from jitsu.host.netns import new_namespace, within
from jitsu.host.rtnetlink import Requests
from jitsu.model import NetworkConfig, Service

INTERFACE = "eth0"
"""What the guest calls its end."""
_LOOPBACK = 1
"""The first interface of every namespace."""
USUAL_INDEX = 2
"""The next one's."""
_KEPT = 1024
"""Services whose requests are kept as they are encoded: the index is nearly always the same."""
_SETTINGS = {
    # Its addresses are its own: the host has seen to that.
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
    # It may have no privileges, and listens where servers do.
    "ipv4/ip_unprivileged_port_start": "0",
}


def make_veth(name: str) -> tuple[int, int]:
    """Make interface `name` and a namespace at its other end, for whatever service needs one next.

    Return the namespace's descriptor, and the index that the other end has there. The namespace
    lives as long as its descriptor, or who is in it. Blocks, for the kernel makes nothing as slowly
    as a namespace. Raises HostError, and has made nothing then.
    """
    try:
        namespace = new_namespace()
    except OSError as error:
        raise HostError(f"no network namespace for a guest: {error.strerror}") from error
    try:
        with _requests() as send:
            with within(namespace), _requests() as send_there:
                _settle()
                send_there(netlink.up(_LOOPBACK))
            send(netlink.veth(name, INTERFACE, namespace))
        with within(namespace):
            return namespace, socket.if_nametoindex(INTERFACE)
    except (HostError, OSError) as error:
        os.close(namespace)
        raise HostError(f"cannot make the network of a guest: {error}") from error


@lru_cache(_KEPT)
def settings(index: int, service: Service, network: NetworkConfig) -> bytes:
    """Encode the requests that give link `index` of a namespace the addresses of a service."""
    return b"".join(_addresses(index, service, network))


def set_up(namespace: int, index: int, service: Service, network: NetworkConfig) -> None:
    """Do that. Blocks. Raises HostError."""
    try:
        with within(namespace), _requests() as send:
            for request in _addresses(index, service, network):
                send(request)
    except (HostError, OSError) as error:
        raise HostError(f"cannot set up the network of {service.name}: {error}") from error


def remove(request: bytes) -> None:
    """Remove an interface by `request`, if it has not gone already. Blocks."""
    with suppress(HostError), _requests() as send:
        send(request)


@contextmanager
def _requests() -> Iterator[Callable[[bytes], None]]:
    requests = Requests()
    try:
        yield requests.send
    finally:
        requests.close()


def _settle() -> None:
    for key, value in _SETTINGS.items():
        with suppress(FileNotFoundError):  # no IPv6 here
            Path("/proc/sys/net", key).write_text(value)


def _addresses(index: int, service: Service, network: NetworkConfig) -> Iterator[bytes]:
    yield netlink.up(index, service.mac)
    subnet, subnet6 = network.subnet, network.subnet6
    yield netlink.address(index, IPv4Interface((service.address, subnet.prefixlen)))
    yield netlink.default_route(index, network.gateway)
    if service.address6 and subnet6 and network.gateway6:
        yield netlink.address(index, IPv6Interface((service.address6, subnet6.prefixlen)))
        yield netlink.default_route(index, network.gateway6)
