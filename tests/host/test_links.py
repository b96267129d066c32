"""Links that come and go, in a namespace without a name."""

import asyncio
import os
import socket
import subprocess

from host import kernel
from jitsu.host import netlink
from jitsu.host.links import Links
from jitsu.host.rtnetlink import Requests
from jitsu.host.tap import open_tap

pytestmark = kernel.marks()


def test_who_waits_for_a_link_is_told_when_it_comes_and_when_it_goes() -> None:
    async def story() -> None:
        links = Links()
        waiting = asyncio.create_task(links.appeared("tcfg-one"))
        await asyncio.sleep(0)
        fd = open_tap("tcfg-one")
        index = await waiting
        assert index == socket.if_nametoindex("tcfg-one")
        assert await links.appeared("tcfg-one") == index, "who asks late is told at once"
        gone = asyncio.create_task(links.vanished(index))
        await asyncio.sleep(0)
        os.close(fd)
        await gone
        await links.vanished(index)
        links.close()

    with kernel.host():
        asyncio.run(asyncio.wait_for(story(), kernel.PATIENCE))


def test_a_port_that_leaves_its_bridge_or_has_another_name_is_still_there() -> None:
    async def story() -> None:
        links = Links()
        fd = open_tap("tcfg-one")
        index = await links.appeared("tcfg-one")
        requests = Requests()
        requests.send(netlink.join(index, socket.if_nametoindex(kernel.BRIDGE), "tcfg-port"))
        gone = asyncio.create_task(links.vanished(index))
        await asyncio.sleep(0)
        subprocess.run(["ip", "link", "set", "tcfg-port", "nomaster"], check=True)  # noqa: ASYNC221
        other = open_tap("tcfg-two")
        await links.appeared("tcfg-two")  # so that all that was before has been told
        assert not gone.done()
        os.close(fd)
        await gone
        os.close(other)
        requests.close()
        links.close()

    with kernel.lab():
        asyncio.run(asyncio.wait_for(story(), kernel.PATIENCE))
