"""What the server keeps: the tree, its clients, and the effects that are still to be performed.

Persist(record)      append to the log; nobody may hear of a commit that is not written down
Send(connection)     send what `connection.take()` returns
Close(connection)    drop this client: it has broken the protocol, or does not read
Released(domid)      a domain's ring is to be served no more

Whether a new domain's ring can be served is asked beforehand (`Store.attach`), for the reply to who
introduces it says so.
"""

from collections.abc import Callable
from typing import NamedTuple

from jitsu.core.xenstore import calls, journal, tree
from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore.access import READ, Actor, Perms, concerns, forget, rights
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.fairness import Credit
from jitsu.core.xenstore.journal import Cursor, Introduced, Kept, Recovered
from jitsu.core.xenstore.path import SPECIAL
from jitsu.core.xenstore.quota import PRIVILEGED
from jitsu.core.xenstore.space import Change, Space
from jitsu.core.xenstore.tree import Node
from jitsu.core.xenstore.watch import Watches

DOM0 = Actor(0, privileged=True)


class Persist(NamedTuple):
    """Append `record` to the log."""

    record: bytes


class Send(NamedTuple):
    """The connection has something to send."""

    connection: Connection


class Close(NamedTuple):
    """Drop the connection; the server has forgotten it."""

    connection: Connection
    reason: str


class Released(NamedTuple):
    """A domain is gone."""

    domid: int


Effect = Persist | Send | Close | Released


def _no_rings(_domain: Introduced) -> bool:
    return True


