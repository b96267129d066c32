"""What Synjitsu is told, and what it wants done."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from jitsu.core.flows import Flow
from jitsu.core.segment import Ends
from jitsu.core.splice import Numbers
from jitsu.model import Cause, Epoch, Name, State

# Events.


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame has reached Synjitsu's port."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class GuestSent:
    """A booting guest has sent a frame."""

    name: Name
    frame: bytes


@dataclass(frozen=True, slots=True)
class GuestWrote:
    """A guest has written its word on the hand-over to the store."""

    name: Name
    epoch: Epoch
    word: bytes


@dataclass(frozen=True, slots=True)
class KeyAppeared:
    """The node of the store is there by which the guest of `epoch` says that it can serve."""

    name: Name
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a `Track` asked for is done."""

    name: Name


@dataclass(frozen=True, slots=True)
class Committed:
    """The store holds what a `Commit` asked for: the guest owns its connections."""

    name: Name
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Unshiftable:
    """What a `Shift` asked for cannot be done."""

    name: Name
    ends: Ends
    reason: str


@dataclass(frozen=True, slots=True)
class StateEntered:
    """A service is in another state now; `epoch` is that of its latest boot."""

    name: Name
    state: State
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Ending:
    """A guest that was fenced will not run on: it has been told to end."""

    name: Name


@dataclass(frozen=True, slots=True)
class Moving:
    """The entry of a service is about to be moved."""

    name: Name


@dataclass(frozen=True, slots=True)
class Moved:
    """The entry of a service has been moved."""

    name: Name
    to_guest: bool


Event = (
    Arrived
    | GuestSent
    | GuestWrote
    | KeyAppeared
    | Tracked
    | Committed
    | Unshiftable
    | StateEntered
    | Ending
    | Moving
    | Moved
)

# Effects.


@dataclass(frozen=True, slots=True)
class Send:
    """Send `frame` from Synjitsu's port."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class SendToGuest:
    """Send `frame` on the link of a booting guest."""

    name: Name
    frame: bytes


@dataclass(frozen=True, slots=True)
class Wake:
    """A client at `source` wants the service."""

    name: Name
    cause: Cause
    source: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep in mind, beyond our own death, who is about to be told that it is connected.

    Addresses are in network order. `Track` follows when the client has confirmed it, and takes its
    time.
    """

    local: bytes
    port: int
    peer: bytes
    peer_port: int


@dataclass(frozen=True, slots=True)
class Track:
    """Count `opened` among the connections that keep a guest, `ended` no more; `Tracked` follows.

    The guest will send no SYN-ACK for them, by which others are noticed.
    """

    name: Name
    opened: tuple[Ends, ...]
    ended: tuple[Ends, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the connections to the store, and that they are the guest's; `Committed` follows."""

    name: Name
    epoch: Epoch
    flows: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Clear:
    """The guest has imported the connections: the store need not keep them."""

    name: Name
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Shift:
    """Have a guest's link translate between the ends; see `core.splice.Shift`."""

    name: Name
    ends: Ends
    numbers: Numbers | None


@dataclass(frozen=True, slots=True)
class Unshift:
    """Have a guest's link translate no more."""

    name: Name
    ends: Ends


@dataclass(frozen=True, slots=True)
class Heard:
    """The guest has shown its first sign of life."""

    name: Name


@dataclass(frozen=True, slots=True)
class CanServe:
    """The guest can serve."""

    name: Name


Effect = (
    Send
    | SendToGuest
    | Wake
    | Remember
    | Track
    | Commit
    | Clear
    | Shift
    | Unshift
    | Heard
    | CanServe
)
