"""What a guest of Xen finds in the store, and how what it says there is heard."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

import structlog

from jitsu.core.xenstore.errors import StoreError
from jitsu.core.xenstore.server import Server
from jitsu.host.inside import inside
from jitsu.host.xen.guests import XenGuests, addresses
from jitsu.host.xen.store import HostStore, Write
from jitsu.host.xenstored import Xenstored
from jitsu.model import Epoch, Handoff, NetworkConfig, ReadyOnKey
from jitsu.store import Client
from jitsu.testing.network import SimulatedLink, SimulatedNetwork
from jitsu.testing.world import SUBNET, service
from jitsu.wire.xenstore import Op, join

NETWORK = NetworkConfig(
    *("jitsu0", SUBNET, IPv6Network("fd77::/64"), SUBNET[1], SUBNET[-2]),
    gateway6=IPv6Address("fd77::1"),
)
WWW = replace(service(0, address6=IPv6Address("fd77::10")), handoff=Handoff.IMPORT)
LINK = SimulatedLink(SimulatedNetwork(Random(1), (WWW,)), WWW)
WORD = b"/conduit/%b/handoff/3/guest" % WWW.name.encode()
Story = Callable[[XenGuests, Client], Coroutine[Any, Any, None]]


class Heard:
    """Keeps what a guest says."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[bytes] = asyncio.Queue()
        self.readies: asyncio.Queue[None] = asyncio.Queue()

    def wrote(self, word: bytes) -> None:
        self.words.put_nowait(word)

    def ready(self) -> None:
        self.readies.put_nowait(None)


def tell(story: Story) -> None:
    async def main() -> None:
        xenstored = Xenstored(Server(), None, structlog.get_logger())
        host = HostStore(partial(inside, xenstored))
        await host.open()
        async with asyncio.timeout(20), inside(xenstored) as client:
            await story(XenGuests(host), client)
        await host.close()

    asyncio.run(main())


def test_what_it_is_told_of_its_addresses() -> None:
    assert list(addresses(WWW, NETWORK, 7)) == [
        Write(
            b"/local/domain/7/ip",
            f"{WWW.address}::{SUBNET[1]}:{SUBNET.netmask}:{WWW.name}::off".encode(),
        ),
        Write(b"/local/domain/7/ip6", b"fd77::10/64,fd77::1"),
    ]


def test_a_boot_has_nodes_of_its_own_and_the_guest_may_write_one() -> None:
    async def story(guests: XenGuests, client: Client) -> None:
        top = b"/conduit/" + WWW.name.encode()
        await client.write(top + b"/tcpv4/0", b"of an earlier guest")
        await guests.begin(WWW, Epoch(3), 7)
        assert await client.read(b"/local/domain/7/handoff") == f"{WWW.name}/3".encode()
        assert await client.read(top) == b"7"
        assert await client.read(top + b"/epoch") == b"3"
        assert await client.read(top + b"/handoff/3") == b"proxying"
        assert await client.perms(top + b"/handoff/3") == [b"n0", b"r7"]
        assert await client.perms(WORD) == [b"n0", b"b7"]
        assert await client.directory(top) == [b"epoch", b"handoff"]

    tell(story)


def test_its_words_are_heard_once_each_and_no_more_when_it_has_gone() -> None:
    async def story(guests: XenGuests, client: Client) -> None:
        heard = Heard()
        await guests.begin(WWW, Epoch(3), 7)
        await client.write(WORD, b"prepared")  # before anybody listens
        presence = guests.enter(WWW, Epoch(3), LINK, heard)
        assert await heard.words.get() == b"prepared"
        await client.write(WORD, b"prepared")
        await client.write(WORD, b"imported")
        assert await heard.words.get() == b"imported"
        presence.leave()
        await client.write(WORD, b"prepared")
        for _ in range(9):
            await client.read(WORD)
            await asyncio.sleep(0)
        assert heard.words.empty()

    tell(story)


def test_who_writes_without_end_is_read_by_one_task() -> None:
    async def story(guests: XenGuests, client: Client) -> None:
        last = b"%d" % 2000

        class Counting(Heard):
            """Counts tasks when it hears something."""

            def wrote(self, word: bytes) -> None:
                tasks.append(len(asyncio.all_tasks()))
                super().wrote(word)

        tasks: list[int] = []
        heard = Counting()
        await guests.begin(WWW, Epoch(3), 7)
        presence = guests.enter(WWW, Epoch(3), LINK, heard)
        before = len(asyncio.all_tasks())
        await client.pipeline([(Op.WRITE, join(WORD) + b"%d" % i) for i in range(2001)])
        while await heard.words.get() != last:
            pass
        assert max(tasks) == before
        presence.leave()

    tell(story)


def test_it_is_ready_when_a_node_of_its_home_is_there() -> None:
    async def story(guests: XenGuests, client: Client) -> None:
        heard = Heard()
        keyed = replace(WWW, ready=ReadyOnKey("data/ready"))
        await guests.begin(keyed, Epoch(3), 7)
        guests.enter(keyed, Epoch(3), LINK, heard)
        await client.write(b"/local/domain/7/data/other", b"1")
        await client.write(b"/local/domain/7/data/ready", b"")
        await heard.readies.get()
        await client.write(b"/local/domain/7/data/ready", b"1")
        for _ in range(9):
            await client.read(WORD)
            await asyncio.sleep(0)
        assert heard.readies.empty()

    tell(story)


def test_its_connections_are_there_with_the_commit_and_gone_when_it_has_them() -> None:
    async def story(guests: XenGuests, client: Client) -> None:
        await guests.begin(WWW, Epoch(3), 7)
        await guests.commit(WWW.name, Epoch(3), ())
        top = b"/conduit/" + WWW.name.encode()
        assert await client.read(top + b"/handoff/3") == b"committed"
        assert await client.read(top + b"/tcpv4") == b"0"
        await guests.clear(WWW.name)
        try:
            await client.read(top + b"/tcpv4")
        except StoreError as error:
            assert error.name == "ENOENT"  # noqa: PT017
        else:
            raise AssertionError

    tell(story)
