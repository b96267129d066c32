"""What a launcher is told by the daemon; `launcher/order.c` reads it."""

import os
import struct
from dataclasses import dataclass

_PORT, _WORD = struct.Struct("=H"), struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Order:
    """Which program to become, and what is to be done before."""

    program: tuple[str, ...]
    listen: tuple[int, ...]
    probed: int = 0
    """The port to be opened last; 0: none."""
    interface: str = "eth0"
    service: str = ""
    epoch: str = ""
    """Of what life of the service the store has connections; of none if it is empty."""
    announcement: bytes = b""
    """The frame that says that the guest is there, if nothing else does."""
    cpus: bytes = b""
    """The processors that the program may use, as sched_setaffinity(2) has them; none: any."""
    link: int = 0
    """The number of the host's end of the link."""
    join: bytes = b""
    """The rtnetlink requests that make it a port of the bridge."""
    settings: bytes = b""
    """Those that give the guest's end its addresses, unless it has them."""

    def encode(self) -> bytes:
        """Return its fields, each after its length."""
        return b"".join(
            _WORD.pack(len(field)) + field
            for field in (
                b"".join(map(_PORT.pack, self.listen)),
                _PORT.pack(self.probed),
                _string(self.interface),
                _WORD.pack(self.link),
                self.join,
                self.settings,
                self.cpus,
                self.announcement,
                _string(self.service),
                _string(self.epoch),
                *map(_string, self.program),
            )
        )


def _string(text: str) -> bytes:
    return os.fsencode(text) + b"\0"
