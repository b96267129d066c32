"""The nouns of Jitsu, shared by every layer."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NewType

Name = NewType("Name", str)
"""What the operator calls a service: a DNS label."""

Mac = NewType("Mac", bytes)
"""Six bytes of an Ethernet address."""


def mac_of(name: str) -> Mac:
    """Derive a service's MAC address from its name: locally administered, 40 bits of SHA-256.

    It is the same in every run, so that no client's neighbour cache ever has to change.
    """
    return Mac(b"\x02" + hashlib.sha256(name.encode()).digest()[:5])


Epoch = NewType("Epoch", int)
"""Which boot of a service: grows by one with every boot."""


class State(StrEnum):
    """Where in its life a service is."""

    ASLEEP = "asleep"
    BOOTING = "booting"
    AWAKE = "awake"
    STOPPING = "stopping"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    FAILED = "failed"


class Cause(StrEnum):
    """What summoned a service."""

    DNS = "dns"
    SYN = "syn"
    UDP = "udp"
    ICMP = "icmp"
    CONDUIT = "conduit"
    OPERATOR = "operator"


class Handoff(StrEnum):
    """How a client that came while the service slept reaches it (see docs/config.md)."""

    AUTO = "auto"
    IMPORT = "import"
    SPLICE = "splice"
    REPLAY = "replay"
    NONE = "none"


class Answer(StrEnum):
    """When a DNS query that summons is answered."""

    AT_ONCE = "at-once"
    WHEN_READY = "when-ready"


class StopMode(StrEnum):
    """How a service that nobody uses is let go."""

    DESTROY = "destroy"
    SHUTDOWN = "shutdown"
    PAUSE = "pause"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class ReadyOnFrame:
    """The guest can serve when it has sent its first frame."""


@dataclass(frozen=True, slots=True)
class ReadyOnTcp:
    """The guest can serve when it completes a handshake on `port`."""

    port: int


@dataclass(frozen=True, slots=True)
class ReadyOnDelay:
    """The guest can serve `seconds` after its boot began."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ReadyOnKey:
    """The guest can serve when the node `path` of the store appears.

    A path that does not begin with a slash is relative to the guest's home.
    """

    path: str


Ready = ReadyOnFrame | ReadyOnTcp | ReadyOnDelay | ReadyOnKey


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw image file that a guest has as a disk."""

    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What a guest can go on with of connections that were opened for it.

    It takes over at most `connections`, and of each at most `window` bytes. `mss` is the largest
    segment that it takes, `window_scale` the shift of its own windows, if it knows of such.
    """

    connections: int
    window: int
    mss: int = 1460
    window_scale: int | None = None
    sack: bool = False
    timestamps: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A name that a unikernel answers, booted when somebody asks.

    `dns` names are lower case without the final dot; `memory` is in bytes, times in seconds.
    """

    name: Name
    dns: tuple[str, ...]
    image: str
    address: IPv4Address
    mac: Mac
    address6: IPv6Address | None = None
    backend: str = "auto"
    memory: int = 16 << 20
    cmdline: str = ""
    initrd: str = ""
    """What Linux starts from, besides its image; empty: nothing."""
    handoff: Handoff = Handoff.AUTO
    terms: Terms | None = None
    """On which connections are opened for it, if they are."""
    listen: tuple[int, ...] = ()
    """Ports that are listened on for a program."""
    answer: Answer = Answer.AT_ONCE
    ready: Ready = ReadyOnFrame()
    idle_after: float = 120.0
    boot_timeout: float = 10.0
    stop: StopMode = StopMode.DESTROY
    warm: int = 0
    """How many instances are prepared ahead of the boots to come."""
    disks: tuple[Disk, ...] = ()
    nics: tuple[str, ...] = ()
    """Bridges that it has a further interface on, each."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port, as in `10.77.0.1:53`."""

    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        """Return `address:port`, an IPv6 address in brackets."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """The `[directory]` section: where DNS is served, and who may summon by it."""

    listen: tuple[Endpoint, ...]
    summon_from: tuple[IPv4Network | IPv6Network, ...]
    ttl: int = 60
    forward: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The `[network]` section; `gateway` is the host's own address on the bridge.

    With a `subnet6` it has `gateway6` there as well.
    """

    bridge: str
    subnet: IPv4Network
    subnet6: IPv6Network | None
    gateway: IPv4Address
    probe: IPv4Address
    uplink: str = ""
    gateway6: IPv6Address | None = None


class WhichXenstored(StrEnum):
    """Whose store the guests of Xen find: the daemon's own, or that which runs already."""

    AUTO = "auto"
    OWN = "own"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The `[host]` section; `memory` is in bytes, for all services together."""

    memory: int
    state: str
    run: str
    xenstored: WhichXenstored = WhichXenstored.AUTO


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration, checked: whatever is in it makes sense together."""

    directory: DirectoryConfig
    network: NetworkConfig
    host: HostConfig
    services: tuple[Service, ...]
