"""What nftables does on the bridge: keeps guests honest, and knows which of them are in use.

The data plane counts, so that frames of awake services never enter Python:

- set `busy`: the MAC addresses of services that had unicast IP traffic, each with the time that
  is left of `BUSY_TIMEOUT` since the last packet. Who asks where a service is, or is told, does not
  use it, be it by ARP or by neighbour discovery;
- a set `openN` for service N: TCP connections that its guest has accepted, and `openNv6` with those
  over IPv6, where its guest has that. A SYN-ACK puts one in for a minute (a client that never
  completes the handshake holds nothing), each segment of the client keeps it for `OPEN_TIMEOUT`,
  the guest's FIN or either side's RST takes it out. What is there when the guest ends, or a daemon
  finds another's tables, are orphans (`host.orphans`).

And it filters. A guest sends only from its own MAC and addresses, and speaks only for those: no
router advertisement or redirect, no neighbour advertisement for another, no answer of a DHCP
server. Its link-local address is the one that derives from its MAC address (RFC 4291 appendix A);
without an `address6` it has no IPv6 at all. Guests do not reach each other, asleep or awake, on the
bridge or by way of the host; the host answers guests but takes no new connection from them. Of
what the bridge floods for want of an entry, Synjitsu's port gets what is for a service. Frames of
the store link reach a guest from the host's end at its tap alone, never by way of the bridge.

Connection tracking proper (nf_conntrack_bridge) is not used: many kernels lack it, and a SYN flood
on sleeping services would fill its table, which then drops everybody's packets.
"""

import ctypes
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from jitsu.core.readiness import OWN_MAC
from jitsu.core.segment import Ends
from jitsu.errors import HostError
from jitsu.host.orphans import Orphan
from jitsu.model import Service
from jitsu.wire.ethernet import EtherType
from jitsu.wire.ipv6 import link_local

BUSY_TIMEOUT_MIN = 3600
"""Seconds that the last traffic of a service is remembered, at least."""
OPEN_TIMEOUT = "5d"
"""As Linux's conntrack: a connection this long without a segment is forgotten."""
OPEN_FLOWS_MAX = 4096
"""Connections in one set: what it takes 50 ms to list. A full set is a service in use,
so what does not fit keeps its guest too, until there is room."""
_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
_MISSING = "No such file or directory"


@dataclass(frozen=True, slots=True)
class Usage:
    """How a service is used: seconds since its last packet (None: long ago), open connections."""

    age: float | None
    flows: int