class Store:
    """The tree and all its clients."""

    attach: Callable[[Introduced], bool] = staticmethod(_no_rings)
    """Begins to serve the ring of a domain, in place of an earlier one; tells whether it can."""

    def __init__(self, before: Recovered) -> None:
        self.root = before.root
        self.special: dict[bytes, Perms] = dict.fromkeys(SPECIAL, tree.DOM0_ONLY) | before.special
        self.domains = before.domains
        self.kept: dict[int, Kept] = before.watches
        """Watches of each ring that is served, or was by the daemon before."""
        self.cursors: dict[int, Cursor] = before.cursors
        self.halted: set[int] = set()
        """Domains of which we have told that they have shut down."""
        self.held: dict[int, int] = {}
        """Nodes that each domain, but dom0, owns."""
        for _, node in tree.walk(self.root, b"/"):
            self._count(node.perms.owner, 1)
        self.connections: dict[int, Connection] = {}
        self.watches = Watches()
        self.credit = Credit()
        self.open = 0
        """Transactions that are open."""
        self.snapshots = 0
        """Snapshots that are being taken."""
        self.conflicts = 0
        """Transactions that have ended with EAGAIN."""
        self._serial = 0
        self._effects: list[Effect] = []
        self._unsent: dict[int, Connection] = {}

    # Clients.

    def connect(self, actor: Actor, *, lasting: bool = False) -> Connection:
        """Begin to serve a client, whose connection, if it is `lasting`, outlives the daemon."""
        self._serial += 1
        if actor.domid in self.domains:
            actor = actor._replace(target=self.domains[actor.domid].target)
        connection = self.connections[self._serial] = Connection(self._serial, actor, lasting)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a client, its watches and its open transactions."""
        connection.closed = True
        connection.waiting.clear()
        self.reset(connection)
        self.connections.pop(connection.number, None)
        self._unsent.pop(connection.number, None)

    def close(self, connection: Connection, reason: str) -> None:
        """Drop a client that is not to be served any more."""
        if not connection.closed:
            self.disconnect(connection)
            self._effects.append(Close(connection, reason))

    def reset(self, connection: Connection) -> None:
        """End a client's watches and transactions."""
        for watch in connection.watches.values():
            self.watches.remove(watch)
        connection.watches.clear()
        if connection.lasting and self.kept.pop(connection.actor.domid, {}):
            self.emit(Persist(journal.unwatch_all(connection.actor.domid)))
        self.ended(len(connection.transactions))
        connection.transactions.clear()

    def ended(self, count: int) -> None:
        """Note that `count` transactions are open no more."""
        self.open -= count
        if not self.open:
            self.credit.forget()

    def of(self, domid: int) -> list[Connection]:
        """Return the connections of a domain."""
        return [c for c in self.connections.values() if c.actor.domid == domid]

    def to_send(self, connection: Connection) -> None:
        """Note that a connection has something to send."""
        self._unsent[connection.number] = connection

    def emit(self, *effects: Effect) -> None:
        """Add effects."""
        self._effects += effects

    def take(self) -> list[Effect]:
        """Return all effects, once: first what is to be kept, then what is to be told."""
        unsent, self._unsent = self._unsent, {}
        for connection in unsent.values():
            if connection.pending + connection.queued > connection.quota.queued:
                self.close(connection, "it does not read what it is sent")
            else:
                self._effects.append(Send(connection))
        effects, self._effects = self._effects, []
        return effects

    # The tree.

    def space(self, connection: Connection) -> Space:
        """Return a space in which requests of a client may work."""
        return Space(self.root, connection.actor, connection.home, connection.quota, self.held)

    def space_of_one(self, connection: Connection) -> Space:
        """Return a space for a single request: one that is refused changes nothing on its way.

        So it may change the tree in place, if no transaction and no snapshot has this root.
        """
        return Space(
            self.root,
            connection.actor,
            connection.home,
            connection.quota,
            self.held,
            alone=not self.open and not self.snapshots,
        )

    def commit(self, actor: Actor, space: Space) -> None:
        """Make a space's root the store's; have it written down, and tell who watches."""
        self.root = space.root
        if space.owned:
            self._own(space.owned)
        credit, changes = self.credit, space.changes
        credit.commits += 1
        if self.open and not actor.privileged:
            credit.committed(actor.domid, changes)
        self._effects.append(Persist(journal.commit(changes)))
        if self.watches.by_path:
            self.tell(changes)

    def tell(self, changes: list[Change]) -> None:
        """Send events of changes to those who watch and may know."""
        for watch, path, before, after in self.watches.hear(changes):
            connection = self.connections[watch.owner]
            if calls.visible(self.root, path, connection.actor, before, after):
                connection.event(watch, path)
                self.to_send(connection)

    def tell_special(self, path: bytes) -> None:
        """Send the event of a special path to those who may still know."""
        for watch in self.watches.at(path):
            connection = self.connections[watch.owner]
            if rights(self.special[path], connection.actor) & READ:
                connection.event(watch, path)
                self.to_send(connection)

    def erase(self, domid: int) -> list[Change]:
        """Remove what a domain owns, and its rights to what others own.

        Its number may be another's soon, who is not to inherit anything (XSA-322).
        """
        space = Space(self.root, DOM0, b"/", PRIVILEGED, self.held)
        for names in tree.concerning(self.root, domid):
            now, path = tree.find(space.root, names), paths.joined(names)
            if now is None:
                continue  # it has gone with its parent
            if now.perms.owner == domid and names:
                space.remove(path, names)
            else:
                space.replace(path, names, now, now._replace(perms=forget(now.perms, domid)))
        self.root = space.root
        self._own(space.owned)
        return space.changes

    def erase_special(self, domid: int) -> list[Change]:
        """Remove a domain's rights to special paths; return what is to be written down."""
        changes = []
        for path, perms in self.special.items():
            if concerns(perms, domid):
                changes.append(self.permit_special(path, forget(perms, domid)))
        return changes

    def permit_special(self, path: bytes, perms: Perms) -> Change:
        """Set the permissions of a special path; return what is to be written down."""
        self.special[path] = perms
        return Change(path, None, Node(b"", perms, {}), (), 0)

    def _own(self, more: dict[int, int]) -> None:
        for domid, count in more.items():
            self._count(domid, count)

    def _count(self, domid: int, count: int) -> None:
        if domid and count:
            total = self.held.get(domid, 0) + count
            if total:
                self.held[domid] = total
            else:
                del self.held[domid]
