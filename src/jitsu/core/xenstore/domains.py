"""The requests about domains: who is there, whose ring is served, who acts for whom."""

from collections.abc import Mapping
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
    domain = Introduced(domid, frame, port, known.target if known is not None else None)
    if not store.attach(domain):
        raise StoreError("EINVAL")
    admit(store, domain)
    return OK


def admit(store: Store, domain: Introduced) -> None:
    """Note a domain that is new, or begins anew, and tell who watches for them."""
    store.domains[domain.domid] = domain
    store.emit(Persist(journal.introduction(domain)))
    store.tell_special(INTRODUCE_DOMAIN)


def release(store: Store, connection: Connection, payload: bytes) -> bytes:
    """RELEASE <domid>|: the domain is gone."""
    demand_privilege(connection)
    dismiss(store, _introduced(store, payload))
    return OK


def dismiss(store: Store, domid: int) -> None:
    """Forget a domain: its connections, its nodes, its rights."""
    store.domains.pop(domid, None)
    store.halted.discard(domid)
    store.credit.release(domid)
    store.kept.pop(domid, None)
    store.cursors.pop(domid, None)
    for client in store.of(domid):
        if client.lasting:
            store.disconnect(client)  # its ring goes with `Released`
        else:
            store.close(client, "its domain is released")
    aimed = [other for other in store.domains.values() if other.target == domid]
    records = [_aim(store, other, None) for other in aimed]
    changes = store.erase(domid)
    written = [*changes, *store.erase_special(domid)]
    records.append(journal.release(domid, written))
    store.emit(Persist(b"".join(records)), Released(domid))  # all of it or nothing
    store.tell(changes)
    store.tell_special(RELEASE_DOMAIN)


def resume(store: Store, connection: Connection, payload: bytes) -> bytes:
    """RESUME <domid>|: a domain that was shut down, to be saved, goes on."""
    demand_privilege(connection)
    store.halted.discard(_introduced(store, payload))
    return OK


def census(store: Store, present: Mapping[int, bool]) -> None:
    """Dismiss domains that are gone, and tell of those that have shut down since.

    Domains without an event channel are none of Xen's.
    """
    for domain in [domain for domain in store.domains.values() if domain.port]:
        if domain.domid not in present:
            dismiss(store, domain.domid)
        elif present[domain.domid] and domain.domid not in store.halted:
            store.halted.add(domain.domid)
            store.tell_special(RELEASE_DOMAIN)


def set_target(store: Store, connection: Connection, payload: bytes) -> bytes:
    """SET_TARGET <domid>|<target>|: let a domain do what its target may."""
    demand_privilege(connection)
    fields = strings(payload)
    if len(fields) != 2:
        raise StoreError("EINVAL")
    domid, target = map(domid_of, fields)
    if domid not in store.domains or target not in store.domains:
        raise StoreError("ENOENT")
    store.emit(Persist(_aim(store, store.domains[domid], target)))
    return OK


def _aim(store: Store, known: Introduced, target: int | None) -> bytes:
    """Give a domain a target, or none; return the record of it."""
    domain = store.domains[known.domid] = replace(known, target=target)
    for client in store.of(domain.domid):
        client.actor = client.actor._replace(target=target)
    return journal.introduction(domain)


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
