"""CONTROL: what an operator asks the store itself, with `xenstore-control`.

help         these commands
check        walk the tree and see that what is counted is there
quota        the limits of guests
stats        what there is: nodes, clients, watches, transactions, conflicts
"""

from collections.abc import Callable

from jitsu.core.xenstore import tree
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.domains import demand_privilege
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.quota import GUEST
from jitsu.core.xenstore.store import Store
from jitsu.wire.xenstore import strings


def control(store: Store, connection: Connection, payload: bytes) -> bytes:
    """CONTROL <command>|[<argument>|]* -> text. Raises StoreError(EACCES), EINVAL."""
    demand_privilege(connection)
    command, *arguments = strings(payload)
    if command not in _COMMANDS or arguments:
        raise StoreError("EINVAL")
    return _COMMANDS[command](store).encode() + b"\0"


def _help(_store: Store) -> str:
    return "".join(f"{name.decode()}\n" for name in _COMMANDS)


def _check(store: Store) -> str:
    owned: dict[int, int] = {}
    for _, node in tree.walk(store.root, b"/"):
        if node.perms.owner:
            owned[node.perms.owner] = owned.get(node.perms.owner, 0) + 1
    return "OK\n" if owned == store.held else f"counted {store.held}, found {owned}\n"


def _quota(_store: Store) -> str:
    return "".join(f"{name}: {value}\n" for name, value in GUEST._asdict().items())


def _stats(store: Store) -> str:
    figures = {
        "nodes": sum(1 for _ in tree.walk(store.root, b"/")),
        "domains": len(store.domains),
        "connections": len(store.connections),
        "watches": sum(len(c.watches) for c in store.connections.values()),
        "transactions": store.open,
        "commits": store.credit.commits,
        "conflicts": store.conflicts,
    }
    return "".join(f"{name}: {value}\n" for name, value in figures.items())


_COMMANDS: dict[bytes, Callable[[Store], str]] = {
    b"help": _help,
    b"check": _check,
    b"quota": _quota,
    b"stats": _stats,
}
