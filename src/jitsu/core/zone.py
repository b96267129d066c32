"""What the directory is authoritative for: zones, the names in them, and who lives at each.

Forward zones come from the services' names: `www.jitsu.test` makes the zone `jitsu.test` (the name
minus its first label), a name of one label is a zone by itself. Where zones nest, the longest one
that encloses a name owns it. The zone's name server is `ns.<zone>`, which has the addresses that
the directory listens on; a service that is itself called `ns` keeps its name.

Reverse zones cover exactly one address each: `10.0.77.10.in-addr.arpa` is the apex of a zone of its
own, with SOA, NS and PTR. Claiming the whole subnet instead would deny the names of neighbours that
share it, who have another server.

There are no wildcards, aliases, delegations or signatures: a service has a name and addresses. A DS
query at the apex of a zone inside another one is answered by the child, which is harmless as
neither is signed.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dns.name
import dns.rdatatype
from dns.rdatatype import AAAA, NS, PTR, SOA, A

from jitsu.core.question import record, uncompressed
from jitsu.model import DirectoryConfig, Service

REFRESH, RETRY, EXPIRE = 3600, 600, 604800
"""Timers of the SOA, in seconds. Nobody transfers these zones: they only have to be sane."""

Key = tuple[bytes, ...]
Records = dict[dns.rdatatype.RdataType, tuple[bytes, ...]]
"""Rendered records without their owner, as `core.question` wants them."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of the name space: its SOA, and the addresses of its name server.

    The SOA also goes with every denial. Its TTL and its minimum are both the configured `ttl`, so
    that is how long a denial is believed (RFC 2308 section 5).
    """

    origin: dns.name.Name
    soa: bytes
    glue: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """What there is at a name of ours.

    Without `services` and `records` the name is an empty non-terminal if it `exists` (NODATA,
    RFC 8020), otherwise it is denied (NXDOMAIN).
    """

    zone: Zone
    exists: bool
    services: tuple[Service, ...]
    records: Mapping[dns.rdatatype.RdataType, tuple[bytes, ...]]


class Zones:
    """All zones of one directory; built once, never changed."""

    def __init__(self, config: DirectoryConfig, services: Sequence[Service], serial: int) -> None:
        self._zones: dict[Key, Zone] = {}
        self._services: dict[Key, tuple[Service, ...]] = {}
        self._records: dict[Key, Records] = {}
        self._listening = _listening(config)
        self._ttl = config.ttl
        for service in services:
            self._add(service, serial)
        # A name exists if it, or any name below it, has something.
        occupied = [*self._services, *self._records]
        self._existing = {key[cut:] for key in occupied for cut in range(len(key))}

    def __repr__(self) -> str:
        """Show the zones' names."""
        return f"<Zones {' '.join(str(zone.origin) for zone in self._zones.values())}>"

    def find(self, name: dns.name.Name) -> Node | None:
        """Return what is at `name`, or None if it is in none of our zones."""
        key = _key(name)
        suffixes = (key[cut:] for cut in range(len(key)))
        zone = next((self._zones[each] for each in suffixes if each in self._zones), None)
        if zone is None:
            return None
        return Node(
            zone,
            key in self._existing,
            self._services.get(key, ()),
            self._records.get(key, {}),
        )

    def _add(self, service: Service, serial: int) -> None:
        """Enter a service's names, and for the first of them the way back from its addresses."""
        for text in service.dns:
            name = dns.name.from_text(text)
            self._open(_enclosing(name), _server(name), serial)
            residents = self._services.get(_key(name), ())
            self._services[_key(name)] = (*residents, service)
        if not service.dns:
            return
        first = dns.name.from_text(service.dns[0])
        for address in (service.address, service.address6):
            if address is not None:
                reverse = dns.name.from_text(address.reverse_pointer)
                self._open(reverse, _server(first), serial)
                self._enter(reverse, {PTR: (record(PTR, self._ttl, uncompressed(first)),)})

    def _open(self, origin: dns.name.Name, server: dns.name.Name, serial: int) -> None:
        """Start a zone and its name server, unless it is known."""
        if _key(origin) in self._zones:
            return
        owner = uncompressed(server)
        names = owner + uncompressed(_below(origin, "hostmaster"))
        timers = struct.pack("!IIIII", serial % 2**32, REFRESH, RETRY, EXPIRE, self._ttl)
        soa = record(SOA, self._ttl, names + timers)
        glue = [owner + each for records in self._listening.values() for each in records]
        self._zones[_key(origin)] = Zone(origin, soa, tuple(glue))
        self._enter(origin, {SOA: (soa,), NS: (record(NS, self._ttl, owner),)})
        self._enter(server, self._listening)

    def _enter(self, name: dns.name.Name, records: Records) -> None:
        """Add records to a name."""
        self._records.setdefault(_key(name), {}).update(records)


def _listening(config: DirectoryConfig) -> Records:
    """Return the addresses of the name server itself, by type."""
    records: Records = {}
    for address in dict.fromkeys(endpoint.address for endpoint in config.listen):
        rdtype = A if address.version == 4 else AAAA
        rendered = record(rdtype, config.ttl, address.packed)
        records[rdtype] = (*records.get(rdtype, ()), rendered)
    return records


def _key(name: dns.name.Name) -> Key:
    """Fold the case of a name: names match without regard to it (RFC 4343)."""
    return tuple(label.lower() for label in name.labels)


def _enclosing(name: dns.name.Name) -> dns.name.Name:
    """Return the origin of the zone that a service's name makes."""
    return name.parent() if len(name.labels) > 2 else name


def _server(name: dns.name.Name) -> dns.name.Name:
    """Return the name server of the zone that a service's name makes."""
    return _below(_enclosing(name), "ns")


def _below(origin: dns.name.Name, label: str) -> dns.name.Name:
    """Return the name `label` in a zone, or the zone itself where a name cannot be as long."""
    try:
        return dns.name.Name((label.encode(), *origin.labels))
    except dns.name.NameTooLong:
        return origin
