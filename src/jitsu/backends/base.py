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

`stop` asks it to go, and may be asked again, with a harder way. DESTROY always works.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from jitsu.host.network import FrameHandler, GuestLink, Network
from jitsu.model import Epoch, Service, StopMode


@dataclass(frozen=True, slots=True)
class Exit:
    """How a guest went: `clean` when it meant to; `began` unless it never could run here."""

    reason: str
    clean: bool
    began: bool = True


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


class Watch(Protocol):
    """Who wants to know how a boot goes."""

    def stage(self, name: str) -> None:
        """The boot has come to the stage `name`, now."""

    @property
    def on_frame(self) -> FrameHandler:
        """Gets each frame of the guest."""
