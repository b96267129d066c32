"""What one client may use up, so that the others find enough left.

The limits of guests are those of Xen's own daemons where they have one. Clients that may do
everything, those on dom0's socket, have limits too, far above what a toolstack needs: they bound
what a client that has gone wrong can do to the daemon's memory.
"""

from typing import NamedTuple


class Quota(NamedTuple):
    """Limits of one client; each with the errno it gets beyond."""

    nodes: int
    """Nodes that a domain owns: ENOSPC."""
    value: int
    """Bytes of a node's value: ENOSPC."""
    watches: int
    """Watches of a connection: E2BIG."""
    transactions: int
    """Transactions open at once: ENOSPC."""
    requests: int
    """Requests within one transaction, and nodes that it changes, with parents that it makes on
    the way: ENOSPC."""
    waiting: int
    """Requests that wait while the domain is held up for conflicts: the connection is closed."""
    queued: int
    """Bytes of replies and events that the client has not taken: the connection is closed."""


GUEST = Quota(
    nodes=1000,
    value=2048,
    watches=128,
    transactions=10,
    requests=1024,
    waiting=256,
    queued=1 << 20,
)
PRIVILEGED = Quota(
    nodes=1 << 30,  # bounded by the machine's memory: the toolstack is trusted that far
    value=4096,
    watches=1 << 16,
    transactions=1024,
    requests=1 << 16,
    waiting=256,
    queued=16 << 20,
)
