"""Listen, take over the connections that are open already, and become a server."""

import argparse
import ctypes
import fcntl
import os
import pwd
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from jitsu.errors import ControlError, HostError, JitsuError
from jitsu.guest.handover import parse_word, take_over
from jitsu.guest.order import Order, decode
from jitsu.guest.store import Store
from jitsu.model import Mac
from jitsu.rtnetlink import Requests
from jitsu.wire import arp
from jitsu.wire.ethernet import BROADCAST, EtherType, Frame, encode

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_FD_FIRST = 3
"""Where sd_listen_fds(3) has them begin."""
_SIOCGIFADDR = 0x8915
_ORDER_BYTES_MAX = 64 << 10
_BACKLOG = 4096
_STATUS_MAX = 4096
_NICE = -10
"""As the daemon, lest it keep us from our order: there a client waits, and it is soon done."""
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do what the command line says, or what the host's daemon says by a socket."""
    try:
        options = vars(_parser().parse_args())
        orders, pid = options.pop("order"), options.pop("daemon")
        if orders is None:
            _become(Order(**options))
        else:
            _obey(_Daemon(socket.socket(fileno=orders), pid), options["user"])
    except (JitsuError, OSError) as error:
        sys.exit(f"jitsu: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m jitsu.guest", description=__doc__)
    parser.add_argument("--listen", metavar="PORT", type=int, action="append", default=[])
    parser.add_argument("--probed", metavar="PORT", type=int, help="to be opened last")
    parser.add_argument("--interface", default="eth0", help="the link to the host")
    parser.add_argument("--handoff", metavar="SERVICE/EPOCH", help="else from the kernel's command")
    parser.add_argument("--user", default="", help="whom to become")
    parser.add_argument("--order", metavar="FD", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--daemon", metavar="PID", type=int, help=argparse.SUPPRESS)
    parser.add_argument("program", nargs="*", help="the server, and its arguments")
    return parser


class _Daemon:
    """Who has started us, and what it gives its orders by."""

    def __init__(self, orders: socket.socket, pid: int) -> None:
        """`pid` is the daemon's in /proc as we find it."""
        self.orders = orders
        self._pid = pid
        self._status = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)

    def die_with(self) -> None:
        """Be killed when it is, and with us all that we have started; now, if it has been.

        Whoever is killed leaves its children to others, and only then hangs up.
        """
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        # After our name, which may hold anything: state, parent (proc(5)).
        parent = os.pread(self._status, _STATUS_MAX, 0).rpartition(b")")[2].split()[1]
        if int(parent) != self._pid:
            sys.exit(0)


def _obey(daemon: _Daemon, user: str) -> None:
    """Become what the daemon says, when it says so; do beforehand what can be done."""
    daemon.die_with()
    os.chdir("/")
    wrong = _see_nobody_else()
    host = Requests()
    _rehearse(user)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    order, namespace = _await(daemon.orders)
    _call("setns", namespace, _CLONE_NEWNET)
    os.close(namespace)
    if wrong:  # said now, for the service's own log
        _say(wrong)
    _become(order, daemon, host)


def _rehearse(user: str) -> None:
    """Do for the first time what will be in a hurry then: that takes several times as long."""
    if user:
        _ids(user)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(ours, [Order(["/"], [80], handoff="", user=user).encode()], [0])
        _, fd = _await(theirs)
        os.close(fd)


def _await(orders: socket.socket) -> tuple[Order, int]:
    """Return what we are to be, and the namespace of its network.

    There may be none for long: who waits has loaded all that it needs.
    """
    data, namespaces, _, _ = socket.recv_fds(orders, _ORDER_BYTES_MAX, 1)
    if not namespaces:
        sys.exit(0)  # the daemon needs us no more
    return decode(data), namespaces[0]


def _become(order: Order, daemon: _Daemon | None = None, host: Requests | None = None) -> None:
    _check(order.program)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sockets = _listen(order.listen, order.probed)
    if host is not None:
        _plug(order, host)  # only now: who hears from us takes us to listen
    connections: list[socket.socket] = []
    store = wire = None
    word = _word_of_kernel() if order.handoff is None else order.handoff
    if word:
        store = Store(order.interface)
        connections = take_over(store, *parse_word(word), told=_say)
    elif daemon:
        wire = _announce(order.interface)
    if order.user:
        _drop_privileges(order.user)
        if daemon:
            daemon.die_with()  # which was forgotten with the privileges
    if store:
        store.settle()
        wire = store.leave()
    if wire:
        _close(wire, daemon)
    if daemon:
        daemon.orders.close()
    _pass_on([*sockets, *connections])
    _tell(["listen"] * len(sockets) + ["connection"] * len(connections))
    _execute(order.program, order.user, hurries=daemon is not None)


