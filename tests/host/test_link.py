"""The network of the kernel: who gets the frames for a service, and that nothing is left of it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from pyroute2 import IPRoute

from host import kernel
from host.kernel import BRIDGE, CLIENT, MAIL, NETWORK, SUBNET, WWW, Lab
from jitsu.core.readiness import OWN_MAC
from jitsu.core.segment import Ends, encode
from jitsu.core.splice import Numbers
from jitsu.errors import HostError
from jitsu.host import splice
from jitsu.host.link import KernelLink, KernelNetwork, kernel_network
from jitsu.host.network import GuestLink
from jitsu.host.splice import Flow
from jitsu.model import Handoff, Service, mac_of
from jitsu.testing.peer import Station, frame, framed6, segment
from jitsu.wire import arp, ethernet, ipv4, ndp, tcp, udp
from jitsu.wire.ethernet import BROADCAST, EtherType
from jitsu.wire.tcp import Flags, Segment

pytestmark = kernel.marks()
PATIENCE = 5.0
_VIRTIO_HEADER = bytes(10)


def request(service: Service, text: bytes) -> bytes:
    """Return a datagram of the client for a service."""
    content = udp.encode(udp.Datagram(1000, 2000, text), CLIENT[1], service.address)
    to = (service.mac, service.address)
    return frame(CLIENT, to, ipv4.Protocol.UDP, content)


def reply(service: Service, text: bytes) -> bytes:
    """Return a datagram of a service for the client."""
    content = udp.encode(udp.Datagram(2000, 1000, text), service.address, CLIENT[1])
    return frame((service.mac, service.address), CLIENT, ipv4.Protocol.UDP, content)


def announcement(service: Service) -> bytes:
    """Return what a guest sends first."""
    packet = arp.encode(arp.announcement(service.mac, service.address))
    return ethernet.encode(ethernet.Frame(BROADCAST, service.mac, EtherType.ARP, packet))


@dataclass(slots=True)
class Inbox:
    """Frames that have come to one place."""

    frames: list[bytes] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, data: bytes) -> None:
        self.frames.append(data)
        self.came.set()

    async def has(self, wanted: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while wanted not in self.frames:
                self.came.clear()
                await self.came.wait()


@dataclass(slots=True)
class Guest:
    """A guest that is nothing but the descriptor that a hypervisor would inherit."""

    service: Service
    link: GuestLink
    fd: int
    got: Inbox = field(default_factory=Inbox)
    seen: Inbox = field(default_factory=Inbox)
    """What the daemon sees of what the guest sends."""

    def send(self, data: bytes) -> None:
        os.write(self.fd, _VIRTIO_HEADER + data)

    def readable(self) -> None:
        self.got.take(os.read(self.fd, 65536)[len(_VIRTIO_HEADER) :])


@dataclass(slots=True)
class Place:
    """A network, its client, and what reaches Synjitsu."""

    lab: Lab
    network: KernelNetwork
    synjitsu: Inbox
    client: Inbox
    losses: list[HostError] = field(default_factory=list)
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def lose(self, error: HostError) -> None:
        self.losses.append(error)
        self.lost.set()

    @asynccontextmanager
    async def guest(self, service: Service) -> AsyncIterator[Guest]:
        """Have a guest whose link has joined the bridge."""
        link = await self.network.open(service)
        guest = Guest(service, link, os.dup(link.fd))
        loop = asyncio.get_running_loop()
        loop.add_reader(guest.fd, guest.readable)
        link.release()
        assert link.fd == -1
        await link.join(guest.seen.take)
        try:
            yield guest
        finally:
            loop.remove_reader(guest.fd)
            os.close(guest.fd)
            await link.close()

    def asks(self, service: Service, text: bytes) -> bytes:
        """Have the client send a datagram to a service, and return it."""
        data = request(service, text)
        self.lab.client.send(data)
        return data


Story = Callable[[Place], Coroutine[Any, Any, None]]


def play(story: Story) -> None:
    """Play `story` on a real bridge; nothing of it is left."""

    async def main(lab: Lab, network: KernelNetwork) -> None:
        place = Place(lab, network, Inbox(), Inbox())
        loop = asyncio.get_running_loop()
        loop.add_reader(lab.client.socket, lambda: place.client.take(lab.client.socket.recv(65536)))
        network.listen(place.synjitsu.take, place.lose)
        await story(place)
        if not place.losses:
            await network.own(WWW, None)  # and what was begun before is done
        network.deafen()
        loop.remove_reader(lab.client.socket)

    with kernel.lab() as lab:
        before = kernel.interfaces()
        with kernel_network(lab.bridge, NETWORK.probe, (WWW, MAIL), pytest.fail) as network:
            asyncio.run(main(lab, network))
        assert kernel.interfaces() == before
        tables = [item for item in kernel.nft("list", "tables") if "table" in item]
        assert tables == []


def test_synjitsu_gets_what_is_for_sleepers() -> None:
    async def story(place: Place) -> None:
        for service in (WWW, MAIL):
            await place.synjitsu.has(place.asks(service, b"wake up"))
        place.network.send(reply(WWW, b"of Synjitsu"))
        await place.client.has(reply(WWW, b"of Synjitsu"))

    play(story)


def test_owning_moves_frames() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            await place.synjitsu.has(place.asks(WWW, b"asleep"))
            await place.network.own(WWW, guest.link)
            await guest.got.has(place.asks(WWW, b"awake"))
            await place.network.own(WWW, None)
            await place.synjitsu.has(place.asks(WWW, b"fenced"))
            await place.network.own(WWW, guest.link)
            await guest.got.has(place.asks(WWW, b"again"))
            assert request(WWW, b"awake") not in place.synjitsu.frames
            assert request(WWW, b"again") not in place.synjitsu.frames
            assert request(WWW, b"fenced") not in guest.got.frames
            # The others are as they were.
            await place.synjitsu.has(place.asks(MAIL, b"asleep"))

    play(story)


def test_a_guests_own_frames_do_not_take_the_entry() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            for data in (announcement(WWW), reply(WWW, b"too early")):
                guest.send(data)
                await place.client.has(data)
                await guest.seen.has(data)
            await place.synjitsu.has(place.asks(WWW, b"not yet"))
            assert request(WWW, b"not yet") not in guest.got.frames

    play(story)


def test_what_synjitsu_sends_again_does_not_move_its_client() -> None:
    async def story(place: Place) -> None:
        held = place.asks(WWW, b"held")
        await place.synjitsu.has(held)
        async with place.guest(WWW) as guest:
            await place.network.own(WWW, guest.link)
            place.network.send(held)
            await guest.got.has(held)
            guest.send(reply(WWW, b"here"))
            await place.client.has(reply(WWW, b"here"))
            assert reply(WWW, b"here") not in place.synjitsu.frames

    play(story)


def test_a_link_reaches_its_guest_alone() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as www, place.guest(MAIL) as mail:
            probe = request(WWW, b"a probe")
            www.link.send(probe)
            await www.got.has(probe)
            mail.link.send(request(MAIL, b"later"))
            await mail.got.has(request(MAIL, b"later"))
            for inbox in (mail.got, place.synjitsu, place.client, www.seen, mail.seen):
                assert probe not in inbox.frames

    play(story)


def test_a_broadcast_reaches_synjitsu_and_guests() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as www:
            who = arp.encode(arp.announcement(*CLIENT))
            asked = ethernet.encode(ethernet.Frame(BROADCAST, CLIENT[0], EtherType.ARP, who))
            place.lab.client.send(asked)
            await place.synjitsu.has(asked)
            await www.got.has(asked)

    play(story)


def test_a_guest_that_dies_leaves_its_frames_to_synjitsu() -> None:
    """At once: before anybody has noticed. The kernel deletes the entry with the tap."""

    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            await place.network.own(WWW, guest.link)
            await guest.got.has(place.asks(WWW, b"awake"))
        await place.synjitsu.has(place.asks(WWW, b"has it died?"))

    play(story)


def test_synjitsu_does_not_get_what_is_for_nobody() -> None:
    async def story(place: Place) -> None:
        nobody = (mac_of("nobody"), SUBNET[200])
        flooded = frame(CLIENT, nobody, ipv4.Protocol.UDP, b"")
        place.lab.client.send(flooded)
        await place.synjitsu.has(place.asks(WWW, b"next"))
        assert flooded not in place.synjitsu.frames

    play(story)


def test_the_daemon_is_deaf_to_a_guest_that_is_awake() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            guest.send(announcement(WWW))
            await guest.seen.has(announcement(WWW))
            guest.link.deafen()
            guest.link.deafen()
            guest.send(reply(WWW, b"unheard"))
            await place.client.has(reply(WWW, b"unheard"))
            guest.link.send(request(WWW, b"to nobody"))
            assert guest.seen.frames == [announcement(WWW)]

    play(story)


def test_the_interface_goes_with_the_guest() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW):
            assert f"{BRIDGE}-g0" in kernel.interfaces()
        assert f"{BRIDGE}-g0" not in kernel.interfaces()
        # And the next guest gets one as if nothing had been.
        async with place.guest(WWW) as guest:
            await place.network.own(WWW, guest.link)
            await guest.got.has(place.asks(WWW, b"hello"))

    play(story)


def test_a_guest_that_dies_before_it_joins() -> None:
    async def story(place: Place) -> None:
        link = await place.network.open(WWW)
        link.release()
        with pytest.raises(HostError):
            await link.join(lambda _: None)
        # Whoever thinks it serves, because it was to after a delay, learns it now.
        with pytest.raises(HostError, match="has not joined the bridge"):
            await place.network.own(WWW, link)
        await link.close()
        await place.synjitsu.has(place.asks(WWW, b"still here"))

    play(story)


def test_a_link_that_nobody_takes() -> None:
    async def story(place: Place) -> None:
        link = await place.network.open(WWW)
        assert link.fd >= 0
        await link.close()
        assert link.fd == -1
        await link.close()

    play(story)


def test_a_guest_that_has_gone_owns_nothing() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            pass
        with pytest.raises(HostError, match="rtnetlink: "):
            await place.network.own(WWW, guest.link)
        await place.network.own(WWW, None)
        await place.synjitsu.has(place.asks(WWW, b"still here"))

    play(story)


def test_traffic() -> None:
    async def story(place: Place) -> None:
        idle = await place.network.traffic([WWW, MAIL])
        assert [(t.last, t.flows) for t in idle.values()] == [(0.0, 0), (0.0, 0)]
        async with place.guest(WWW) as guest:
            await place.network.own(WWW, guest.link)
            began = time.monotonic()
            await guest.got.has(place.asks(WWW, b"hello"))
            traffic = await place.network.traffic([WWW, MAIL])
            assert began - 1.0 <= traffic["www"].last <= time.monotonic()
            assert traffic["mail"].last == 0.0

    play(story)


def test_traffic_over_ipv6() -> None:
    client6 = (CLIENT[0], IPv6Address("fd77::99"))
    assert WWW.address6 is not None
    www6 = (WWW.mac, WWW.address6)
    ends: list[tuple[Station, Station]] = [(www6, client6), ((WWW.mac, WWW.address), CLIENT)]
    accepted = tcp.Segment(80, 4000, 1, 1, tcp.Flags.SYN | tcp.Flags.ACK, 1000)

    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            await place.network.own(WWW, guest.link)
            began = time.monotonic()
            for source, to in ends:
                data = segment(source, to, accepted)
                guest.send(data)
                await place.client.has(data)
            traffic = await place.network.traffic([WWW, MAIL])
            assert began - 1.0 <= traffic["www"].last <= time.monotonic()
            assert traffic["www"].flows == 2
            assert (traffic["mail"].last, traffic["mail"].flows) == (0.0, 0)
        assert (await place.network.traffic([WWW]))["www"].flows == 0

    play(story)


def test_who_has_an_ipv6_address_is_asked_of_synjitsu_and_guests() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as www:
            assert WWW.address6 is not None
            asked = ndp.question(WWW.address6, IPv6Address("fd77::99"), CLIENT[0])
            data = framed6(CLIENT[0], WWW.mac, asked)
            place.lab.client.send(data)
            await place.synjitsu.has(data)
            await www.got.has(data)

    play(story)


def test_the_connections_of_a_guest_end_with_it() -> None:
    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            answer = tcp.Segment(80, 4000, 1, 1, tcp.Flags.SYN | tcp.Flags.ACK, 1000)
            data = segment((WWW.mac, WWW.address), CLIENT, answer)
            guest.send(data)
            await place.client.has(data)
            assert (await place.network.traffic([WWW]))["www"].flows == 1
        assert (await place.network.traffic([WWW]))["www"].flows == 0

    play(story)


def test_a_guest_does_not_reach_one_that_sleeps() -> None:
    """Nor wakes it; but what it sends to Synjitsu itself arrives."""

    async def story(place: Place) -> None:
        async with place.guest(WWW) as guest:
            me, nowhere = (WWW.mac, WWW.address), SUBNET[254]
            content = udp.encode(udp.Datagram(1, 2, b""), WWW.address, nowhere)
            to_mail = frame(me, (MAIL.mac, nowhere), ipv4.Protocol.UDP, content)
            to_synjitsu = frame(me, (OWN_MAC, nowhere), ipv4.Protocol.UDP, content)
            guest.send(to_mail)
            guest.send(to_synjitsu)
            await place.synjitsu.has(to_synjitsu)
            assert to_mail not in place.synjitsu.frames

    play(story)


def test_a_guest_that_does_not_read_costs_frames_not_time() -> None:
    async def story(place: Place) -> None:
        link = await place.network.open(WWW)
        fd = os.dup(link.fd)
        link.release()
        await link.join(lambda _: None)
        for i in range(2000):
            link.send(request(WWW, b"%d" % i))
        os.close(fd)
        await link.close()

    play(story)


def remove(name: str) -> None:
    with IPRoute() as ipr:
        ipr.link("del", index=ipr.link_lookup(ifname=name)[0])


def test_a_port_that_somebody_removes_is_noticed() -> None:
    async def story(place: Place) -> None:
        await place.synjitsu.has(place.asks(WWW, b"hello"))
        await asyncio.to_thread(remove, f"{BRIDGE}-syn")
        async with asyncio.timeout(PATIENCE):
            await place.lost.wait()
        assert [str(loss).partition(":")[0] for loss in place.losses] == [f"{BRIDGE}-syn"]

    play(story)


def test_closing_at_once() -> None:
    """What was begun a moment before is finished, or given back."""

    async def story(place: Place) -> None:
        link = await place.network.open(WWW)
        await link.close()
        place.network.prepare()

    for _ in range(5):
        play(story)


def test_a_link_forgets_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "LINGER", 0.0)

    async def story(place: Place) -> None:
        async with place.guest(replace(WWW, handoff=Handoff.SPLICE)) as guest:
            assert isinstance(guest.link, KernelLink)
            assert guest.link.splicer is not None
            over, live = (Ends(WWW.mac, WWW.address, 80, *CLIENT, port) for port in (4000, 4001))
            for ends, flags in ((over, Flags.RST), (live, Flags.ACK)):
                guest.link.shift(ends, Numbers(5000, 7, 0))
                guest.send(encode(ends, Segment(80, ends.peer_port, 8, 1, flags, 1000)))
                told = Segment(80, ends.peer_port, 5001, 1, flags, 1000)
                await place.client.has(encode(ends, told))
            await guest.link.sweep()
            assert set(guest.link.splicer.flows()) == {Flow.of(live)}

    play(story)
