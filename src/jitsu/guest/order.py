"""What a launcher is told by the daemon."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """What to become, and where; `python -m jitsu.guest` describes the first of them."""

    program: list[str]
    listen: list[int]
    probed: int | None = None
    interface: str = "eth0"
    handoff: str | None = None
    user: str = ""
    link: int = 0
    """The number of the host's end of the link."""
    join: str = ""
    """The rtnetlink requests, in hexadecimal, that make it a port of the bridge."""
    settings: str = ""
    """Those that give our end its addresses, unless it has them."""

    def encode(self) -> bytes:
        """Return what `decode` takes."""
        return json.dumps([getattr(self, name) for name in self.__slots__]).encode()


def decode(data: bytes) -> Order:
    """Return the order of a daemon, which is of this version."""
    return Order(*json.loads(data))
