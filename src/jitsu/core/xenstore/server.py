"""The XenStore server: what a client has sent in, effects out (they are in `store`).

Requests that read or change the tree are in `calls`, those about domains in `domains`; here are
those about a connection itself, its watches and its transactions. One request at a time runs to
its end, so that outside of transactions each is atomic.
"""

from collections.abc import Callable, Iterator, Mapping

from jitsu.core.xenstore import access, calls, domains, journal
from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore.access import Actor
from jitsu.core.xenstore.calls import OK, Reply, only
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.control import control
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.journal import Cursor, Introduced, Recovered
from jitsu.core.xenstore.path import SPECIAL
from jitsu.core.xenstore.quota import PRIVILEGED
from jitsu.core.xenstore.space import Space
from jitsu.core.xenstore.store import DOM0, Effect, Persist, Store
from jitsu.core.xenstore.transaction import Conflict, Transaction
from jitsu.core.xenstore.watch import Watch
from jitsu.errors import WireError
from jitsu.wire.xenstore import Message, Op, strings

_WATCH = int(Op.WATCH)
_TRANSACTION_MAX = (1 << 32) - 1


class Server:
    """Serves one store to all its clients."""

    def __init__(self, recovered: Recovered | None = None) -> None:
        self.store = Store(recovered or Recovered())

    # What may happen.

    def connect(self, actor: Actor = DOM0) -> Connection:
        """Begin to serve a client."""
        return self.store.connect(actor)

    def connect_ring(self, actor: Actor) -> Connection:
        """Begin to serve a ring."""
        return self.store.connect(actor, lasting=True)

    def resume_ring(self, actor: Actor, now: float) -> Connection:
        """Go on with a ring after a daemon that was killed.

        What was to be told meanwhile is not known: each watch that it has had is told of itself.
        Transactions that it has open, which are lost, go on all the same, and then are to be done
        again; new ones are numbered by the time, a thousand a second, to be told from those.
        """
        store = self.store
        connection = self.connect_ring(actor)
        connection.serial = connection.former = int(now * 1000) % _TRANSACTION_MAX
        for path, token in store.kept.get(actor.domid, ()):
            absolute = path if path[:1] == b"@" else paths.locate(path, connection.home)[0]
            connection.event(self._add(connection, absolute, path, token), absolute)
            store.to_send(connection)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a client that is gone."""
        self.store.disconnect(connection)

    def receive(self, connection: Connection, data: bytes, now: float) -> list[Effect]:
        """Take what a client has sent."""
        held_up = self.store.credit.held_up
        for message in self._messages(connection, data):
            if held_up or connection.closed:
                self._request(connection, message, now)
            else:  # as almost always
                self._serve(connection, message, now)
        return self.store.take()

    def receive_apart(
        self, connection: Connection, data: bytes, now: float
    ) -> Iterator[list[Effect]]:
        """Take what a client has sent; yield the effects of each request before the next."""
        for message in self._messages(connection, data):
            self._request(connection, message, now)
            yield self.store.take()
        yield self.store.take()

    def _messages(self, connection: Connection, data: bytes) -> list[Message]:
        try:
            return connection.messages.feed(data)
        except WireError as error:
            self.store.close(connection, str(error))
            return []

    def _request(self, connection: Connection, message: Message, now: float) -> None:
        if connection.closed:
            return
        if connection.actor.domid in self.store.credit.held_up:
            _wait(self.store, connection, message)
        else:
            self._serve(connection, message, now)

    def edit(self, work: Callable[[Space], None]) -> list[Effect]:
        """Let `work` change the tree as dom0, at once and in one commit: for this very process.

        Raises what `work` does, and then nothing has changed.
        """
        store = self.store
        space = Space(store.root, DOM0, paths.home_of(0), PRIVILEGED, store.held)
        work(space)
        if space.changes:
            store.commit(DOM0, space)
        return store.take()

    def introduce(self, domain: Introduced) -> list[Effect]:
        """Note a domain that the toolstack of this very process has made.

        Raises StoreError when it has a ring, which cannot be served.
        """
        if domain.port and not self.store.attach(domain):
            raise StoreError("EINVAL")
        domains.admit(self.store, domain)
        return self.store.take()

    def release(self, domid: int) -> list[Effect]:
        """Forget a domain of this very process."""
        domains.dismiss(self.store, domid)
        return self.store.take()

    def census(self, present: Mapping[int, bool]) -> list[Effect]:
        """Compare with the domains that Xen has, and whether each has shut down."""
        domains.census(self.store, present)
        return self.store.take()

    def note(self, cursor: Cursor) -> bytes:
        """Return the record of how far a ring has come."""
        self.store.cursors[cursor.domid] = cursor
        return journal.move(cursor)

    def reset(self, connection: Connection) -> list[Effect]:
        """End what a client has open, which begins anew."""
        self.store.reset(connection)
        connection.take_each()
        return self.store.take()

    def deadline(self) -> float | None:
        """Return when a domain that is held up is served again."""
        held_up = self.store.credit.held_up
        return min(held_up.values()) if held_up else None

    def tick(self, now: float) -> list[Effect]:
        """Serve who has been held up long enough."""
        held_up = self.store.credit.held_up
        for domid in [domid for domid, at in held_up.items() if at <= now]:
            del held_up[domid]
            for connection in self.store.of(domid):
                while connection.waiting and domid not in held_up:
                    self._serve(connection, connection.waiting.popleft(), now)
        return self.store.take()

    def snapshot(self) -> Iterator[bytes]:
        """Yield the records of the store as it is when the first is taken; the rest at leisure."""
        store = self.store
        store.snapshots += 1
        try:
            yield from journal.snapshot(
                store.root,
                dict(store.special),
                list(store.domains.values()),
                {domid: dict(kept) for domid, kept in store.kept.items() if kept},
                list(store.cursors.values()),
            )
        finally:
            store.snapshots -= 1

    # One request.

    def _serve(self, connection: Connection, message: Message, now: float) -> None:
        op, _, number, payload = message
        try:
            opened = self._open(connection, message) if number else None
            if op in calls.CALLS and payload[:1] != b"@":
                if opened is not None:
                    op, payload = opened.perform(op, payload)
                else:
                    op, payload = self._alone(connection, op, payload)
            elif op in _OF_CONNECTION:
                payload = _OF_CONNECTION[op](self, connection, message, now)
            elif op in _OF_DOMAINS:
                payload = _OF_DOMAINS[op](self.store, connection, payload)
            elif op in calls.CALLS:  # of no tree, and no transaction's: done at once
                payload = self._special(connection, message)
            else:
                op, payload = calls.ERROR, b"ENOSYS\0"
        except StoreError as error:
            op, payload = calls.ERROR, error.reply
        except WireError:
            op, payload = calls.ERROR, calls.EINVAL
        if connection.closed:  # it has released its own domain
            return
        connection.reply(message, op, payload)
        if op == _WATCH:
            # The first event says that the watch is there; it follows the reply.
            connection.event(*self._first_event(connection, message.payload))
        self.store.to_send(connection)

    def _alone(self, connection: Connection, op: int, payload: bytes) -> Reply:
        """Serve a request of the tree that is in no transaction."""
        space = self.store.space_of_one(connection)
        reply = calls.perform(space, op, payload)
        if space.changes:
            self.store.commit(connection.actor, space)
        return reply

    def _special(self, connection: Connection, message: Message) -> bytes:
        """Serve GET_PERMS and SET_PERMS of a special path: who may watch it."""
        path, _, rest = message.payload.partition(b"\0")
        if path not in SPECIAL or message.op not in (Op.GET_PERMS, Op.SET_PERMS):
            raise StoreError("EINVAL")
        special = self.store.special
        if not access.rights(special[path], connection.actor) & access.OWNER:
            raise StoreError("EACCES")
        if message.op == Op.GET_PERMS:
            return access.render(special[path])
        perms = access.changed(special[path], access.parse(rest), connection.actor)
        self.store.emit(Persist(journal.commit([self.store.permit_special(path, perms)])))
        return OK

    # Watches.

    def _watched(self, connection: Connection, path: bytes) -> bytes:
        if path[:1] != b"@":
            return paths.locate(path, connection.home)[0]
        if path not in SPECIAL:
            raise StoreError("EINVAL")
        if not access.rights(self.store.special[path], connection.actor) & access.READ:
            raise StoreError("EACCES")
        return path

    def _watch(self, connection: Connection, message: Message, _now: float) -> bytes:
        path, token = _path_and_token(message)
        absolute = self._watched(connection, path)
        if (path, token) in connection.watches:
            raise StoreError("EEXIST")
        if len(connection.watches) >= connection.quota.watches:
            raise StoreError("E2BIG")
        self._add(connection, absolute, path, token)
        if connection.lasting:
            domid = connection.actor.domid
            self.store.kept.setdefault(domid, {})[path, token] = None
            self.store.emit(Persist(journal.watch(domid, path, token)))
        return OK

    def _add(self, connection: Connection, absolute: bytes, path: bytes, token: bytes) -> Watch:
        watch = Watch(connection.number, absolute, token, cut=len(absolute) - len(path))
        connection.watches[path, token] = watch
        self.store.watches.add(watch)
        return watch

    def _first_event(self, connection: Connection, payload: bytes) -> tuple[Watch, bytes]:
        path, token = strings(payload)
        watch = connection.watches[path, token]
        return watch, watch.path

    def _unwatch(self, connection: Connection, message: Message, _now: float) -> bytes:
        path, token = _path_and_token(message)
        watch = connection.watches.pop((path, token), None)
        if watch is None:
            raise StoreError("ENOENT")
        self.store.watches.remove(watch)
        if connection.lasting:
            domid = connection.actor.domid
            del self.store.kept[domid][path, token]
            self.store.emit(Persist(journal.unwatch(domid, path, token)))
        return OK

    def _reset_watches(self, connection: Connection, _message: Message, _now: float) -> bytes:
        self.store.reset(connection)
        return OK

    # Transactions.

    def _start(self, connection: Connection, message: Message, _now: float) -> bytes:
        if message.transaction:
            raise StoreError("EBUSY")
        serial = connection.serial % _TRANSACTION_MAX + 1
        while serial in connection.transactions:
            serial = serial % _TRANSACTION_MAX + 1
        self._begin(connection, serial)
        connection.serial = serial
        return b"%d\0" % serial

    def _begin(self, connection: Connection, serial: int, *, doomed: bool = False) -> Transaction:
        if len(connection.transactions) >= connection.quota.transactions:
            raise StoreError("ENOSPC")
        space = self.store.space(connection)
        begun = Transaction(space, self.store.credit.commits, doomed=doomed)
        connection.transactions[serial] = begun
        self.store.open += 1
        return begun

    def _open(self, connection: Connection, message: Message) -> Transaction:
        serial = message.transaction
        transaction = connection.transactions.get(serial)
        if transaction is None:
            if not 0 < serial <= connection.former:
                raise StoreError("ENOENT")
            transaction = self._begin(connection, serial, doomed=True)
        return transaction

    def _end(self, connection: Connection, message: Message, now: float) -> bytes:
        transaction = self._open(connection, message)
        wish = only(message.payload)
        if wish not in (b"T", b"F"):
            raise StoreError("EINVAL")
        del connection.transactions[message.transaction]
        try:
            if wish == b"T":
                self._merge(connection, transaction, now)
        finally:
            self.store.ended(1)
        return OK

    def _merge(self, connection: Connection, transaction: Transaction, now: float) -> None:
        if transaction.doomed:
            raise StoreError("EAGAIN")
        merged = transaction.merge(self.store.root)
        if not isinstance(merged, Conflict):
            if merged.changes:
                self.store.commit(connection.actor, merged)
            return
        self.store.conflicts += 1
        victim = connection.actor.domid
        self.store.credit.blame(transaction.begun, victim, merged.path, now)
        raise StoreError("EAGAIN")


def _wait(store: Store, connection: Connection, message: Message) -> None:
    """Keep a request of a domain that is held up."""
    if len(connection.waiting) >= connection.quota.waiting:
        store.close(connection, "too many requests while held up for conflicts")
    else:
        connection.waiting.append(message)


def _path_and_token(message: Message) -> tuple[bytes, bytes]:
    fields = strings(message.payload)
    if len(fields) != 2:
        raise StoreError("EINVAL")
    return fields[0], fields[1]


_OF_CONNECTION: dict[int, Callable[[Server, Connection, Message, float], bytes]] = {
    int(Op.WATCH): Server._watch,
    int(Op.UNWATCH): Server._unwatch,
    int(Op.RESET_WATCHES): Server._reset_watches,
    int(Op.TRANSACTION_START): Server._start,
    int(Op.TRANSACTION_END): Server._end,
}
_OF_DOMAINS: dict[int, Callable[[Store, Connection, bytes], bytes]] = {
    int(Op.INTRODUCE): domains.introduce,
    int(Op.RELEASE): domains.release,
    int(Op.RESUME): domains.resume,
    int(Op.SET_TARGET): domains.set_target,
    int(Op.GET_DOMAIN_PATH): domains.domain_path,
    int(Op.IS_DOMAIN_INTRODUCED): domains.is_introduced,
    int(Op.CONTROL): control,
}
