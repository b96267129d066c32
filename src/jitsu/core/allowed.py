"""Who may summon, by address."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network


class Allowed:
    """A set of networks that is asked for each frame: addresses are bytes."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._networks = [
            (n.max_prefixlen // 8, int(n.network_address), int(n.netmask)) for n in networks
        ]

    def __contains__(self, source: bytes) -> bool:
        """Say whether an address is within one of the networks."""
        address = int.from_bytes(source)
        size = len(source)
        return any(size == s and address & mask == net for s, net, mask in self._networks)
