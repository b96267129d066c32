"""Clients whose connections have died with their guest, or with a daemon, and that do not know it.

A client that waits for an answer has no reason to speak, and would wait for ever. So it is asked
something: a segment that no window holds must be answered (RFC 9293 section 3.10.7.4), with the
client's own numbers. The answer comes to Synjitsu, who owns the address again, knows no such
connection, and refuses it with RST, whose number is then the right one.

The question goes by way of the host's routes, since nobody here knows the client's MAC address.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from jitsu.wire import ipv4, ipv6, tcp


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
    for orphan in orphans:
        family = socket.AF_INET if orphan.local.version == 4 else socket.AF_INET6
        with (
            suppress(OSError),
            socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as client,
        ):
            client.sendto(orphan.question(), (str(orphan.peer), 0))
