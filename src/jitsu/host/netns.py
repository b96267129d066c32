"""Namespaces without names: they vanish with the last process inside, whatever happens.

`two_hosts` is what the demo and the tests stand on: a host and a client, joined by a cable.
"""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from pyroute2 import IPRoute

from jitsu.errors import HostError

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWNS = 0x10000000, 0x40000000, 0x00020000
_CLONE_NEWPID = 0x20000000
_HERE = "/proc/thread-self/ns/net"
UPLINK, CLIENT_PORT = "lan0", "eth0"
"""The two ends of the cable: the host's, and the client's."""
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class TwoHosts:
    """Descriptors of two namespaces; a thread is in one at a time."""

    host: int
    client: int

    @contextmanager
    def at(self, namespace: int) -> Iterator[None]:
        """Be in `namespace`; sockets and processes that are made meanwhile stay there."""
        with within(namespace):
            yield


@contextmanager
def within(namespace: int) -> Iterator[None]:
    """Have this thread be in a network namespace. Raises OSError."""
    here = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", namespace, _CLONE_NEWNET)
        yield
    finally:
        _call("setns", here, _CLONE_NEWNET)
        os.close(here)


def become_root() -> None:
    """Become root, in a user namespace of our own if we are not; needs a single thread.

    Raises HostError where the kernel does not let us.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        return
    try:
        # With a network of our own: we could leave the one we are in, but not come back to it.
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        what = f"needs root, or user namespaces, which this kernel denies ({error.strerror})"
        raise HostError(f"{what}; run it with sudo") from error


@contextmanager
def two_hosts(client: IPv4Interface) -> Iterator[TwoHosts]:
    """Make a host and a client with address `client`, joined by a cable. Raises HostError."""
    with ExitStack() as undo:
        try:
            hosts = TwoHosts(_until(undo), _until(undo))
            with hosts.at(hosts.client), IPRoute() as ipr:
                peer = {"ifname": UPLINK, "net_ns_fd": hosts.host}
                ipr.link("add", ifname=CLIENT_PORT, kind="veth", peer=peer)
                (index,) = ipr.link_lookup(ifname=CLIENT_PORT)
                length = client.network.prefixlen
                ipr.addr("add", index=index, address=str(client.ip), prefixlen=length)
                _up(ipr, CLIENT_PORT, "lo")
            with hosts.at(hosts.host), IPRoute() as ipr:
                _up(ipr, UPLINK, "lo")
                settle(ipr, UPLINK)
            with hosts.at(hosts.client), IPRoute() as ipr:
                settle(ipr, CLIENT_PORT)
        except OSError as error:
            hint = "run as root" if error.errno == errno.EPERM else "see `jitsu check`"
            raise HostError(f"cannot make network namespaces: {error}; {hint}") from error
        yield hosts


def new_namespace() -> int:
    """Return the descriptor of a network namespace that nobody is in. Raises OSError."""
    here = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _CLONE_NEWNET)
        try:
            return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _call("setns", here, _CLONE_NEWNET)
    finally:
        os.close(here)


@contextmanager
def children_apart() -> Iterator[None]:
    """Have the processes that this thread starts see and signal none but each other.

    The first is their init (pid_namespaces(7)): with it all end. Only one may be started. Raises
    OSError.
    """
    here = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _CLONE_NEWPID)
        try:
            yield
        finally:
            _call("setns", here, _CLONE_NEWPID)
    finally:
        os.close(here)


def settle(ipr: IPRoute, name: str) -> None:
    """Wait until an interface sends: a cable is noticed some time after it has been plugged in.

    Until then the kernel drops what is sent there. Raises HostError if it takes too long.
    """
    deadline = time.monotonic() + _PATIENCE
    while ipr.link("get", ifname=name)[0].get("IFLA_OPERSTATE") != "UP":
        if time.monotonic() > deadline:
            raise HostError(f"{name} has no carrier after {_PATIENCE:.0f} s")
        time.sleep(0.001)


def _until(undo: ExitStack) -> int:
    made = new_namespace()
    undo.callback(os.close, made)
    return made


def _up(ipr: IPRoute, *names: str) -> None:
    for name in names:
        (index,) = ipr.link_lookup(ifname=name)
        ipr.link("set", index=index, state="up")


def _call(function: str, *arguments: int) -> None:
    """Call a system call that os of Python 3.11 does not have. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
