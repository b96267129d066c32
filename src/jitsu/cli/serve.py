"""`jitsu serve`: the daemon."""

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from structlog.typing import FilteringBoundLogger

from jitsu import config as configuration
from jitsu.api import control
from jitsu.api.verbs import Verbs
from jitsu.backends import process, qemu, qemu_accel, xen
from jitsu.backends.base import Backend
from jitsu.core.xenstore.server import Server
from jitsu.daemon import Ambient, Daemon
from jitsu.host import journal, leases
from jitsu.host.bridge import bridge
from jitsu.host.dns import DnsServer
from jitsu.host.forkserver import ForkServer
from jitsu.host.guests import Guests, LinkedGuests
from jitsu.host.link import KernelNetwork, kernel_network
from jitsu.host.lock import only_daemon, only_daemon_on
from jitsu.host.log import logger
from jitsu.host.process import Leftovers
from jitsu.host.saved import Saved
from jitsu.host.xen.dom0 import dom0_store
from jitsu.host.xen.libxc import Xen
from jitsu.host.xenstored import Xenstored, listen
from jitsu.model import Config

_SWITCH_INTERVAL = 0.0005
"""Seconds that a busy thread may keep another from Python: the netlink thread is on the path."""

_NICE = -10


def command(
    config: Annotated[Path, typer.Option("-c", "--config", help="The configuration, TOML.")],
) -> None:
    """Serve the services of a configuration until SIGTERM, SIGINT or SIGHUP."""
    checked = load(config)
    log = logger()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _go_first()
    _keep_descriptors()
    _allow_descriptors()
    ending = _Ending()
    run = Path(checked.host.run)
    with ExitStack() as stack:
        stack.enter_context(only_daemon(run))
        stack.enter_context(only_daemon_on(checked.network.bridge))
        leftovers = Leftovers(run, log.warning)
        leftovers.end()
        stack.callback(leftovers.end)  # should the daemon itself fail
        backends = _backends(checked, log, leftovers)
        up = stack.enter_context(bridge(checked.network, run / "bridge"))
        network = stack.enter_context(
            kernel_network(
                up, checked.network.probe, checked.services, log.warning, run / "clients"
            )
        )
        uvloop.run(_serve(checked, network, backends, log, ending))


def _backends(
    config: Config, log: FilteringBoundLogger, leftovers: Leftovers
) -> dict[str, Backend]:
    """Return the backends that some service wants. Raises HostError where one cannot be."""
    wanted = {service.backend for service in config.services}
    backends: dict[str, Backend] = {}
    if "qemu" in wanted:
        accel = qemu_accel.choose(Path(config.host.state), log, leftovers)
        found = qemu.find(accel)
        forks = ForkServer(found.binary, log.warning)
        backends["qemu"] = qemu.QemuBackend(found, config.network, leftovers, forks)
    if "process" in wanted:
        backends["process"] = process.ProcessBackend()
    if "xen" in wanted:
        backends["xen"] = xen.XenBackend(Xen(), config, log)
    return backends


class _Ending:
    """Whether a signal has told us to end.

    Such a signal interrupts nothing, so that whatever is being set up or tidied up is done whole.
    While the daemon serves it sets off `then`.
    """

    def __init__(self) -> None:
        self._told = False
        self._then: Callable[[], object] = lambda: None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell)

    def then(self, act: Callable[[], object]) -> None:
        """Have `act` called when a signal comes; now, if one has come already."""
        self._then = act
        if self._told:
            act()

    def _tell(self, *_: object) -> None:
        self._told = True
        self._then()


def _go_first() -> None:
    """Have the kernel run us before the guests that we start, which get its usual priority.

    Whoever asks for a service that is awake should not wait for another that boots. What we do for
    them is short. Without the privilege (in a user namespace, say) all are equal.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def _keep_descriptors() -> None:
    """Let no guest inherit what whoever started us has left open."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd > 2:
            with suppress(OSError):  # the one that listed them is closed
                os.set_inheritable(fd, False)


def _allow_descriptors() -> None:
    """Have as many descriptors as we may: a guest takes four, and two more while it boots."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def load(path: Path) -> Config:
    """Read a configuration, and the addresses that were allotted before; keep what is new.

    Raises ConfigError and HostError.
    """
    first = configuration.load(path)
    state = Path(first.host.state)
    earlier = leases.read(state)
    checked = configuration.load(path, earlier)
    leases.write(state, checked.services, earlier)
    return checked


async def _serve(
    config: Config,
    network: KernelNetwork,
    backends: dict[str, Backend],
    log: FilteringBoundLogger,
    ending: _Ending,
) -> None:
    saved = Saved(Path(config.host.state))
    saved.clear()
    secret, serial = os.urandom(16), int(time.time())
    ambient = Ambient(time.monotonic, secret=secret, serial=serial, saved=saved)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        kept, recovered = journal.recover(Path(config.host.state) / "xenstore")
        stack.callback(kept.close)
        xenstored = Xenstored(Server(recovered), kept, log)
        xenstored.failed.add_done_callback(
            lambda failed: log.error("the store has ended", reason=str(failed.exception()))
        )
        socket = Path(config.host.run) / "xenstored.sock"
        await stack.enter_async_context(listen(xenstored, socket))
        guests: dict[str, Guests] = dict.fromkeys(backends, LinkedGuests(xenstored, config.network))
        if isinstance(domains := backends.get("xen"), xen.XenBackend):
            guests["xen"] = await _open_xen(domains, config, log, stack)
        if isinstance(machines := backends.get("qemu"), qemu.QemuBackend):
            stack.push_async_callback(machines.close)
            await machines.begin()
        daemon = Daemon(config, network, backends, guests, log, ambient)
        ending.then(partial(loop.call_soon_threadsafe, daemon.close))
        stack.callback(ending.then, lambda: None)
        dns = await stack.enter_async_context(
            DnsServer(
                config.directory.listen,
                prepared=daemon.directory.answer_prepared,
                deliver=daemon.asked,
            )
        )
        await stack.enter_async_context(control.serve(Path(config.host.run), Verbs(daemon)))

        def started() -> None:
            # What is here now stays: no collection need look at it again, on anybody's path.
            gc.collect()
            gc.freeze()
            network.listen(daemon.frame, daemon.fail)
            stack.callback(network.deafen)
            if isinstance(programs := backends.get("process"), process.ProcessBackend):
                programs.begin()
                stack.callback(programs.close)
            listen = [str(endpoint) for endpoint in config.directory.listen]
            log.info("serving", services=len(config.services), dns=listen, run=config.host.run)

        await daemon.run(dns, started)
    log.info("stopped")


async def _open_xen(
    domains: xen.XenBackend, config: Config, log: FilteringBoundLogger, stack: AsyncExitStack
) -> Guests:
    """Have the backend use dom0's store while the stack stands. Raises HostError."""
    kept_in = Path(config.host.state) / "xenstore-dom0"
    connect = await stack.enter_async_context(dom0_store(config.host.xenstored, kept_in, log))
    guests = await domains.open(connect)
    stack.push_async_callback(domains.close)
    return guests
