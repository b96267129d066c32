"""`jitsu check`: a configuration, and what this host can do."""

import ctypes
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jitsu import config as configuration
from jitsu.backends import qemu, qemu_accel
from jitsu.cli.options import Json
from jitsu.config.hypervisor import is_dom0
from jitsu.errors import HostError, JitsuError
from jitsu.host.tap import DEVICE
from jitsu.host.xen.dom0 import answers
from jitsu.host.xen.libxc import VERSION, Xen
from jitsu.host.xen.store import DOM0_SOCKET
from jitsu.model import WhichXenstored

_NETBACK = Path("/sys/bus/xen-backend/drivers/vif")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that this host can or cannot do; `needed` things must be there to serve."""

    what: str
    ok: bool
    said: str
    needed: bool = True


def command(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="A configuration to check as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a configuration, and whether this host can serve it; nothing is started."""
    checked = configuration.load(config) if config else None
    findings = host(checked.host.xenstored if checked else WhichXenstored.AUTO)
    if as_json:
        print(json.dumps({"config": str(config or ""), "host": [asdict(f) for f in findings]}))
    else:
        console = Console(highlight=False)
        if checked:
            count = len(checked.services)
            noun = "service" if count == 1 else "services"
            console.print(f"{config}: {count} {noun}, no mistakes")
        for finding in findings:
            mark = (
                "[green]yes[/]"
                if finding.ok
                else "[red]no [/]"
                if finding.needed
                else "[dim]no [/]"
            )
            console.print(f"{mark} {finding.what:<12} {finding.said}")
    missing = [finding.what for finding in findings if finding.needed and not finding.ok]
    if missing:
        raise JitsuError(f"this host cannot serve: {', '.join(missing)} missing; see above")


def host(which: WhichXenstored = WhichXenstored.AUTO) -> list[Finding]:
    """Look at this host, and start nothing."""
    if is_dom0():
        mine = [_root(), _tap(), _nftables()]
        return [*mine, _xen(), _xenstore(which), _netback(), _qemu(needed=False)]
    return [_root(), _tap(), _nftables(), _qemu(), _kvm(), _hello()]


def _root() -> Finding:
    root = os.geteuid() == 0
    said = "may change the network" if root else "run as root, or within `unshare --map-root-user`"
    return Finding("root", root, said)


def _tap() -> Finding:
    ok = os.access(DEVICE, os.R_OK | os.W_OK)
    return Finding("tap", ok, DEVICE if ok else f"{DEVICE} cannot be opened; load the tun module")


def _nftables() -> Finding:
    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return Finding("nftables", False, "libnftables.so.1 is missing; install libnftables1")
    return Finding("nftables", True, "libnftables.so.1")


def _qemu(*, needed: bool = True) -> Finding:
    try:
        return Finding("qemu", True, qemu.find().binary, needed)
    except HostError as error:
        return Finding("qemu", False, str(error), needed)


def _xen() -> Finding:
    try:
        xen = Xen()
    except HostError as error:
        return Finding("xen", False, str(error))
    free = xen.free() >> 20
    xen.close()
    return Finding("xen", True, f"{VERSION}, {free} MiB of memory are free")


def _xenstore(which: WhichXenstored) -> Finding:
    runs = answers(DOM0_SOCKET)
    if runs and which is WhichXenstored.OWN:
        said = f"one answers at {DOM0_SOCKET}; if it is not the daemon's own, stop it before serve"
        return Finding("xenstore", False, said, needed=False)
    if runs:
        return Finding("xenstore", True, f"{DOM0_SOCKET}")
    if which is WhichXenstored.RUNNING:
        said = f"no daemon at {DOM0_SOCKET}; start one, or let [host] xenstored be own or auto"
        return Finding("xenstore", False, said)
    return Finding("xenstore", True, "jitsu serve is dom0's xenstored itself")


def _netback() -> Finding:
    ok = _NETBACK.exists()
    said = "makes the interfaces of domains" if ok else "not there; load the xen-netback module"
    return Finding("netback", ok, said)


def _kvm() -> Finding:
    ok = os.access(qemu_accel.KVM, os.R_OK | os.W_OK)
    said = "used where it starts guests sooner than TCG" if ok else "guests run on TCG"
    return Finding("kvm", ok, said, needed=False)


def _hello() -> Finding:
    try:
        image = qemu_accel.hello_image()
    except HostError as error:
        return Finding("demo image", False, str(error), needed=False)
    curl = shutil.which("curl")
    said = f"{image.name}, {image.stat().st_size >> 10} KiB"
    return Finding("demo", bool(curl), said if curl else "install curl", needed=False)
