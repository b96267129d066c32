"""rtnetlink requests on the path of a summons.

Set-up talks to the kernel through pyroute2's `IPRoute`, which runs an event loop of its own for
every request: 0.7 ms each. What a summons asks of the kernel is encoded with pyroute2's message
classes and sent over a plain socket (`jitsu.host.rtnetlink`): 0.1 ms. The kernel has answered an
rtnetlink request by the time that `send` returns, so the socket never waits, but `send` itself may:
it takes the rtnl lock, which the kernel holds for tens of milliseconds while another tap is being
removed. Callers are on a thread, never on the event loop.
"""

import socket
import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_DELQDISC,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
    TC_H_CLSACT,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from jitsu.model import Mac

_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400
_IFF_UP = 0x1
_IFA_F_NODAD = 0x02
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_ADDR_GEN_MODE_NONE = 1
_NUD_NOARP = 0x40  # shown as "static" by bridge(8)
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40
_CLSACT_HANDLE = 0xFFFF0000
_ETH_P_ALL = 3
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT: the program's verdict is what is done
_INDEX, _INDEX_AT = struct.Struct("=i"), 20
"""Where ifinfmsg and ndmsg (rtnetlink(7)) have the link's index, after the header of 16 bytes."""
_KEPT = 1024
"""Messages that are kept as they are encoded but for the index: each boot of a service wants the
same two, and pyroute2 takes longer to encode them than the kernel to obey."""
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
"""The two ends of a hook: what comes from a link, and what goes to it."""


def join(index: int, bridge: int, name: str) -> bytes:
    """Encode: link `index` is called `name`, becomes a port of link `bridge`, and goes up.

    It gets no IPv6 address of its own, so that the host never speaks on it.
    """
    return _of(index, _join(bridge, name))


@lru_cache(_KEPT)
def _join(bridge: int, name: str) -> bytes:
    message = ifinfmsg()
    message["flags"] = message["change"] = _IFF_UP
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]}
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_MASTER", bridge),
        ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", mode)]}),
    ]
    return _encoded(message, RTM_NEWLINK, 0)


def veth(name: str, peer: str, namespace: int) -> bytes:
    """Encode: make link `name` and at its other end `peer`, in another namespace."""
    other = [("IFLA_IFNAME", peer), ("IFLA_NET_NS_FD", namespace)]
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": other})]}),
                ]
            },
        ),
    ]
    return _encoded(message, RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL)


def remove(index: int) -> bytes:
    """Encode: link `index` is no more, nor its other end."""
    message = ifinfmsg()
    message["index"] = index
    return _encoded(message, RTM_DELLINK, 0)


def up(index: int, mac: Mac | None = None) -> bytes:
    """Encode: link `index` goes up, with `mac` or with what it has."""
    message = ifinfmsg()
    message["index"] = index
    message["flags"] = message["change"] = _IFF_UP
    if mac is not None:
        message["attrs"] = [("IFLA_ADDRESS", mac.hex(":"))]
    return _encoded(message, RTM_NEWLINK, 0)


def address(index: int, interface: IPv4Interface | IPv6Interface) -> bytes:
    """Encode: link `index` has an address, and nobody need be asked whether it is free."""
    message = ifaddrmsg()
    message["family"] = _family(interface)
    message["prefixlen"] = interface.network.prefixlen
    message["flags"] = _IFA_F_NODAD
    message["index"] = index
    message["attrs"] = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))]
    return _encoded(message, RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL)


def default_route(index: int, gateway: IPv4Address | IPv6Address) -> bytes:
    """Encode: what goes to no neighbour of link `index` goes to `gateway` by it."""
    message = rtmsg()
    message["family"] = _family(gateway)
    message["table"], message["proto"] = _RT_TABLE_MAIN, _RTPROT_STATIC
    message["type"] = _RTN_UNICAST
    message["attrs"] = [("RTA_GATEWAY", str(gateway)), ("RTA_OIF", index)]
    return _encoded(message, RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL)


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def own(mac: Mac, index: int) -> bytes:
    """Encode: frames for `mac` leave the bridge by port `index`, whoever sends frames from it."""
    return _of(index, _own(mac))


@lru_cache(_KEPT)
def _own(mac: Mac) -> bytes:
    message = ndmsg()
    message["family"] = socket.AF_BRIDGE
    message["state"] = _NUD_NOARP
    message["flags"] = _NTF_MASTER | _NTF_STICKY
    message["attrs"] = [("NDA_LLADDR", mac.hex(":"))]
    return _encoded(message, RTM_NEWNEIGH, _NLM_F_CREATE | _NLM_F_REPLACE)


def _of(index: int, message: bytes) -> bytes:
    """Return a message about links, or neighbours, for link `index`."""
    return message[:_INDEX_AT] + _INDEX.pack(index) + message[_INDEX_AT + _INDEX.size :]


def hook(index: int) -> bytes:
    """Encode: programs may be attached to link `index`. Refused where there is a hook already."""
    return _encoded(_clsact(index), RTM_NEWQDISC, _NLM_F_CREATE | _NLM_F_EXCL)


def unhook(index: int) -> bytes:
    """Encode: link `index` has no programs any more."""
    return _encoded(_clsact(index), RTM_DELQDISC, 0)


def attach(index: int, end: int, program: int, name: str) -> bytes:
    """Encode: all that passes one end of the hook of link `index` passes `program`."""
    message = tcmsg()
    message["index"], message["parent"] = index, end
    message["info"] = 1 << 16 | socket.htons(_ETH_P_ALL)
    options = [
        ("TCA_BPF_FD", program),
        ("TCA_BPF_NAME", name),
        ("TCA_BPF_FLAGS", _DIRECT_ACTION),
    ]
    message["attrs"] = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", {"attrs": options})]
    return _encoded(message, RTM_NEWTFILTER, _NLM_F_CREATE | _NLM_F_EXCL)


def _clsact(index: int) -> tcmsg:
    message = tcmsg()
    message["index"], message["parent"], message["handle"] = index, TC_H_CLSACT, _CLSACT_HANDLE
    message["attrs"] = [("TCA_KIND", "clsact")]
    return message


def _encoded(message: ifaddrmsg | ifinfmsg | ndmsg | rtmsg | tcmsg, kind: int, flags: int) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = _NLM_F_REQUEST | _NLM_F_ACK | flags
    message.encode()
    return bytes(message.data)
