"""The ways to make a domain of Xen that `jitsu bench boot` compares.

All begin with a guest that is not there, and end with the same event: its first frame, an
announcement of its address, comes to its interface in dom0. The kernel says when that was. netback
lets no frame through before the interface is said to be on its bridge.
"""

import asyncio
import os
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from jitsu import store
from jitsu.backends.xen import XenBackend, XenInstance
from jitsu.config import load
from jitsu.core.xenstore.path import home_of
from jitsu.errors import HostError
from jitsu.host.bridge import bridge
from jitsu.host.link import KernelNetwork, kernel_network
from jitsu.host.log import logger
from jitsu.host.network import Network
from jitsu.host.xen import domain
from jitsu.host.xen.domain import Domain, Kind, Plan, Rings
from jitsu.host.xen.guests import cmdline
from jitsu.host.xen.images import Images
from jitsu.host.xen.libxc import Xen
from jitsu.host.xen.store import DOM0_SOCKET, Write
from jitsu.model import Config, Epoch, Mac, Service, StopMode, mac_of

PATIENCE = 20.0
"""Seconds for a guest to be ready."""
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
BRIDGE, XL_BRIDGE = "jitsubnch", "jitsubnch-xl"
"""Ours is kept as `jitsu serve` keeps its own, by nftables; xl's is bare."""
_CONFIG = """
[directory]
listen = ["198.51.100.1:53"]
[network]
bridge = "{bridge}"
subnet = "198.51.100.0/24"
[host]
state = "{folder}/state"
run = "{folder}/run"
"""
_SERVICE = """
[[service]]
name = "bench-{mib}"
image = "hello.elf"
backend = "xen"
memory = "{mib}MiB"
handoff = "none"
"""
_XL = """
name = "bench-xl"
type = "pvh"
kernel = "{kernel}"
extra = "{extra}"
memory = {mib}
vcpus = 1
vif = ["mac={mac},bridge={bridge}{script}"]
"""
_MINIMAL = """#!/bin/sh
[ "$1" = online ] || exit 0
ip link set dev "$vif" up master {bridge}
xenstore-write "$XENBUS_PATH/hotplug-status" connected
"""
"""What a script must do at least, for the one bridge that it knows."""


class Announcements:
    """The first frames of guests, on whatever interface."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._awaited: dict[bytes, asyncio.Future[float]] = {}
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def of(self, mac: Mac) -> "asyncio.Future[float]":
        """Return what is done when one comes from `mac`: the Unix time of it."""
        self._readable()  # what is there yet is of a guest before
        awaited = self._awaited[mac] = asyncio.get_running_loop().create_future()
        return awaited

    def _readable(self) -> None:
        while True:
            try:
                frame, ancillary, _, origin = self._socket.recvmsg(65536, 64)
            except BlockingIOError:
                return
            if origin[2] != socket.PACKET_OUTGOING and (
                awaited := self._awaited.pop(frame[6:12], None)
            ):
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
                awaited.set_result(seconds + nanoseconds / 1e9)


@dataclass(slots=True)
class Stages:
    """A `Watch`: how far a boot had come when."""

    at: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.time)

    def stage(self, name: str) -> None:
        """Note it, in milliseconds."""
        self.at[name] = (time.time() - self.begun) * 1e3

    @property
    def on_frame(self) -> Callable[[bytes], None]:
        """Return what hears the guest's frames: nobody."""
        return lambda _: None


class Toolstack(XenBackend):
    """Ours, and what it does otherwise on the lower rungs of the ladder.

    With `console` the store is told of the domain's, so that xenconsoled serves it.
    """

    console_wanted = False

    async def boot_serially(
        self, service: Service, epoch: Epoch, network: Network, watch: Stages
    ) -> XenInstance:
        """Make a domain, then plug its interface, then let it run."""
        image, instance = await self._create(service, epoch)
        instance.epoch = epoch
        plugged = instance.plugged

        async def run() -> None:
            rings = await self._build(instance, image, watch)
            await self._plugs.publish(plugged, instance.plan)
            await self._guests.begin(service, epoch, plugged.domid)
            await self._introduce(instance, rings)
            await self._plugs.adopt(plugged, network)
            await self._plugs.connect(plugged, watch.on_frame)
            watch.stage("connected")
            domain.unpause(self._xen, plugged.domid)
            watch.stage("unpaused")

        await self._settle(instance, run())
        return instance

    async def finish(
        self, service: Service, epoch: Epoch, network: Network, watch: Stages
    ) -> XenInstance:
        """Make a domain that lacks nothing but being let run."""
        instance = (await self.prepare(service, network)).instance
        instance.epoch = epoch

        async def rest() -> None:
            await self._guests.begin(service, epoch, instance.domain.domid)
            await self._plugs.connect(instance.plugged, watch.on_frame)

        await self._settle(instance, rest())
        return instance

    async def vanished(self, domid: int) -> None:
        """Wait until a domain that was destroyed is no more. Raises HostError."""
        await self._vanished(domid)

    async def _introduce(self, instance: XenInstance, rings: Rings) -> None:
        if self.console_wanted:
            await self._store.write(_console(instance.domain, rings))
        await super()._introduce(instance, rings)

    def _listen(self, instance: XenInstance) -> None:
        if not self.console_wanted:
            super()._listen(instance)


