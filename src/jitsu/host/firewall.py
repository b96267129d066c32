"""What nftables does on the bridge: keeps guests honest, and knows which of them are in use.

The data plane counts, so that frames of awake services never enter Python:

- set `busy`: the MAC addresses of services that had unicast IP traffic, each with the time that
  is left of `BUSY_TIMEOUT` since the last packet;
- set `open`: TCP connections that a guest has accepted. A SYN-ACK puts one in for a minute (a
  client that never completes the handshake holds nothing), each segment of the client keeps it
  for `OPEN_TIMEOUT`, the guest's FIN or either side's RST takes it out.

And it filters: a guest sends only from its own MAC and addresses; guests do not reach each other;
the host answers guests but takes no new connection from them.

Connection tracking proper (nf_conntrack_bridge) is not used: many kernels lack it, and a SYN flood
on sleeping services would fill its table, which then drops everybody's packets.
"""

import ctypes
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jitsu.errors import HostError
from jitsu.model import Service

BUSY_TIMEOUT_MIN = 3600
"""Seconds that the last traffic of a service is remembered, at least."""
OPEN_TIMEOUT = "5d"
"""As Linux's conntrack: a connection this long without a segment is forgotten."""
OPEN_FLOWS_MAX = 65535
_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON


@dataclass(frozen=True, slots=True)
class Usage:
    """How a service is used: seconds since its last packet (None: long ago), open connections."""

    age: float | None
    flows: int


class Firewall:
    """The nftables tables of one bridge; gone when closed."""

    def __init__(self, bridge: str, services: Iterable[tuple[str, Service]]) -> None:
        """Install the tables for `services`, each with the name of its guest's interface."""
        self._bridge = bridge
        # nftables has words of its own ("ip", "bridge") that cannot name a table; and the table
        # that an operator has made for the bridge is not ours to remove.
        self._table = f"jitsu_{bridge}"
        self._services = list(services)
        longest = max((s.idle_after for _, s in self._services), default=0.0)
        self._busy_timeout = max(BUSY_TIMEOUT_MIN, int(longest) + 60)
        self._nft = _Nftables()
        self._nft.run(self._remove() + self._rules())

    def close(self) -> None:
        """Remove the tables."""
        self._nft.run(self._remove())
        self._nft.close()

    def usage(self) -> dict[str, Usage]:
        """Return each service's usage by name. Blocks for some milliseconds."""
        reply = json.loads(
            self._nft.run(f"list set bridge {self._table} busy") or '{"nftables": []}'
        )
        ages = {
            str(element["val"]): max(0.0, self._busy_timeout - float(element["expires"]) - 1.0)
            for element in _elements(reply)
        }
        reply = json.loads(self._nft.run(f"list set bridge {self._table} open"))
        flows: dict[str, int] = {}
        for element in _elements(reply):
            guest = str(element["val"]["concat"][0])
            flows[guest] = flows.get(guest, 0) + 1
        return {
            service.name: Usage(ages.get(service.mac.hex(":")), flows.get(str(service.address), 0))
            for _, service in self._services
        }

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
            ip6 += [f'"{port}" . {service.address6}'] if service.address6 else []
        guests = ", ".join(service.mac.hex(":") for _, service in self._services)
        return _RULES.format(
            bridge=self._bridge,
            table=self._table,
            macs=", ".join(macs),
            arp=", ".join(arp),
            ip4=", ".join(ip4),
            ip6=f"elements = {{ {', '.join(ip6)} }}" if ip6 else "",
            guests=guests,
            busy=self._busy_timeout,
            open_max=OPEN_FLOWS_MAX,
            open_timeout=OPEN_TIMEOUT,
        )


_RULES = """
table bridge {table} {{
  set guest_mac {{ typeof iifname . ether saddr; elements = {{ {macs} }} }}
  set guest_arp {{ typeof iifname . arp saddr ether . arp saddr ip; elements = {{ {arp} }} }}
  set guest_ip4 {{ typeof iifname . ip saddr; elements = {{ {ip4} }} }}
  set guest_ip6 {{ typeof iifname . ip6 saddr; {ip6} }}
  set busy {{ typeof ether saddr; flags dynamic,timeout; size 65535; timeout {busy}s; }}
  set open {{
    typeof ip saddr . tcp sport . ip daddr . tcp dport
    flags dynamic,timeout; size {open_max}; timeout {open_timeout};
  }}
  chain prerouting {{
    type filter hook prerouting priority 0; policy accept;
    iifname "{bridge}-g*" jump from_guest
  }}
  chain from_guest {{
    iifname . ether saddr != @guest_mac drop
    ether type arp iifname . arp saddr ether . arp saddr ip != @guest_arp drop
    ether type ip iifname . ip saddr != @guest_ip4 drop
    ether type ip6 ip6 saddr != {{ fe80::/10, :: }} iifname . ip6 saddr != @guest_ip6 drop
    ether type != {{ arp, ip, ip6 }} drop
    ether type {{ ip, ip6 }} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 \
update @busy {{ ether saddr }}
    tcp flags & (syn | ack | rst) == syn | ack \
update @open {{ ip saddr . tcp sport . ip daddr . tcp dport timeout 60s }}
    tcp flags & (fin | rst) != 0 delete @open {{ ip saddr . tcp sport . ip daddr . tcp dport }}
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname "{bridge}-g*" oifname "{bridge}-g*" drop
  }}
  chain postrouting {{
    type filter hook postrouting priority 0; policy accept;
    oifname "{bridge}-g*" jump to_guest
  }}
  chain to_guest {{
    ether type {{ ip, ip6 }} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 \
update @busy {{ ether daddr }}
    tcp flags & (syn | rst | ack) == ack ip daddr . tcp dport . ip saddr . tcp sport @open \
update @open {{ ip daddr . tcp dport . ip saddr . tcp sport timeout {open_timeout} }}
    tcp flags & rst != 0 delete @open {{ ip daddr . tcp dport . ip saddr . tcp sport }}
  }}
}}
table inet {table} {{
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname "{bridge}" ether saddr {{ {guests} }} ct state new drop
  }}
}}
"""


def _elements(reply: Any) -> Iterable[dict[str, Any]]:  # noqa: ANN401  (JSON)
    for item in reply["nftables"]:
        for element in item.get("set", {}).get("elem", []):
            yield element["elem"]


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
        self._context = ctypes.c_void_p(self._lib.nft_ctx_new(0))
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
            raise HostError(f"nftables: {reason}; Jitsu needs the kernel's nf_tables and root")
        return output.decode()

    def close(self) -> None:
        """Free the context."""
        self._lib.nft_ctx_free(self._context)
