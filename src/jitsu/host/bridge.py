"""The Linux bridge that services, Synjitsu and the outside meet on.

What is added to what others have made (an address to their bridge, a port, that it is up) is
written down before it is done, and undone by what is written: by us at the end, or by our heir.
"""

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from jitsu.errors import HostError
from jitsu.model import NetworkConfig, mac_of

_IFF_UP = 0x1
_IFA_F_NODAD = 0x02
_OURS = "made by jitsu serve"
"""The alias of a bridge that a daemon has made: it says so even when the daemon was killed."""
_WHAT_TO_DO = {
    errno.EPERM: "run as root, or in a user namespace",
    errno.EOPNOTSUPP: "load the bridge module",
    errno.EEXIST: "another program has it; choose another name or address",
    errno.EACCES: "IPv6 is disabled here; enable it by sysctl, or take [network] subnet6 out",
}


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is up."""

    name: str
    index: int
    network: NetworkConfig


@dataclass(frozen=True, slots=True)
class _Added:
    """What we have added to a bridge and, where it was there before us, have to take away."""

    bridge: str = ""
    index: int = 0
    address: str = ""
    uplink: str = ""
    raised: bool = False
    address6: str = ""


class _Ledger:
    """Keeps what was added in a file, for an heir; without one, only for ourselves."""

    def __init__(self, ipr: IPRoute, record: Path | None) -> None:
        self._ipr = ipr
        self._record = record
        self.added = self._read()

    def note(self, added: _Added) -> None:
        """Write down what is about to be done. Raises HostError."""
        self.added = added
        if self._record is None:
            return
        try:
            new = self._record.with_suffix(".new")
            new.write_text(json.dumps(asdict(added)))
            new.replace(self._record)
        except OSError as error:
            what = f"{error.strerror}; set [host] run to another folder"
            raise HostError(f"{self._record}: {what}") from error

    def settle(self) -> None:
        """Undo all that is noted; of a bridge that is no more there is nothing to undo."""
        added, ipr = self.added, self._ipr
        if added.index in ipr.link_lookup(ifname=added.bridge):
            if added.uplink and (found := ipr.link_lookup(ifname=added.uplink)):
                _quietly(lambda: _detach(ipr, found[0], added.index))
            for address in filter(None, (added.address, added.address6)):
                host = ip_interface(address)
                there = {"address": str(host.ip), "prefixlen": host.network.prefixlen}
                _quietly(partial(ipr.addr, "del", index=added.index, **there))
            if added.raised:
                _quietly(lambda: ipr.link("set", index=added.index, state="down"))
        self.added = _Added()
        if self._record is not None:
            self._record.unlink(missing_ok=True)

    def _read(self) -> _Added:
        try:
            return _Added(**json.loads(self._record.read_text())) if self._record else _Added()
        except FileNotFoundError:
            return _Added()
        except (OSError, ValueError, TypeError) as error:
            what = "cannot be read; delete it, and take off the bridge what a killed daemon added"
            raise HostError(f"{self._record}: {what}") from error


@contextmanager
def bridge(config: NetworkConfig, record: Path | None = None) -> Iterator[Bridge]:
    """Have the bridge of `config` up, with the host's addresses and the uplink on it.

    A bridge that is there already is used and left as it was found; one that is made here is
    removed at the end. What a killed daemon has added by its `record` is taken away first.
    Raises HostError.
    """
    with IPRoute() as ipr, ExitStack() as undo:
        try:
            ledger = _Ledger(ipr, record)
            ledger.settle()
            index = _make(ipr, config, ledger, undo)
            _address(ipr, config, ledger)
            if config.uplink:
                _attach(ipr, config.uplink, ledger)
            ipr.link("set", index=index, state="up")
        except NetlinkError as error:
            hint = _WHAT_TO_DO.get(error.code, "see `jitsu check`")
            raise HostError(f"bridge {config.bridge}: {error.args[1]}; {hint}") from error
        yield Bridge(config.bridge, index, config)


def port_settings(index: int) -> None:
    """Make link `index` a port of which nothing is learnt from what it sends."""
    with IPRoute() as ipr:
        ipr.brport("set", index=index, learning=0)


def _make(ipr: IPRoute, config: NetworkConfig, ledger: _Ledger, undo: ExitStack) -> int:
    """Return the bridge's index; what we make, or a killed daemon has made, goes at the end."""
    found = ipr.link_lookup(ifname=config.bridge)
    if not found:
        # No forward delay: a port must carry a guest's first frame, not one of 15 s later.
        ipr.link(
            "add",
            ifname=config.bridge,
            kind="bridge",
            # Derived, so that a restart leaves the neighbour caches of clients right.
            address=mac_of(f"bridge {config.bridge}").hex(":"),
            br_stp_state=0,
            br_forward_delay=0,
            br_mcast_snooping=0,
        )
        found = ipr.link_lookup(ifname=config.bridge)
        ipr.link("set", index=found[0], ifalias=_OURS)
        _settle_ipv6(config.bridge)
    index = int(found[0])
    (link,) = ipr.link("get", index=index)
    attributes = dict(link["attrs"])
    kind = dict(attributes.get("IFLA_LINKINFO", {"attrs": []})["attrs"]).get("IFLA_INFO_KIND")
    if kind != "bridge":
        what = "is an interface but no bridge; choose another [network] bridge"
        raise HostError(f"{config.bridge} {what}")
    if attributes.get("IFLA_IFALIAS") == _OURS:
        undo.callback(_quietly, lambda: ipr.link("del", index=index))
    undo.callback(ledger.settle)
    raised = not link["flags"] & _IFF_UP
    ledger.note(_Added(config.bridge, index, raised=raised))
    return index