class Firewall:
    """The nftables tables of one bridge; gone when closed."""

    def __init__(
        self,
        bridge: str,
        probe: IPv4Address,
        services: Iterable[tuple[str, Service]],
        report: Callable[[str], None],
        inherit: Callable[[list[Orphan]], None] = lambda _: None,
    ) -> None:
        """Install the tables for `services`, each with the name of its guest's interface.

        What a guest answers to probes from `probe` is no use of it. `inherit` gets what was open
        when an earlier daemon was killed, before its tables go.

        `report` is told, on whatever thread, when they had to be installed again.
        """
        self._bridge = bridge
        self._probe = probe
        # nftables has words of its own ("ip", "bridge") that cannot name a table; and the table
        # that an operator has made for the bridge is not ours to remove.
        self._table = f"jitsu_{bridge}"
        self._services = list(services)
        self._numbers = {service.name: i for i, (_, service) in enumerate(self._services)}
        self._report = report
        longest = max((s.idle_after for _, s in self._services), default=0.0)
        self._busy_timeout = max(BUSY_TIMEOUT_MIN, int(longest) + 60)
        self._nft = _Nftables()
        inherit(self._left())
        self._install()

    def close(self) -> None:
        """Remove the tables."""
        self._nft.run(self._remove())
        self._nft.close()

    def usage(self, services: Iterable[Service]) -> dict[str, Usage]:
        """Return the usage of `services` by name. Blocks for some milliseconds. Raises HostError.

        Where somebody has flushed the tables nothing is known: for this look all are in use.
        """
        asked = list(services)
        try:
            ages = {
                str(element["val"]): max(0.0, self._busy_timeout - float(element["expires"]) - 1.0)
                for element in self._elements("busy")
            }
            return {s.name: Usage(ages.get(s.mac.hex(":")), self._flows(s)) for s in asked}
        except _GoneError:
            self._reinstall()
            return {service.name: Usage(0.0, 0) for service in asked}

    def forget(self, service: Service) -> list[Orphan]:
        """Forget the connections of a guest that is no more; return them. Raises HostError."""
        orphans: list[Orphan] = []
        sets = self._open_sets(service)
        try:
            for name in sets:
                orphans += _orphans(self._nft.run(f"list set bridge {self._table} {name}"))
            self._nft.run("\n".join(f"flush set bridge {self._table} {name}" for name in sets))
        except _GoneError:
            self._reinstall()
        return orphans

    def track(self, service: Service, opened: Sequence[Ends], ended: Sequence[Ends]) -> None:
        """Put connections into the sets of the open ones, or take them out. Raises HostError."""
        commands = "".join(
            f"{verb} element bridge {self._table} {name} {{ {', '.join(map(_element, these))} }}\n"
            # To delete what is not there would be an error, so it is added first.
            for verb, some in (("add", [*opened, *ended]), ("delete", ended))
            for version, name in zip((4, 6), self._open_sets(service), strict=False)
            if (these := [ends for ends in some if ends.local.version == version])
        )
        try:
            self._nft.run(commands)
        except _GoneError:
            self._reinstall()

    def _left(self) -> list[Orphan]:
        try:
            return _orphans(self._nft.run(f"list table bridge {self._table}"))
        except _GoneError:
            return []

    def _flows(self, service: Service) -> int:
        return sum(1 for name in self._open_sets(service) for _ in self._elements(name))

    def _open_sets(self, service: Service) -> list[str]:
        number = self._numbers[service.name]
        return [name for name, *_ in _open_sets(number, self._services[number][1])]

    def _elements(self, name: str) -> Iterable[dict[str, Any]]:
        reply = self._nft.run(f"list set bridge {self._table} {name}")
        for item in json.loads(reply)["nftables"]:
            for element in item.get("set", {}).get("elem", []):
                yield element["elem"]

    def _install(self) -> None:
        self._nft.run(self._remove() + self._rules())

    def _reinstall(self) -> None:
        self._install()
        self._report("somebody has removed the nftables tables of Jitsu; they are there again")

    def _remove(self) -> str:
        tables = (f"bridge {self._table}", f"inet {self._table}")
        # `add` first: to delete what is not there would be an error.
        return "".join(f"add table {table}\ndelete table {table}\n" for table in tables)

    def _rules(self) -> str:
        macs, arp, ip4, ip6 = [], [], [], []
        for port, service in self._services:
            mac = service.mac.hex(":")
            macs.append(f'"{port}" . {mac}')
            arp += [f'"{port}" . {mac} . {a}' for a in (service.address, "0.0.0.0")]
            ip4 += [f'"{port}" . {a}' for a in (service.address, "0.0.0.0")]
            ip6 += [f'"{port}" . {a}' for a in (*_addresses6(service), "::") if service.address6]
        numbered = list(enumerate(self._services))
        inside6 = [str(s.address6) for _, s in self._services if s.address6]
        return _RULES.format(
            bridge=self._bridge,
            table=self._table,
            macs=", ".join(macs),
            arp=", ".join(arp),
            ip4=", ".join(ip4),
            ip6=f"elements = {{ {', '.join(ip6)} }}" if ip6 else "",
            guests=", ".join(service.mac.hex(":") for _, service in self._services),
            inside=", ".join(str(service.address) for _, service in self._services),
            inside6=f"ip6 daddr {{ {', '.join(inside6)} }} drop" if inside6 else "",
            own=OWN_MAC.hex(":"),
            store_link=f"{EtherType.STORE_LINK:#x}",
            probe=self._probe,
            busy=self._busy_timeout,
            each="".join(_each(i, service) for i, (_, service) in numbered),
            senders=", ".join(f'"{port}" : jump from{i}' for i, (port, _) in numbered),
            receivers=", ".join(f'"{port}" : jump to{i}' for i, (port, _) in numbered),
        )


def _element(ends: Ends) -> str:
    return f"{ends.peer} . {ends.port} . {ends.peer_port}"


def _orphans(listed: str) -> list[Orphan]:
    """Return the elements of all sets whose comment says whose open connections they are."""
    found = []
    for item in json.loads(listed)["nftables"]:
        connections = item.get("set", {})
        if "comment" not in connections:
            continue
        local = ip_address(connections["comment"])
        for element in connections.get("elem", []):
            peer, port, peer_port = element["elem"]["val"]["concat"]
            found.append(Orphan(local, int(port), ip_address(peer), int(peer_port)))
    return found


def _addresses6(service: Service) -> list[IPv6Address]:
    """Return the addresses that a guest may have, if it has any."""
    return [service.address6, link_local(service.mac)] if service.address6 else []


def _open_sets(number: int, service: Service) -> list[tuple[str, str, object]]:
    """Return the sets of a service's connections, the family that nftables knows, the address."""
    sets: list[tuple[str, str, object]] = [(f"open{number}", "ip", service.address)]
    return [*sets, (f"open{number}v6", "ip6", service.address6)] if service.address6 else sets


def _each(number: int, service: Service) -> str:
    """Return the part of the rules that is for one service."""
    targets = ", ".join(f"0x{int(address):032x}" for address in _addresses6(service))
    sets = _open_sets(number, service)

    def of_each(rules: str) -> str:
        values = {"open_max": OPEN_FLOWS_MAX, "open_timeout": OPEN_TIMEOUT}
        return "".join(
            rules.format(open=name, ip=family, local=local, **values)
            for name, family, local in sets
        )

    return _EACH.format(
        n=number,
        sets=of_each(_OPEN),
        sent=of_each(_OPEN_SENT),
        received=of_each(_OPEN_RECEIVED),
        # Bytes 8 to 23 of a neighbour advertisement are whom it is about (RFC 4861 section 4.4).
        honest=f"icmpv6 type nd-neighbor-advert @th,64,128 != {{ {targets} }} drop"
        if targets
        else "",
    )


