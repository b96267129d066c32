"""How the link of a guest that is a process of ours joins the bridge, and what if it cannot."""

import signal
from typing import Protocol

from jitsu.backends.base import Exit, Watch
from jitsu.errors import HostError
from jitsu.host.network import GuestLink
from jitsu.host.process import Child


class Guest(Protocol):
    """A guest that runs already."""

    link: GuestLink
    child: Child
    fault: str
    """Why it was ended, if its link could not join."""


async def plug(guest: Guest, watch: Watch) -> None:
    """Have its link join the bridge, or end it; then `gone` will say why."""
    try:
        await guest.link.join(watch.on_frame)
    except HostError as error:
        # Perhaps it has gone by itself and its interface with it: that is why, then.
        guest.fault = str(error)
        guest.child.signal(signal.SIGKILL)
    watch.stage("plugged")


def exit_unless_ended(guest: Guest, code: int, by_itself: Exit) -> Exit:
    """Return how it went: by our hand, or `by_itself`."""
    if guest.fault and code == -signal.SIGKILL:
        return Exit(guest.fault, clean=False, began=False)
    return by_itself
