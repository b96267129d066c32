"""Devices are plugged into a domain: the store is told, and what dom0 makes then is put in place.

Each device is one transaction. netback makes an interface when it has seen both ends of one, and
connects the guest to it when `hotplug-status` says that it is where it belongs: so the guest may
run before, and no frame is lost.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable
from dataclasses import dataclass, field

from jitsu.core.handoff import conduit
from jitsu.core.xenstore.path import home_of
from jitsu.errors import HostError
from jitsu.host import netlink
from jitsu.host.links import Links
from jitsu.host.loops import Loop, open_loop
from jitsu.host.network import FrameHandler, GuestLink, Network
from jitsu.host.rtnetlink import Requests
from jitsu.host.xen import devices
from jitsu.host.xen.domain import Kind, Plan
from jitsu.host.xen.guests import addresses
from jitsu.host.xen.store import HostStore, Write
from jitsu.model import Disk, Name, NetworkConfig, Service, mac_of

_PATIENCE = 10.0
"""Seconds for dom0's drivers to make a device, or remove it: milliseconds on a host at rest."""
_GUEST_PATIENCE = 30.0
"""Seconds for a guest that was suspended to be back at its interface."""


@dataclass(slots=True)
class Plugged:
    """What a domain has."""

    domid: int
    service: Service
    link: GuestLink | None = None
    """That of its first interface."""
    interfaces: list[int] = field(default_factory=list)
    """The indices of all of them."""
    loops: list[Loop] = field(default_factory=list)


class Plugs:
    """Plugs devices, and pulls them out again. Everything raises HostError."""

    def __init__(self, store: HostStore, links: Links, network: NetworkConfig) -> None:
        self._store = store
        self._links = links
        self._network = network

    async def publish(self, plugged: Plugged, plan: Plan) -> None:
        """Tell the store of the domain and its first interface."""
        domid, service = plugged.domid, plugged.service
        linux = devices.linux(domid, plan.mib) if plan.kind is Kind.PV else ()
        await self._store.commit(
            [
                *devices.home(domid, service.name),
                *devices.vif(domid, 0, service.mac),
                *addresses(service, self._network, domid),
                *linux,
            ]
        )

    async def adopt(self, plugged: Plugged, network: Network) -> None:
        """Take the first interface, that netback makes."""
        name = await self._interface(plugged, 0)
        plugged.link = await network.open(plugged.service, name)

    async def connect(self, plugged: Plugged, on_frame: FrameHandler) -> None:
        """Put it on the bridge, and have netback connect the guest."""
        assert plugged.link is not None, "it was adopted"
        await plugged.link.join(on_frame)
        await self._tell_connected(plugged, 0)

    async def connected(self, plugged: Plugged) -> None:
        """Wait until the guest is connected to its first interface."""
        end = devices.backend(b"vif", plugged.domid, 0)
        try:
            async with asyncio.timeout(_GUEST_PATIENCE):
                await self._store.until(end + b"/state", devices.CONNECTED)
        except TimeoutError as error:
            what = "the guest has not connected to its interface"
            raise HostError(f"{what} within {_GUEST_PATIENCE:.0f} s") from error

    async def further(self, plugged: Plugged) -> None:
        """Plug what else the service has: interfaces on other bridges, and disks."""
        # One after the other, for two transactions that make nodes in one folder are in conflict.
        for number, bridge in enumerate(plugged.service.nics, 1):
            await self._nic(plugged, number, bridge)
        for number, disk in enumerate(plugged.service.disks):
            await self._disk(plugged, number, disk)

    async def pull(self, plugged: Plugged, *, began: bool) -> None:
        """Remove all of it, when the domain is no more; `began`: it was told of a hand-over."""
        paths = nodes_of(plugged.domid, plugged.service.name if began else "")
        try:
            if plugged.link is not None:
                await plugged.link.close()
            await self._store.remove(paths)
            async with asyncio.timeout(_PATIENCE):
                for index in plugged.interfaces:
                    await self._links.vanished(index)
        except TimeoutError as error:
            raise HostError("its interface does not go") from error
        finally:
            for loop in plugged.loops:
                await asyncio.to_thread(loop.close)
        await self._store.remove(paths)  # a driver may have had a last word
        await self._store.release(plugged.domid)

    async def _nic(self, plugged: Plugged, number: int, bridge: str) -> None:
        mac = mac_of(f"{plugged.service.name}, interface {number}")
        await self._store.commit(devices.vif(plugged.domid, number, mac))
        name = await self._interface(plugged, number)
        await asyncio.to_thread(_join, name, bridge)
        await self._tell_connected(plugged, number)

    async def _disk(self, plugged: Plugged, number: int, disk: Disk) -> None:
        loop = await asyncio.to_thread(open_loop, disk.path, read_only=disk.read_only)
        plugged.loops.append(loop)
        at = os.major(loop.device), os.minor(loop.device)
        device = devices.BlockDevice(loop.path, *at, disk.read_only)
        await self._store.commit(devices.vbd(plugged.domid, number, device))
        end = devices.backend(b"vbd", plugged.domid, devices.disk_number(number))
        made = self._store.until(end + b"/state", devices.INIT_WAIT, devices.CONNECTED)
        await self._made(made, end, f"blkback has not taken {disk.path}", "xen-blkback")

    async def _interface(self, plugged: Plugged, number: int) -> str:
        """Wait for an interface; return its name."""
        name = f"vif{plugged.domid}.{number}"
        end = devices.backend(b"vif", plugged.domid, number)
        appeared = self._links.appeared(name)
        index = await self._made(appeared, end, f"netback has made no {name}", "xen-netback")
        plugged.interfaces.append(index)
        return name

    async def _made(self, made: Awaitable[int], end: bytes, what: str, module: str) -> int:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await made
        except TimeoutError as error:
            told = await self._store.read(devices.error_of(end))
            why = told.decode(errors="replace") if told else f"is {module} loaded?"
            raise HostError(f"{what} within {_PATIENCE:.0f} s: {why}") from error

    async def _tell_connected(self, plugged: Plugged, number: int) -> None:
        end = devices.backend(b"vif", plugged.domid, number)
        await self._store.write([Write(end + b"/hotplug-status", b"connected")])


def nodes_of(domid: int, name: str) -> list[bytes]:
    """Return what the store has of a domain, and of the service `name` that is in it, if any."""
    paths = [home_of(domid)]
    for kind in (b"vif", b"vbd"):
        end = devices.backend(kind, domid)
        paths += [end, devices.error_of(end).removesuffix(b"/error")]
    return [*paths, conduit(Name(name))] if name else paths


def _join(name: str, bridge: str) -> None:
    """Put an interface on a bridge of the operator's; blocks."""
    try:
        index, master = socket.if_nametoindex(name), socket.if_nametoindex(bridge)
    except OSError as error:
        what = f"bridge {bridge} is missing; make it, or take it out of nics"
        raise HostError(what) from error
    requests = Requests()
    try:
        requests.send(netlink.join(index, master, name))
    except HostError as error:
        raise HostError(f"{name} cannot be put on {bridge}: {error}") from error
    finally:
        requests.close()
