"""Every committed history equals some serial one.

Clients run requests and transactions in any interleaving on the server. Then a model, a plain dict
that knows nothing of transactions, does the same requests one transaction after another: those
that changed something in the order of their ends, the others at their starts. Each reply has to
be the one that the client was given, and the tree the same at the end. What was written down must
make that tree, too.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from jitsu.core.xenstore.access import Actor, render
from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.server import Server
from jitsu.core.xenstore.store import DOM0, Persist
from jitsu.core.xenstore.tree import Node, walk
from jitsu.wire.xenstore import Message, Messages, Op, encode

Path = tuple[bytes, ...]
Perms = list[tuple[int, str]]  # the owner with the rights of the rest, then who is named
ACTORS = (DOM0, DOM0, Actor(1), Actor(2))


class Refused(Exception):
    pass


class Model:
    """The store, as one would explain it."""

    def __init__(self) -> None:
        self.nodes: dict[Path, tuple[bytes, Perms]] = {(): (b"", [(0, "n")])}

    def do(self, actor: Actor, op: Op, payload: bytes) -> tuple[int, bytes]:
        path, _, rest = payload.partition(b"\0")
        names = tuple(path[1:].split(b"/")) if path != b"/" else ()
        try:
            return op, getattr(self, op.name.lower())(actor, names, rest)
        except Refused as refusal:
            return Op.ERROR, str(refusal).encode() + b"\0"

    def may(self, actor: Actor, names: Path, letter: str) -> bool:
        if actor.privileged:
            return True
        while names not in self.nodes:
            names = names[:-1]
        (owner, rest), *named = self.nodes[names][1]
        if owner == actor.domid:
            return True
        granted = dict(named).get(actor.domid, rest)
        return letter in {"n": "", "r": "r", "w": "w", "b": "rw"}[granted]

    def demand(self, actor: Actor, names: Path, letter: str) -> None:
        if not self.may(actor, names, letter):
            raise Refused("EACCES")

    def existing(self, actor: Actor, names: Path, letter: str) -> tuple[bytes, Perms]:
        self.demand(actor, names, letter)
        if names not in self.nodes:
            raise Refused("ENOENT")
        return self.nodes[names]

    def create(self, actor: Actor, names: Path, value: bytes) -> None:
        if names[:-1] not in self.nodes:
            self.create(actor, names[:-1], b"")
        perms = list(self.nodes[names[:-1]][1])
        if not actor.privileged:
            perms[0] = (actor.domid, perms[0][1])
        self.nodes[names] = (value, perms)

    def read(self, actor: Actor, names: Path, _rest: bytes) -> bytes:
        return self.existing(actor, names, "r")[0]

    def directory(self, actor: Actor, names: Path, _rest: bytes) -> bytes:
        self.existing(actor, names, "r")
        children = sorted(path[-1] for path in self.nodes if path and path[:-1] == names)
        return b"".join(child + b"\0" for child in children)

    def get_perms(self, actor: Actor, names: Path, _rest: bytes) -> bytes:
        perms = self.existing(actor, names, "r")[1]
        return b"".join(f"{letter}{domid}\0".encode() for domid, letter in perms)

    def write(self, actor: Actor, names: Path, value: bytes) -> bytes:
        self.demand(actor, names, "w")
        if names in self.nodes:
            self.nodes[names] = (value, self.nodes[names][1])
        else:
            self.create(actor, names, value)
        return b"OK\0"

    def mkdir(self, actor: Actor, names: Path, _rest: bytes) -> bytes:
        self.demand(actor, names, "w")
        if names not in self.nodes:
            self.create(actor, names, b"")
        return b"OK\0"

    def rm(self, actor: Actor, names: Path, _rest: bytes) -> bytes:
        self.demand(actor, names, "w")
        if names not in self.nodes:
            if names[:-1] not in self.nodes:
                raise Refused("ENOENT")
        else:
            for path in [path for path in self.nodes if path[: len(names)] == names]:
                del self.nodes[path]
        return b"OK\0"

    def set_perms(self, actor: Actor, names: Path, rest: bytes) -> bytes:
        given = [(int(entry[1:]), entry[:1].decode()) for entry in rest[:-1].split(b"\0")]
        deepest = names
        while deepest not in self.nodes:
            deepest = deepest[:-1]
        if not actor.privileged and self.nodes[deepest][1][0][0] != actor.domid:
            raise Refused("EACCES")
        if names not in self.nodes:
            raise Refused("ENOENT")
        value, perms = self.nodes[names]
        if not actor.privileged and perms[0][0] != given[0][0]:
            raise Refused("EPERM")
        self.nodes[names] = (value, given)
        return b"OK\0"


@dataclass
class Unit:
    """What is one step of the serial history: a transaction, or a request outside of any."""

    actor: Actor
    begun: int
    done: list[tuple[Op, bytes, tuple[int, bytes]]] = field(default_factory=list)


class History:
    """Drives a server, and notes what has committed, and when."""

    def __init__(self) -> None:
        self.server = Server()
        self.clients = [self.server.connect(actor) for actor in ACTORS]
        self.open: dict[int, tuple[int, Unit]] = {}
        self.committed: list[tuple[float, Unit]] = []
        self.moment = 0
        self.conflicts = 0
        self.merged = 0
        self.written = b""
        # Where guests may do something; beside it is where a toolstack begins with nothing.
        self.direct(0, Op.WRITE, b"/a\0")
        self.direct(0, Op.SET_PERMS, b"/a\0b1\0b2\0")

    def ask(self, who: int, op: Op, payload: bytes, transaction: int = 0) -> tuple[int, bytes]:
        client = self.clients[who]
        request = Message(op, 7, transaction, payload)
        effects = self.server.receive(client, encode(request), now=self.moment * 10.0)
        self.written += b"".join(e.record for e in effects if isinstance(e, Persist))
        self.server.tick(now=self.moment * 10.0)
        (reply,) = Messages().feed(client.take())
        assert reply.request == 7
        assert reply.transaction == transaction
        return reply.op, reply.payload

    def direct(self, who: int, op: Op, payload: bytes) -> None:
        unit = Unit(ACTORS[who], self.moment)
        unit.done.append((op, payload, self.ask(who, op, payload)))
        self.committed.append((self.moment, unit))

    def step(self, who: int, step: Any) -> None:
        self.moment += 1
        match step:
            case "begin" if who not in self.open:
                _, text = self.ask(who, Op.TRANSACTION_START, b"\0")
                self.open[who] = (int(text[:-1]), Unit(ACTORS[who], self.moment))
            case "end" if who in self.open:
                self.end(who)
            case (op, payload) if who in self.open:
                number, unit = self.open[who]
                unit.done.append((op, payload, self.ask(who, op, payload, number)))
            case (op, payload):
                self.direct(who, op, payload)
            case _:
                pass

    def end(self, who: int) -> None:
        number, unit = self.open.pop(who)
        before = self.server.store.root
        transaction = self.clients[who].transactions[number]
        changed = bool(transaction.space.changes)
        moved = before is not transaction.base
        reply = self.ask(who, Op.TRANSACTION_END, b"T\0", number)
        if reply == (Op.ERROR, b"EAGAIN\0"):
            self.conflicts += 1
            assert self.server.store.root is before
            return
        assert reply == (Op.TRANSACTION_END, b"OK\0")
        self.merged += changed and moved
        self.committed.append((self.moment if changed else unit.begun + 0.5, unit))


ALTERING = (Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS)


LETTERS = "nrwb"
NAMES = [b"a", b"b"]


def request(chance: random.Random) -> tuple[Op, bytes]:
    op = chance.choice([*ALTERING, Op.WRITE, Op.READ, Op.DIRECTORY, Op.GET_PERMS])
    path = b"/" + b"/".join(chance.choice(NAMES) for _ in range(chance.randint(1, 4)))
    rest = b""
    if op is Op.WRITE:
        rest = chance.choice([b"", b"1", b"\0\xff"])
    elif op is Op.SET_PERMS:
        owner, others, named = chance.randint(0, 2), chance.choice(LETTERS), chance.choice(LETTERS)
        rest = f"{others}{owner}\0{named}1\0".encode()
    return op, path + b"\0" + rest


def schedule(chance: random.Random) -> Iterator[tuple[int, Any]]:
    for _ in range(chance.randint(5, 80)):
        who = chance.randrange(len(ACTORS))
        if chance.random() < 0.3:
            yield who, chance.choice(["begin", "begin", "end"])
        else:
            yield who, request(chance)


def test_every_history_is_a_serial_one(pytestconfig: pytest.Config) -> None:
    seed = pytestconfig.getoption("--seed")
    conflicts = merged = 0
    for seed_ in range(2000) if seed is None else [seed]:
        history = run(seed_)
        conflicts += history.conflicts
        merged += history.merged
    if seed is None:  # the histories are worth something
        assert conflicts > 500
        assert merged > 1000


def run(seed: int) -> History:
    history = History()
    for who, step in schedule(random.Random(seed)):
        history.step(who, step)
    for who in list(history.open):
        history.moment += 1
        history.end(who)
    model = Model()
    for _, unit in sorted(history.committed, key=lambda pair: pair[0]):
        for op, payload, reply in unit.done:
            assert model.do(unit.actor, op, payload) == reply, (seed, op, payload)
    found = shown(history.server.store.root)
    expected = {
        b"/" + b"/".join(names): (value, b"".join(f"{x}{d}\0".encode() for d, x in perms_))
        for names, (value, perms_) in model.nodes.items()
    }
    assert found == expected, f"--seed {seed}"
    recovered = Recovered()
    recovered.load(history.written)
    assert shown(recovered.root) == expected, f"--seed {seed}: what is written down"
    again = Server(recovered)
    assert again.store.held == history.server.store.held, f"--seed {seed}: what is counted"
    return history


def shown(root: Node) -> dict[bytes, tuple[bytes, bytes]]:
    return {path: (node.value, render(node.perms)) for path, node in walk(root, b"/")}
