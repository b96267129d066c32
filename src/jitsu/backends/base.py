"""What every backend promises.

A backend starts and ends guests of one kind of hypervisor. Whoever calls it is a daemon that
boots a service only when the guest before is gone.

`boot` starts a guest of `service` on the network and returns as soon as the guest has begun to
run, which is long before it can serve: its frames say when it can. The guest's link joins the
bridge while the guest boots. `boot` raises BootError, and then it has left nothing behind: no
process, no interface, no file.

`Instance.gone` is done when the guest is no more, for whatever reason, and everything that it had
on this host is given back. It never holds an exception: its result says how the guest went. It is
done once, and it is done too when nobody asked the guest to stop.

`stop` asks it to go, and may be asked again, with a harder way. DESTROY always works; SHUTDOWN
does where the guest has a power button.

What only some can do has protocols of its own: `Pauses`, `Suspends`, `Resumes`, `Prepares`. Which
backend can do what is a row of `jitsu.config.abilities`; nobody is asked for what is not in it.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jitsu.host.network import FrameHandler, GuestLink, Network
from jitsu.model import Epoch, Service, StopMode


@dataclass(frozen=True, slots=True)
class Exit:
    """How a guest went: `clean` when it meant to; `began` unless it never could run here.

    `saved` when it is in the file that it was to be suspended to.
    """

    reason: str
    clean: bool
    began: bool = True
    saved: bool = False


class Instance(Protocol):
    """A guest."""

    @property
    def link(self) -> GuestLink:
        """Its network interface."""

    @property
    def gone(self) -> asyncio.Future[Exit]:
        """Done when nothing of it is left."""

    def stop(self, how: StopMode) -> None:
        """Ask it to go."""


class Backend(Protocol):
    """A hypervisor."""

    async def boot(
        self, service: Service, epoch: Epoch, network: Network, watch: "Watch"
    ) -> Instance:
        """Start a guest. Raises BootError and leaves nothing behind."""

    def console(self, service: Service) -> str:
        """Return the last that guests of this service have written on their console."""


@runtime_checkable
class Pauses(Protocol):
    """A guest that can be stopped from running, and stays in memory as it is.

    It may be stopped for good while it is paused: DESTROY works.
    """

    async def pause(self) -> None:
        """Let it run no more. Raises HostError when it runs on, or has gone."""

    async def resume(self) -> None:
        """Let it run on. Raises HostError when it does not."""


@runtime_checkable
class Suspends(Protocol):
    """A guest that can be saved."""

    def suspend(self, file: Path) -> None:
        """Ask it to go, and to be in `file` when it has gone.

        `gone` follows, `saved` or not: then there is no such file. It may be stopped meanwhile.
        """


@runtime_checkable
class Resumes(Protocol):
    """A backend whose guests are `Suspends`."""

    async def resume(
        self, service: Service, epoch: Epoch, network: Network, watch: "Watch", file: Path
    ) -> Instance:
        """Start the guest that is in `file`, as `boot` does; it has run on when this returns.

        The file is not needed any more then, nor changed. Raises BootError, as for a file that is
        damaged, and leaves nothing behind.
        """


class Prepared(Protocol):
    """An instance that lacks only what depends on the moment."""

    @property
    def gone(self) -> asyncio.Future[Exit]:
        """Done when nothing of it is left, because it was discarded, or died; not by `boot`."""

    async def boot(self, epoch: Epoch, watch: "Watch") -> Instance:
        """Start it, once, as `Backend.boot` does. Raises BootError and leaves nothing behind."""

    def discard(self) -> None:
        """Have it go; `gone` follows."""


@runtime_checkable
class Prepares(Protocol):
    """A backend that can do most of a boot before its time."""

    async def prepare(self, service: Service, network: Network) -> Prepared:
        """Do what does not depend on the moment; other guests of the service may run meanwhile.

        Raises BootError and leaves nothing behind.
        """


class Watch(Protocol):
    """Who wants to know how a boot goes."""

    def stage(self, name: str) -> None:
        """The boot has come to the stage `name`, now."""

    @property
    def on_frame(self) -> FrameHandler:
        """Gets each frame of the guest."""