def _check(program: list[str]) -> None:
    """Raise ControlError if there is nothing to execute."""
    if not program:
        raise ControlError("no program is named")
    if not os.access(program[0], os.X_OK):
        raise ControlError(f"{program[0]} cannot be executed")


def _execute(program: list[str], user: str, *, hurries: bool) -> None:
    """Become a program, as which we are `user` already. Raises HostError."""
    if hurries:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores
    try:
        os.execv(program[0], program)
    except OSError as error:
        who = f" as {user}" if user else ""
        raise HostError(f"cannot execute {program[0]}{who}: {error.strerror}") from error


def _plug(order: Order, host: Requests) -> None:
    """Bring up our end of the cable, and make the other, on the host, a port of the bridge."""
    ours = Requests()
    ours.send(bytes.fromhex(order.settings))
    host.send(bytes.fromhex(order.join))
    if order.link:
        host.await_carrier(order.link)
        ours.await_carrier(socket.if_nametoindex(order.interface))
    ours.close()
    host.close()


def _listen(ports: Sequence[int], probed: int | None) -> list[socket.socket]:
    """Listen on `ports`, on `probed` last: who is answered there takes the rest to be open, too."""
    opened = {port: listen(port) for port in sorted(ports, key=lambda port: port == probed)}
    return [opened[port] for port in ports]


def listen(port: int) -> socket.socket:
    """Listen on a port of all our addresses. Raises HostError."""
    try:
        return _listener(socket.AF_INET6, port)
    except OSError:
        pass  # no IPv6 here, or somebody else listens
    try:
        return _listener(socket.AF_INET, port)
    except OSError as error:
        raise HostError(f"cannot listen on port {port}: {error.strerror}") from error


def _listener(family: socket.AddressFamily, port: int) -> socket.socket:
    """Listen, over IPv6 for IPv4 as well. Raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _announce(interface: str) -> socket.socket:
    """Say by an ARP announcement (RFC 5227) that we are here: else nobody would ask for long.

    Return the socket by which that was said, which is still to be closed.
    """
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire.bind((interface, EtherType.ARP))
    mac = Mac(wire.getsockname()[4])
    asked = struct.pack("16s16x", interface.encode())
    address = IPv4Address(fcntl.ioctl(wire, _SIOCGIFADDR, asked)[20:24])
    told = arp.Arp(arp.Operation.REQUEST, mac, address, Mac(bytes(6)), address)
    wire.send(encode(Frame(BROADCAST, mac, EtherType.ARP, arp.encode(told))))
    return wire


def _close(wire: socket.socket, daemon: _Daemon | None) -> None:
    """Close a packet socket.

    The kernel waits 10 ms until nobody uses it (packet_release), and the client with us: who
    gives the orders gets it, too, and is the last to close it.
    """
    if daemon:
        with suppress(OSError):  # it has gone, and we go with it
            socket.send_fds(daemon.orders, [b"close"], [wire.fileno()])
    wire.close()


def _say(what: str) -> None:
    sys.stderr.write(f"jitsu: {what}\n")


def _word_of_kernel() -> str:
    words = Path("/proc/cmdline").read_text().split()
    return next((w.removeprefix("handoff=") for w in words if w.startswith("handoff=")), "")


def _tell(names: Sequence[str]) -> None:
    """Say in the environment what the program finds."""
    if names:
        told = {"PID": os.getpid(), "FDS": len(names), "FDNAMES": ":".join(names)}
        os.environ.update({f"LISTEN_{key}": str(value) for key, value in told.items()})


def _pass_on(sockets: Sequence[socket.socket]) -> None:
    """Put sockets where the program looks for them."""
    above = _FD_FIRST + len(sockets)
    aside = [fcntl.fcntl(each.detach(), fcntl.F_DUPFD_CLOEXEC, above) for each in sockets]
    for i, fd in enumerate(aside):
        os.dup2(fd, _FD_FIRST + i, inheritable=True)


@cache
def _ids(name: str) -> tuple[int, int]:
    user = pwd.getpwnam(name)
    return user.pw_uid, user.pw_gid


def _drop_privileges(name: str) -> None:
    """Become somebody who may do nothing, and never more."""
    uid, gid = _ids(name)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _see_nobody_else() -> str:
    """Have a /proc of our own process tree: in the host's are others who are nobody.

    Return what is wrong, if it cannot be.
    """
    try:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        _call("mount", b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)
    except OSError as error:  # within a container, say
        return f"the host's processes can be seen: {error.strerror}"
    return ""


def _call(function: str, *arguments: int | bytes | None) -> None:
    """Call what os of Python 3.11 does not have. Raises OSError."""
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
