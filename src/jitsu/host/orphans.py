"""Clients whose connections have died with their guest, or with a daemon, and that do not know it.

A client that waits for an answer has no reason to speak, and would wait for ever. So it is asked
something: a segment that no window holds must be answered (RFC 9293 section 3.10.7.4), with the
client's own numbers. The answer comes to Synjitsu, who owns the address again, knows no such
connection, and refuses it with RST, whose number is then the right one.

The question goes by way of the host's routes, since nobody here knows the client's MAC address.
It may be lost, be it that the client's neighbour is unknown and so many wait for that already
that the kernel drops it. So it is asked several times; who has been told already is not harmed.

*Who they are* nftables tells (`host.firewall`): open connections are in its sets, whoever dies. But
a client knows of a connection some milliseconds before nftables does, and a daemon may be killed
in between, so the latest of those are in a file (`Register`) that is memory of the kernel's.
"""

import mmap
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from jitsu.errors import HostError
from jitsu.wire import ipv4, ipv6, tcp

ASKED_AT = (0.0, 1.0, 4.0)
"""Seconds: the kernel gives a neighbour up that has not answered for three."""
REGISTER_MAX = 4096
"""Connections in the register: a flood of SYNs takes longer to push one out than nftables to
learn of it."""
_ENTRY = struct.Struct("!BxHH16s16s")
"""Version (0: there is none), ports and addresses, the service's first."""
_LENGTHS = {4: 4, 6: 16}


@dataclass(frozen=True, slots=True)
class Orphan:
    """A connection that was open, of a service's, `local`, and its client."""

    local: IPv4Address | IPv6Address
    port: int
    peer: IPv4Address | IPv6Address
    peer_port: int

    def question(self) -> bytes:
        """Return the packet that its client must answer, if it still has the connection."""
        # 0 is in the window of one client in sixty-five thousand, and does not harm that one.
        segment = tcp.Segment(self.port, self.peer_port, 0, 0, tcp.Flags.ACK, 0)
        payload = tcp.encode(segment, self.local, self.peer)
        if isinstance(self.local, IPv4Address):
            assert isinstance(self.peer, IPv4Address)
            packet = ipv4.Packet(self.local, self.peer, ipv4.Protocol.TCP, payload)
            return ipv4.encode(packet)
        assert isinstance(self.peer, IPv6Address)
        return ipv6.encode(ipv6.Packet(self.local, self.peer, ipv6.Protocol.TCP, payload))


def ask(orphans: Iterable[Orphan]) -> None:
    """Ask the clients of connections that are no more; who cannot be reached is not asked."""
    with ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        for orphan in orphans:
            version = orphan.local.version
            with suppress(OSError):
                if version not in sockets:
                    family = socket.AF_INET if version == 4 else socket.AF_INET6
                    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
                    sockets[version] = stack.enter_context(raw)
                sockets[version].sendto(orphan.question(), (str(orphan.peer), 0))


class Register:
    """The connections that clients were last told of, for an heir should we be killed.

    `left` are those that an earlier daemon has left; they are there until `settle`, however many
    heirs are killed meanwhile.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Keep it in a file, and what was left in one beside it; or, without, for nobody.

        Raises HostError.
        """
        self._path = path
        self._next = 0
        size = REGISTER_MAX * _ENTRY.size
        self.left: set[Orphan] = set()
        if path is None:
            self._memory = mmap.mmap(-1, size)
            return
        try:
            with path.open("a+b") as file:
                file.truncate(size)
                self._memory = mmap.mmap(file.fileno(), size)
            self.left.update(_entries(self._memory[:]))
            with suppress(FileNotFoundError):
                self.left.update(_entries(self._beside(path).read_bytes()))
        except (OSError, ValueError) as error:
            raise HostError(f"{path}: {error}; set [host] run to another folder") from error

    def inherit(self, more: Iterable[Orphan]) -> None:
        """Keep what was left, and `more`, apart from what is to come. Raises HostError."""
        self.left.update(more)
        if self._path is None:
            return
        try:
            new = self._path.with_suffix(".new")
            new.write_bytes(b"".join(map(_entry, self.left)))
            new.replace(self._beside(self._path))
        except OSError as error:
            raise HostError(f"{self._path}: {error.strerror}") from error
        self._memory[:] = bytes(len(self._memory))

    def remember(self, local: bytes, port: int, peer: bytes, peer_port: int) -> None:
        """Take in a connection, in the place of the one longest ago."""
        version = 4 if len(local) == 4 else 6
        at = self._next * _ENTRY.size
        _ENTRY.pack_into(self._memory, at, version, port, peer_port, local, peer)
        self._next = (self._next + 1) % REGISTER_MAX

    def settle(self) -> None:
        """Forget what was left: they have all been asked."""
        self.left.clear()
        if self._path is not None:
            self._beside(self._path).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing: nobody is orphaned by an end in good order."""
        self._memory.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._beside(self._path).unlink(missing_ok=True)

    @staticmethod
    def _beside(path: Path) -> Path:
        return path.with_suffix(".left")


def _entry(orphan: Orphan) -> bytes:
    local, peer = orphan.local, orphan.peer
    return _ENTRY.pack(local.version, orphan.port, orphan.peer_port, local.packed, peer.packed)


def _entries(data: bytes) -> Iterator[Orphan]:
    """Yield what is there; a killed daemon may have left an entry half written."""
    whole = len(data) - len(data) % _ENTRY.size
    for version, port, peer_port, local, peer in _ENTRY.iter_unpack(data[:whole]):
        if length := _LENGTHS.get(version):
            yield Orphan(ip_address(local[:length]), port, ip_address(peer[:length]), peer_port)
