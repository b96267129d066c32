"""The Linux bridge that services, Synjitsu and the outside meet on."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from jitsu.errors import HostError
from jitsu.model import NetworkConfig, mac_of

_IFF_UP = 0x1
_OURS = "made by jitsu serve"
"""The alias of a bridge that a daemon has made: it says so even when the daemon was killed."""
_WHAT_TO_DO = {
    errno.EPERM: "run as root, or in a user namespace",
    errno.EOPNOTSUPP: "load the bridge module",
    errno.EEXIST: "another program has it; choose another name or address",
}


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is up."""

    name: str
    index: int


@contextmanager
def bridge(config: NetworkConfig) -> Iterator[Bridge]:
    """Have the bridge of `config` up, with the host's address and the uplink on it.

    A bridge that is there already is used and left as it was found; one that is made here is
    removed at the end. Raises HostError.
    """
    with IPRoute() as ipr, ExitStack() as undo:
        try:
            index = _make(ipr, config, undo)
            _address(ipr, config, index, undo)
            if config.uplink:
                _attach(ipr, config.uplink, index, undo)
            ipr.link("set", index=index, state="up")
        except NetlinkError as error:
            hint = _WHAT_TO_DO.get(error.code, "see `jitsu check`")
            raise HostError(f"bridge {config.bridge}: {error.args[1]}; {hint}") from error
        yield Bridge(config.bridge, index)


def port_settings(index: int) -> None:
    """Make link `index` a port of which nothing is learnt from what it sends."""
    with IPRoute() as ipr:
        ipr.brport("set", index=index, learning=0)


def _make(ipr: IPRoute, config: NetworkConfig, undo: ExitStack) -> int:
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
        _obey_no_router(config.bridge)
    index = int(found[0])
    (link,) = ipr.link("get", index=index)
    attributes = dict(link["attrs"])
    kind = dict(attributes.get("IFLA_LINKINFO", {"attrs": []})["attrs"]).get("IFLA_INFO_KIND")
    if kind != "bridge":
        what = "is an interface but no bridge; choose another [network] bridge"
        raise HostError(f"{config.bridge} {what}")
    if attributes.get("IFLA_IFALIAS") == _OURS:
        undo.callback(_quietly, lambda: ipr.link("del", index=index))
    elif not link["flags"] & _IFF_UP:
        undo.callback(_quietly, lambda: ipr.link("set", index=index, state="down"))
    return index


def _obey_no_router(name: str) -> None:
    """Have the host take no address or route from what is advertised on its bridge."""
    with suppress(OSError):  # no IPv6 here, or /proc/sys is not to be written
        Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").write_text("0")


def _address(ipr: IPRoute, config: NetworkConfig, index: int, undo: ExitStack) -> None:
    address, prefix = str(config.gateway), config.subnet.prefixlen
    try:
        ipr.addr("add", index=index, address=address, prefixlen=prefix)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
    else:
        undo.callback(
            _quietly, lambda: ipr.addr("del", index=index, address=address, prefixlen=prefix)
        )


def _attach(ipr: IPRoute, uplink: str, bridge_index: int, undo: ExitStack) -> None:
    found = ipr.link_lookup(ifname=uplink)
    if not found:
        raise HostError(f"uplink {uplink} is no interface of this host; see `ip link`")
    (link,) = ipr.link("get", index=found[0])
    master = dict(link["attrs"]).get("IFLA_MASTER")
    if master not in (None, bridge_index):
        raise HostError(f"uplink {uplink} is already a port of another bridge; take it off first")
    ipr.link("set", index=found[0], master=bridge_index, state="up")
    if master is None:
        undo.callback(_quietly, lambda: ipr.link("set", index=found[0], master=0))


def _quietly(step: "object") -> None:
    """Undo a step; what is gone already, gone with its namespace say, is undone."""
    try:
        step()  # type: ignore[operator]
    except NetlinkError as error:
        if error.code not in (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOENT):
            raise
