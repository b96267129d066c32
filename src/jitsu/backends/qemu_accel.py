"""TCG or KVM: whichever starts a guest sooner on this host, found by starting one.

/dev/kvm is not always the faster way: where the host is itself a virtual machine without nested
virtualisation it may emulate each instruction of a guest's kernel. So both are measured, once for
a kernel and a QEMU; what was found is kept in the state folder. Used, too, as the floor beneath
every figure that Jitsu prints: a bare QEMU, from its exec to its guest's first frame.
"""

import json
import os
import platform
import select
import signal
import socket
import statistics
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pyroute2 import IPRoute
from structlog.typing import FilteringBoundLogger

from jitsu.backends.qemu import Qemu, argv, find
from jitsu.config.image import image_kind
from jitsu.errors import HostError
from jitsu.host.process import Leftovers, spawn_raw
from jitsu.host.tap import open_tap
from jitsu.model import Epoch, Name, NetworkConfig, Service, mac_of

KVM = Path("/dev/kvm")
TRIES = 3
PATIENCE = 5.0
"""Seconds until a guest that has sent nothing is given up."""
_FILE = "accelerator.json"
_FLOOR = "floor"
_SUBNET = IPv4Network("192.0.2.0/24")
_NETWORK = NetworkConfig("", _SUBNET, None, _SUBNET[1], _SUBNET[-2])
"""Documentation addresses: the guest's frames go nowhere."""


def hello_image() -> Path:
    """Return the guest that Jitsu carries. Raises HostError if it has not been built."""
    image = Path(__file__).parent.parent / "images" / "hello.elf"
    if not image.exists():
        raise HostError(f"{image} is missing; build it with `make image`")
    return image


@dataclass(frozen=True, slots=True)
class Floor:
    """A bare guest on a tap of its own, outside any bridge."""

    tap: str
    service: Service

    def first_frame(self, qemu: Qemu, network: NetworkConfig = _NETWORK, name: str = "") -> float:
        """Return the seconds from QEMU's exec to its guest's first frame. Raises HostError."""
        kind = image_kind(Path(self.service.image))
        tap = open_tap(self.tap, vnet_hdr=True)
        try:
            _up(self.tap)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as listener:
                listener.bind((self.tap, 3))
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    began = time.perf_counter()
                    command = argv(qemu, self.service, Epoch(0), network, kind, name)
                    pid = spawn_raw(command, {3: tap, 4: theirs.fileno()}, None)
                    try:
                        _await_frame(listener, self.service.mac)
                        return time.perf_counter() - began
                    finally:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
        finally:
            os.close(tap)


def choose(
    state: Path, log: FilteringBoundLogger | None, leftovers: Leftovers | None = None
) -> str:
    """Return "kvm" or "tcg", from an earlier run's measurement or a new one.

    With `leftovers` the guests that are measured are named by it. Raises HostError when QEMU is
    missing.
    """
    qemu = find()
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"
    # QEMU is known by its file: to ask its version would cost as much as to measure it.
    binary = os.stat(qemu.binary)  # noqa: PTH116
    host = f"{platform.release()} {platform.machine()} {binary.st_size} {binary.st_mtime_ns}"
    try:
        known = json.loads((state / _FILE).read_text())
        if known["host"] == host and known["accel"] in ("kvm", "tcg"):
            return str(known["accel"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not ours: measure
    times = {accel: _median(accel, leftovers) for accel in ("tcg", "kvm")}
    accel = min(times, key=lambda name: times[name])
    shown = {f"{name}_ms": round(1000 * seconds, 1) for name, seconds in times.items()}
    if log:
        log.info("measured", accel=accel, **shown)
    state.mkdir(parents=True, exist_ok=True)
    (state / _FILE).write_text(json.dumps({"host": host, "accel": accel}))
    return accel


def floor(tap: str) -> Floor:
    """Return the floor on the tap `tap`, with the guest that Jitsu carries."""
    name = Name(_FLOOR)
    image = str(hello_image())
    return Floor(tap, Service(name, (), image, IPv4Address(_SUBNET[10]), mac_of(name)))


def _median(accel: str, leftovers: Leftovers | None) -> float:
    name = leftovers.name_of(_FLOOR) if leftovers else ""
    try:
        bare = floor(f"jitsu-{os.getpid()}")
        return statistics.median(bare.first_frame(find(accel), name=name) for _ in range(TRIES))
    except HostError:
        return float("inf")


def _up(name: str) -> None:
    with IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname=name)
        ipr.link("set", index=index, state="up")


def _await_frame(listener: socket.socket, mac: bytes) -> None:
    deadline = time.perf_counter() + PATIENCE
    while (left := deadline - time.perf_counter()) > 0:
        if select.select([listener], [], [], left)[0] and listener.recv(2048)[6:12] == mac:
            return
    raise HostError(f"the guest has sent nothing within {PATIENCE:g} s")
