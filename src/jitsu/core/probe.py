"""Probes: is anybody listening on a guest's port? A SYN from an address that is nobody's."""

import hashlib
from ipaddress import IPv4Address

from jitsu.model import Mac, Service
from jitsu.wire import ethernet, ipv4, tcp

PROBE_PORT = 49152
"""The first dynamic port (RFC 6335 section 6); the address is nobody's, so any would do."""


def first_number(service: Service, secret: bytes) -> int:
    """Return the initial sequence number of the probes of a service."""
    return int.from_bytes(hashlib.sha256(secret + service.name.encode()).digest()[:4])


def frame(
    service: Service, port: int, source: tuple[Mac, IPv4Address], flags: tcp.Flags, seq: int
) -> bytes:
    """Return the frame of a segment from `source` to a port of a service."""
    segment = tcp.Segment(PROBE_PORT, port, seq, 0, flags, window=1024)
    payload = tcp.encode(segment, source[1], service.address)
    packet = ipv4.encode(ipv4.Packet(source[1], service.address, ipv4.Protocol.TCP, payload))
    return ethernet.encode(ethernet.Frame(service.mac, source[0], ethernet.EtherType.IPV4, packet))
