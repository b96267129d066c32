"""The guest's half of the hand-over (docs/handoff.md), by the store."""

import socket
from collections.abc import Callable, Iterator, Sequence

from jitsu.core.handoff import COMMITTED, IMPORTED, PREPARED, conduit, word_of
from jitsu.errors import ControlError, WireError
from jitsu.guest.adopt import adopt
from jitsu.guest.store import Store
from jitsu.model import Epoch, Name
from jitsu.wire import tcb
from jitsu.wire.tcb import RX_NODE_BYTES_MAX, Tcb


def take_over(
    store: Store, name: Name, epoch: Epoch, told: Callable[[str], object]
) -> list[socket.socket]:
    """Say that we can serve, wait for our connections, and return them as sockets.

    From now on the kernel answers for them. One that it does not take is left out, and its client
    gets a RST; `told` hears of it. That we have them is posted: it is for the caller to `settle`.
    Raises ControlError when the store does not know us, WireError when what it says of a
    connection makes no sense.
    """
    word = word_of(name, epoch)
    committed = word.removesuffix(b"/guest")
    likely = [path for folder in _folders(name) for path in _first(folder)]
    # Mostly the commit is done by the time that our word is. What is read after the commit is ours.
    said, *values = store.write_and_read(word, PREPARED, committed, *likely)
    if said == COMMITTED:
        store.keep(dict(zip(likely, values, strict=True)))
    else:
        store.await_value(committed, COMMITTED)
    sockets = []
    for flow, received in _flows(store, name):
        try:
            sockets.append(adopt(flow, received))
        except OSError as error:
            told(f"lost {flow.peer} port {flow.peer_port}: {error.strerror}")
    store.post(word, IMPORTED)
    return sockets


def _folders(name: Name) -> tuple[bytes, bytes]:
    return conduit(name) + b"/tcpv4", conduit(name) + b"/tcpv6"


def _first(folder: bytes) -> tuple[bytes, bytes, bytes]:
    """Return where it says how many connections there are, and all of the first, mostly."""
    return folder, folder + b"/0", folder + b"/0/rx/0"


def _flows(store: Store, name: Name) -> Iterator[tuple[Tcb, bytes]]:
    for folder in _folders(name):
        count = int(store.read(folder)[0] or b"0")
        paths = [b"%b/%d" % (folder, i) for i in range(count)]
        flows = [tcb.decode(line or b"") for line in store.read(*paths)]
        # The first pieces of all together: most have no other.
        firsts = store.read(*(path + b"/rx/0" for path in paths))
        for path, flow, first in zip(paths, flows, firsts, strict=True):
            yield flow, _received(store, path, flow, first or b"")


def _received(store: Store, path: bytes, flow: Tcb, first: bytes) -> bytes:
    """Return all that the client has sent."""
    others = range(1, -(-flow.rx // RX_NODE_BYTES_MAX))
    rest: Sequence[bytes | None] = store.read(*(b"%b/rx/%d" % (path, j) for j in others))
    received = b"".join([first, *(piece or b"" for piece in rest)])
    if len(received) != flow.rx:
        raise WireError(f"{len(received)} bytes where {flow.rx} were acknowledged")
    return received


def parse_word(word: str) -> tuple[Name, Epoch]:
    """Parse `<service>/<epoch>`, as it stands on the kernel's command line. Raises ControlError."""
    name, _, epoch = word.partition("/")
    if not name or not epoch.isdigit():
        raise ControlError(f"{word!r} is no service/epoch")
    return Name(name), Epoch(int(epoch))