_RULES = """
table bridge {table} {{
  set guest_mac {{ typeof iifname . ether saddr; elements = {{ {macs} }} }}
  set guest_arp {{ typeof iifname . arp saddr ether . arp saddr ip; elements = {{ {arp} }} }}
  set guest_ip4 {{ typeof iifname . ip saddr; elements = {{ {ip4} }} }}
  set guest_ip6 {{ typeof iifname . ip6 saddr; {ip6} }}
  set busy {{ typeof ether saddr; flags dynamic,timeout; size 65535; timeout {busy}s; }}
  {each}
  chain prerouting {{
    type filter hook prerouting priority 0; policy accept;
    iifname "{bridge}-g*" jump from_guest
  }}
  chain from_guest {{
    iifname . ether saddr != @guest_mac drop
    ether type arp iifname . arp saddr ether . arp saddr ip != @guest_arp drop
    ether type ip iifname . ip saddr != @guest_ip4 drop
    ether type ip6 iifname . ip6 saddr != @guest_ip6 drop
    ether type != {{ arp, ip, ip6 }} drop
    icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    udp sport {{ 67, 547 }} drop
    ip daddr {probe} accept
    iifname vmap {{ {senders} }}
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    ether type {{ ip, ip6 }} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 \
update @busy {{ ether saddr }}
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname "{bridge}-g*" oifname "{bridge}-g*" drop
    iifname "{bridge}-g*" oifname "{bridge}-syn" ether daddr {{ {guests} }} drop
  }}
  chain postrouting {{
    type filter hook postrouting priority 0; policy accept;
    oifname "{bridge}-g*" jump to_guest
    oifname "{bridge}-syn" ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 \
ether daddr != {{ {guests}, {own} }} drop
  }}
  chain to_guest {{
    ether type {store_link} drop
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    ether type {{ ip, ip6 }} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 \
update @busy {{ ether daddr }}
    oifname vmap {{ {receivers} }}
  }}
}}
table inet {table} {{
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname "{bridge}" ether saddr {{ {guests} }} ct state new drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname "{bridge}" ether saddr {{ {guests} }} jump from_guest
  }}
  chain from_guest {{
    ip daddr {{ {inside} }} drop
    {inside6}
  }}
}}
"""

_EACH = """
  {sets}
  chain from{n} {{
    {honest}
    {sent}
  }}
  chain to{n} {{
    {received}
  }}"""

_OPEN = """
  set {open} {{
    typeof {ip} daddr . tcp sport . tcp dport
    flags dynamic,timeout; size {open_max}; timeout {open_timeout};
    comment "{local}";
  }}"""

_OPEN_SENT = """
    tcp flags & (syn | ack | rst) == syn | ack \
update @{open} {{ {ip} daddr . tcp sport . tcp dport timeout 60s }}
    tcp flags & (fin | rst) != 0 delete @{open} {{ {ip} daddr . tcp sport . tcp dport }}"""

_OPEN_RECEIVED = """
    tcp flags & (syn | rst | ack) == ack {ip} saddr . tcp dport . tcp sport @{open} \
update @{open} {{ {ip} saddr . tcp dport . tcp sport timeout {open_timeout} }}
    tcp flags & rst != 0 delete @{open} {{ {ip} saddr . tcp dport . tcp sport }}"""


def _descriptors() -> set[int]:
    """Return which descriptors are open, but that of the listing, which is closed."""
    return {int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists()}


class _GoneError(HostError):
    """A table or set is not there."""


class _Nftables:
    """libnftables (libnftables(3)) in this network namespace."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise HostError("libnftables.so.1 is missing; install libnftables1") from error
        self._lib.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._lib, name).restype = ctypes.c_char_p
        before = _descriptors()
        self._context = ctypes.c_void_p(self._lib.nft_ctx_new(0))
        for fd in _descriptors() - before:
            os.set_inheritable(fd, False)  # guests are not to have its netlink socket
        self._lib.nft_ctx_output_set_flags(self._context, _JSON)
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Run `commands`, all or none, and return their JSON output. Raises HostError."""
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._context)
        error: bytes = self._lib.nft_ctx_get_error_buffer(self._context)
        if failed:
            reason = error.decode().strip().partition("\n")[0]
            kind = _GoneError if _MISSING in reason else HostError
            raise kind(f"nftables: {reason}; Jitsu needs the kernel's nf_tables and root")
        return output.decode()

    def close(self) -> None:
        """Free the context."""
        self._lib.nft_ctx_free(self._context)