def _settle_ipv6(name: str) -> None:
    """Have the host take no address or route from what is advertised on its bridge.

    Nor make sure for a second or two that its link-local address is its own, which derives from
    the bridge's: without one it cannot ask for a neighbour.
    """
    with suppress(OSError):  # no IPv6 here, or /proc/sys is not to be written
        for key in ("accept_ra", "accept_dad"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/{key}").write_text("0")


def _address(ipr: IPRoute, config: NetworkConfig, ledger: _Ledger) -> None:
    """Give the host its addresses on the bridge, where it has not got them."""
    index = ledger.added.index
    dump = [*ipr.addr("dump", index=index)]
    there = {(dict(a["attrs"])["IFA_ADDRESS"], a["prefixlen"]) for a in dump}
    own = (str(config.gateway), config.subnet.prefixlen)
    if own not in there:
        ledger.note(replace(ledger.added, address="/".join(map(str, own))))
        ipr.addr("add", index=index, address=own[0], prefixlen=own[1])
    if config.gateway6 is None or config.subnet6 is None:
        return
    own = (str(config.gateway6), config.subnet6.prefixlen)
    if own not in there:
        ledger.note(replace(ledger.added, address6="/".join(map(str, own))))
        # Nobody else has it, and to make sure would take a second in which it cannot be used.
        ipr.addr("add", index=index, address=own[0], prefixlen=own[1], flags=_IFA_F_NODAD)


def _attach(ipr: IPRoute, uplink: str, ledger: _Ledger) -> None:
    found = ipr.link_lookup(ifname=uplink)
    if not found:
        raise HostError(f"uplink {uplink} is no interface of this host; see `ip link`")
    master = _master(ipr, found[0])
    if master not in (None, ledger.added.index):
        raise HostError(f"uplink {uplink} is already a port of another bridge; take it off first")
    if master is None:
        ledger.note(replace(ledger.added, uplink=uplink))
    ipr.link("set", index=found[0], master=ledger.added.index, state="up")


def _detach(ipr: IPRoute, index: int, bridge_index: int) -> None:
    if _master(ipr, index) == bridge_index:
        ipr.link("set", index=index, master=0)


def _master(ipr: IPRoute, index: int) -> int | None:
    (link,) = ipr.link("get", index=index)
    master: int | None = dict(link["attrs"]).get("IFLA_MASTER")
    return master


def _quietly(step: Callable[[], object]) -> None:
    """Undo a step; what is gone already, gone with its namespace say, is undone."""
    try:
        step()
    except NetlinkError as error:
        if error.code not in (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOENT):
            raise
