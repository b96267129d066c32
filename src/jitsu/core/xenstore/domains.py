"""The requests about domains: who is there, whose ring is served, who acts for whom."""

from dataclasses import replace

from jitsu.core.xenstore import journal
from jitsu.core.xenstore import path as paths
from jitsu.core.xenstore.access import DOMID_FIRST_RESERVED
from jitsu.core.xenstore.calls import OK, only
from jitsu.core.xenstore.connection import Connection
from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.journal import Introduced
from jitsu.core.xenstore.path import INTRODUCE_DOMAIN, RELEASE_DOMAIN
from jitsu.core.xenstore.store import Persist, Released, Store
from jitsu.wire.xenstore import strings


def introduce(store: Store, connection: Connection, payload: bytes) -> bytes:
    """INTRODUCE <domid>|<frame>|<event channel>|: serve a new domain's ring."""
    demand_privilege(connection)
    fields = strings(payload)
    if len(fields) < 3:
        raise StoreError("EINVAL")
    domid, frame, port = domid_of(fields[0]), _number(fields[1]), _number(fields[2])
    if domid == 0 or not 0 < port < 1 << 32 or frame >= 1 << 64:
        raise StoreError("EINVAL")
    known = store.domains.get(domid)
    if known is not None and known.port != port:
        raise StoreError("EINVAL")  # a ring has one event channel
    if known is None:
        admit(store, Introduced(domid, frame, port))
    else:
        store.tell_special(INTRODUCE_DOMAIN)
    return OK


def admit(store: Store, domain: Introduced) -> None:
    """Note a new domain, and tell who watches for them."""
    store.domains[domain.domid] = domain
    store.emit(Persist(journal.introduction(domain)), domain)
    store.tell_special(INTRODUCE_DOMAIN)


def release(store: Store, connection: Connection, payload: bytes) -> bytes:
    """RELEASE <domid>|: the domain is gone."""
    demand_privilege(connection)
    dismiss(store, _introduced(store, payload))
    return OK


def dismiss(store: Store, domid: int) -> None:
    """Forget a domain: its connections, its nodes, its rights."""
    store.domains.pop(domid, None)
    store.credit.release(domid)
    for client in store.of(domid):
        store.close(client, "its domain is released")
    for other in [other for other in store.domains.values() if other.target == domid]:
        _aim(store, other, None)
    changes = store.erase(domid)
    written = [*changes, *store.erase_special(domid)]
    store.emit(Persist(journal.release(domid, written)), Released(domid))
    store.tell(changes)
    store.tell_special(RELEASE_DOMAIN)


def resume(store: Store, connection: Connection, payload: bytes) -> bytes:
    """RESUME <domid>|: a domain that was shut down, to be saved, goes on."""
    demand_privilege(connection)
    _introduced(store, payload)
    return OK


def set_target(store: Store, connection: Connection, payload: bytes) -> bytes:
    """SET_TARGET <domid>|<target>|: let a domain do what its target may."""
    demand_privilege(connection)
    fields = strings(payload)
    if len(fields) != 2:
        raise StoreError("EINVAL")
    domid, target = map(domid_of, fields)
    if domid not in store.domains or target not in store.domains:
        raise StoreError("ENOENT")
    _aim(store, store.domains[domid], target)
    return OK


def _aim(store: Store, known: Introduced, target: int | None) -> None:
    domain = store.domains[known.domid] = replace(known, target=target)
    for client in store.of(domain.domid):
        client.actor = client.actor._replace(target=target)
    store.emit(Persist(journal.introduction(domain)))


def domain_path(_store: Store, _connection: Connection, payload: bytes) -> bytes:
    """GET_DOMAIN_PATH <domid>| -> <path>|; of any domain, be it there or not."""
    return paths.home_of(domid_of(only(payload))) + b"\0"


def is_introduced(store: Store, _connection: Connection, payload: bytes) -> bytes:
    """IS_DOMAIN_INTRODUCED <domid>| -> T| or F|."""
    domid = domid_of(only(payload))
    return b"T\0" if domid == 0 or domid in store.domains else b"F\0"


def demand_privilege(connection: Connection) -> None:
    """Refuse guests. Raises StoreError(EACCES)."""
    if not connection.actor.privileged:
        raise StoreError("EACCES")


def domid_of(text: bytes) -> int:
    """Read a domain's number. Raises StoreError(EINVAL)."""
    domid = _number(text)
    if domid >= DOMID_FIRST_RESERVED:
        raise StoreError("EINVAL")
    return domid


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise StoreError("EINVAL")
    return int(text)


def _introduced(store: Store, payload: bytes) -> int:
    domid = domid_of(only(payload))
    if domid == 0:
        raise StoreError("EINVAL")
    if domid not in store.domains:
        raise StoreError("ENOENT")
    return domid