def _console(made: Domain, rings: Rings) -> Iterator[Write]:
    """Yield what has xenconsoled serve a domain's console, which ours serves by itself."""
    top = home_of(made.domid) + b"/console"
    yield Write(top + b"/type", b"xenconsoled")
    yield Write(top + b"/output", b"pty")
    yield Write(top + b"/limit", b"1048576")
    yield Write(top + b"/ring-ref", b"%d" % rings.console)
    yield Write(top + b"/port", b"%d" % made.console_port)


@dataclass(slots=True)
class Xl:
    """The yardstick: it is run as anybody would run it."""

    program: str
    folder: Path
    kernel: str
    announced: Announcements

    async def boot(self, mib: int, *, minimal: bool = False) -> float:
        """Make a domain; return the milliseconds till its announcement, and remove it."""
        mac = mac_of("bench-xl")
        config = self._config(mib, mac, minimal=minimal)
        announced = self.announced.of(mac)
        begun = time.time()
        creating = self._run("create", "-q", str(config))
        try:
            ready = await within(announced, f"xl's guest of {mib} MiB")
        finally:
            await _ended(creating, self.folder / "said")
            await _ended(self._run("destroy", "bench-xl"), self.folder / "said")
        return (ready - begun) * 1e3

    def _config(self, mib: int, mac: Mac, *, minimal: bool) -> Path:
        config = self.folder / f"{mib}-{minimal}.cfg"
        if not config.exists():
            script = self.folder / "minimal-script"
            script.write_text(_MINIMAL.format(bridge=XL_BRIDGE))
            script.chmod(0o755)
            config.write_text(
                _XL.format(
                    kernel=self.kernel,
                    extra="ip=198.51.100.200::198.51.100.1:255.255.255.0::: store",
                    mib=mib,
                    mac=mac.hex(":"),
                    bridge=XL_BRIDGE,
                    script=f",script={script}" if minimal else "",
                )
            )
        return config

    def _run(self, *words: str) -> int:
        """Start xl; return its process's number."""
        said, flags = str(self.folder / "said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [(os.POSIX_SPAWN_OPEN, fd, said, flags, 0o600) for fd in (1, 2)]
        return os.posix_spawn(self.program, ["xl", *words], os.environ, file_actions=actions)


@dataclass(slots=True)
class World:
    """A host with all that takes part."""

    config: Config
    xen: Xen
    network: KernelNetwork
    announced: Announcements
    xl: Xl
    ours: Toolstack
    consoled: Toolstack
    images: Images = field(default_factory=Images)
    epoch: int = 0

    def service(self, mib: int) -> Service:
        """Return that whose guest has so much memory."""
        return next(s for s in self.config.services if s.memory == mib << 20)

    def next_epoch(self) -> Epoch:
        """Return the number of one more boot."""
        self.epoch += 1
        return Epoch(self.epoch)


@contextmanager
def host(folder: Path, sizes: tuple[int, ...]) -> Iterator[tuple[Config, KernelNetwork]]:
    """Have two bridges, for xl and for us, and services of so many MiB. Raises HostError.

    No event loop runs yet.
    """
    Xen().close()  # the first to say that this is no dom0
    path = folder / "bench.toml"
    path.write_text(
        _CONFIG.format(bridge=BRIDGE, folder=folder)
        + "".join(_SERVICE.format(mib=mib) for mib in sizes)
    )
    config = load(path)
    with bridge(config.network) as up, _bare_bridge():
        probe = config.network.probe
        with kernel_network(up, probe, config.services, logger().warning) as network:
            yield config, network


@asynccontextmanager
async def world(folder: Path, config: Config, network: KernelNetwork) -> AsyncIterator[World]:
    """Have xl and our toolstack ready. Raises HostError."""
    program = shutil.which("xl")
    if program is None:
        raise HostError("xl is not installed; it is what we are compared with")
    async with AsyncExitStack() as stack:
        xen = Xen()
        stack.callback(xen.close)
        toolstacks = []
        for console in (False, True):
            # Each with a run folder of its own: they know their domains by that.
            own = replace(config.host, run=f"{config.host.run}/{console}")
            toolstack = Toolstack(xen, replace(config, host=own), logger())
            toolstack.console_wanted = console
            await toolstack.open(partial(store.connect, DOM0_SOCKET))
            stack.push_async_callback(toolstack.close)
            toolstacks.append(toolstack)
        announced = Announcements()
        stack.callback(announced.close)
        xl = Xl(program, folder, config.services[0].image, announced)
        yield World(config, xen, network, announced, xl, toolstacks[0], toolstacks[1])


@contextmanager
def _bare_bridge() -> Iterator[None]:
    done = _ip("link", "add", XL_BRIDGE, "type", "bridge", "forward_delay", "0")
    if done != 0:
        raise HostError(f"bridge {XL_BRIDGE} cannot be made; is it there already?")
    try:
        _ip("link", "set", XL_BRIDGE, "up")
        yield
    finally:
        _ip("link", "delete", XL_BRIDGE)


def _ip(*words: str) -> int:
    return os.spawnlp(os.P_WAIT, "ip", "ip", *words)


async def boot(
    world: World, toolstack: Toolstack, mib: int, verb: Callable[..., Any]
) -> tuple[float, dict[str, float]]:
    """Boot by `verb` of our toolstack; return the milliseconds, in all and by stage."""
    service, epoch = world.service(mib), world.next_epoch()
    announced = world.announced.of(service.mac)
    stages = Stages()
    instance: XenInstance = await verb(toolstack, service, epoch, world.network, stages)
    return await _outcome(instance, announced, stages)


async def prepared(world: World, mib: int) -> tuple[float, dict[str, float]]:
    """Boot what was prepared; return the milliseconds, in all and by stage."""
    service, epoch = world.service(mib), world.next_epoch()
    waiting = await world.ours.prepare(service, world.network)
    announced = world.announced.of(service.mac)
    stages = Stages()
    instance = await waiting.boot(epoch, stages)
    return await _outcome(instance, announced, stages)


async def guest_alone(world: World, mib: int) -> tuple[float, dict[str, float]]:
    """Let a domain run that lacks nothing else; return the milliseconds that the guest takes."""
    service, epoch = world.service(mib), world.next_epoch()
    instance = await world.ours.finish(service, epoch, world.network, Stages())
    announced = world.announced.of(service.mac)
    stages = Stages()
    domain.unpause(world.xen, instance.domain.domid)
    return await _outcome(instance, announced, stages)


async def hypervisor_alone(world: World, mib: int) -> float:
    """Create, build and let run, with no word in the store; return the milliseconds."""
    service = world.service(mib)
    image = world.images.load(service.image)
    words = cmdline(service, Epoch(1), world.config.network, Kind.PVH).encode()
    plan = Plan(b"bench hypervisor", Kind.PVH, service.memory, words)
    begun = time.perf_counter()
    made = domain.create(world.xen, plan)
    try:
        domain.build(world.xen, made, plan, image.data)
        domain.unpause(world.xen, made.domid)
        took = time.perf_counter() - begun
    finally:
        domain.destroy(world.xen, made.domid)
    await world.ours.vanished(made.domid)
    return took * 1e3


async def _outcome(
    instance: XenInstance, announced: "asyncio.Future[float]", stages: Stages
) -> tuple[float, dict[str, float]]:
    """Wait till it is ready, and have it gone."""
    try:
        ready = await within(announced, f"the guest {instance.service.name}")
    finally:
        instance.stop(StopMode.DESTROY)
        await instance.gone
    return (ready - stages.begun) * 1e3, stages.at


async def within(announced: "asyncio.Future[float]", what: str) -> float:
    """Wait for an announcement. Raises HostError."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await announced
    except TimeoutError as error:
        raise HostError(f"{what} was not heard within {PATIENCE:.0f} s") from error


async def _ended(pid: int, said: Path) -> None:
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    if status:
        text = await asyncio.to_thread(said.read_text)
        raise HostError(f"xl has failed, and said: {text.strip()}")
