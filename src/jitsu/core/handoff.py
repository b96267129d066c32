"""Who owns the connections of a service: Synjitsu, or the guest of one epoch.

    /conduit/<service>/epoch              "<n>": the boot that counts
    /conduit/<service>/handoff/<n>        "proxying", then "committed": Synjitsu's word
    /conduit/<service>/handoff/<n>/guest  "prepared", then "imported": the guest's word
    /conduit/<service>/tcpv4              how many connections; below it 0, 1, ... (`wire.tcb`)
    /conduit/<service>/tcpv4/<i>/rx/<j>   what the client has sent, in order
    /conduit/<service>/tcpv6              the same over IPv6

Theory of operation.

Two phases, so that exactly one side owns a connection at every instant, whoever dies when:

    Synjitsu                        store                         guest of epoch n
    ------------------------------------------------------------------------------
    owns; answers, acknowledges     proxying                      boots
                                    guest = prepared        <---  can serve; is silent
    freezes: takes no more          all flows, committed:
    commits                   --->  one transaction
    silent, for good                committed               --->  owns; imports, answers
                                    guest = imported        <---  has them all
    gives it what was held,
    removes the flows         --->

*The commit is the instant* at which the owner changes. Before it a guest that dies has changed
nothing: its clients are with Synjitsu, and the next guest is asked. After it Synjitsu sends nothing
for these connections; if the guest dies, they have died with it, and their clients are told.

*What comes between freeze and import* is held, and given to the guest when it has all connections:
a segment of one that it has yet to read it would have to answer with RST.

*The epoch is the fence.* Each boot has its own nodes, which only the guest of that boot may read,
and of which it may write one: a guest cannot forge the commit, the epoch, or another's
connections, and one that is late finds nothing. What it says counts only as of its own epoch.
"""

from collections.abc import Iterator, Sequence
from enum import Enum, auto

from jitsu.core.flows import Flow
from jitsu.model import Epoch, Name
from jitsu.wire.tcb import RX_NODE_BYTES_MAX, encode

PREPARED, IMPORTED = b"prepared", b"imported"
PROXYING, COMMITTED = b"proxying", b"committed"


class Phase(Enum):
    """How far the hand-over to the guest of an epoch has come."""

    PROXYING = auto()
    FROZEN = auto()
    COMMITTED = auto()
    IMPORTED = auto()


class Handover:
    """The hand-over of one service to its guests, one after the other."""

    def __init__(self) -> None:
        self.epoch = Epoch(0)
        self.phase = Phase.PROXYING

    def __repr__(self) -> str:
        """Say how far it has come."""
        return f"<Handover to epoch {self.epoch}, {self.phase.name.lower()}>"

    def begin(self, epoch: Epoch) -> None:
        """The guest of a new epoch boots; the one before is no more."""
        self.epoch, self.phase = epoch, Phase.PROXYING

    def prepared(self, epoch: Epoch, word: bytes) -> bool:
        """Take a guest's word; say whether connections are to be frozen now."""
        if word != PREPARED or epoch != self.epoch or self.phase is not Phase.PROXYING:
            return False
        self.phase = Phase.FROZEN
        return True

    def freeze(self) -> None:
        """The guest can serve: take no more connections."""
        self.phase = Phase.FROZEN

    def committed(self, epoch: Epoch) -> None:
        """The store has it."""
        if epoch == self.epoch and self.phase is Phase.FROZEN:
            self.phase = Phase.COMMITTED

    def imported(self, epoch: Epoch, word: bytes) -> bool:
        """Take a guest's word; say whether it has, just now, all that was committed to it."""
        if word != IMPORTED or epoch != self.epoch or self.phase is not Phase.COMMITTED:
            return False
        self.phase = Phase.IMPORTED
        return True


def conduit(name: Name) -> bytes:
    """Return the node of a service."""
    return b"/conduit/" + name.encode()


def word_of(name: Name, epoch: Epoch) -> bytes:
    """Return the node that holds the guest's word."""
    return b"%b/handoff/%d/guest" % (conduit(name), epoch)


def beginning(name: Name, epoch: Epoch) -> Iterator[tuple[bytes, bytes]]:
    """Yield what the store says when a boot begins; the guest's own node is not among it."""
    top = conduit(name)
    yield top + b"/epoch", b"%d" % epoch
    yield b"%b/handoff/%d" % (top, epoch), PROXYING


def commit(name: Name, epoch: Epoch, flows: Sequence[Flow]) -> Iterator[tuple[bytes, bytes]]:
    """Yield what the store says when `flows` are the guest's, all of it in one transaction."""
    for version in (4, 6):
        folder = b"%b/tcpv%d" % (conduit(name), version)
        chosen = [flow for flow in flows if flow.tcb.local.version == version]
        yield folder, b"%d" % len(chosen)
        for i, flow in enumerate(chosen):
            path = b"%b/%d" % (folder, i)
            yield path, encode(flow.tcb)
            for j, at in enumerate(range(0, len(flow.received), RX_NODE_BYTES_MAX)):
                yield b"%b/rx/%d" % (path, j), flow.received[at : at + RX_NODE_BYTES_MAX]
    yield b"%b/handoff/%d" % (conduit(name), epoch), COMMITTED


def cleared(name: Name) -> tuple[bytes, ...]:
    """Return the nodes that go when the guest has imported the connections."""
    return conduit(name) + b"/tcpv4", conduit(name) + b"/tcpv6"
