"""Replies that go out together, and those that do not wait."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import uvloop

from jitsu.core.xenstore.journal import Recovered
from jitsu.core.xenstore.server import Server
from jitsu.host.log import logger
from jitsu.host.replies import TOGETHER, Replies
from jitsu.host.xenstored import Xenstored, listen
from jitsu.wire.xenstore import Message, Op, encode


class Reader:
    """One who is replied to; notes in `told` when."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.told = told
        self.messages = 0

    def flush(self) -> None:
        self.told.append(f"{self.name}{self.messages}")
        self.messages = 0


def in_a_turn(work: Callable[[Replies, Callable[[str, int], None], list[str]], None]) -> list[str]:
    """Do `work` in one turn of a loop; return what has been sent when the next is over."""

    async def turn() -> list[str]:
        replies, told, readers = Replies(), list[str](), dict[str, Reader]()

        def reply(name: str, messages: int = 1) -> None:
            reader = readers.setdefault(name, Reader(name, told))
            reader.messages += messages
            replies.send(reader, reader.messages)

        work(replies, reply, told)
        await asyncio.sleep(0)
        return told

    return uvloop.run(turn())


def test_replies_of_a_turn_wait_for_its_end() -> None:
    def work(_replies: Replies, reply: Callable[[str, int], None], told: list[str]) -> None:
        for name in "abc":
            reply(name, 1)
        told.append("|")

    assert in_a_turn(work) == ["|", "a1", "b1", "c1"]


def test_who_is_alone_does_not_wait() -> None:
    def work(replies: Replies, reply: Callable[[str, int], None], told: list[str]) -> None:
        reply("a", 1)
        replies.flush()  # the first turn's end
        reply("a", 1)
        told.append("|")
        reply("b", 1)
        reply("b", 0)  # nobody overtakes

    assert in_a_turn(work)[:4] == ["a1", "a1", "|", "b1"]


def test_no_more_wait_than_are_soon_served() -> None:
    def work(_replies: Replies, reply: Callable[[str, int], None], told: list[str]) -> None:
        for number in range(TOGETHER + 1):
            reply(f"{number}:", 1)
        told.append("|")

    told = in_a_turn(work)
    assert told.index("|") == TOGETHER
    assert told[-1] == f"{TOGETHER}:1"


def test_who_asks_for_much_keeps_nobody_waiting() -> None:
    def work(_replies: Replies, reply: Callable[[str, int], None], told: list[str]) -> None:
        reply("a", 1)
        reply("b", 150)
        told.append("|")

    assert in_a_turn(work) == ["a1", "b150", "|"]


def test_who_has_gone_within_the_turn_is_not_replied_to(tmp_path: Path) -> None:
    """Requests of many, some of whom are gone before the turn is over, at one go."""

    async def serve() -> None:
        store = Xenstored(Server(Recovered()), None, logger())
        async with listen(store, tmp_path / "socket"):
            clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            for client in clients:
                client.connect(str(tmp_path / "socket"))
            await asyncio.sleep(0)
            for number, client in enumerate(clients):
                client.sendall(encode(Message(Op.WRITE, 1, 0, b"/a/%d\0v" % number)))
                if number % 2:
                    client.close()
                else:
                    client.shutdown(socket.SHUT_WR)  # it says no more, but listens
            loop = asyncio.get_running_loop()
            for client in clients[::2]:
                client.setblocking(False)
                assert (await loop.sock_recv(client, 64))[-3:] == b"OK\0"
                client.close()
            assert store.has(b"/a/19")

    uvloop.run(serve())
