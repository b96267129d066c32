"""What the store says of a domain and its devices (Xen's public/io/netif.h, blkif.h).

A device has two ends, each a folder of the store: the guest's is written by the guest and read by
dom0, dom0's the other way round. Each end says in `state` how far it has come (`XenbusState`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jitsu.core.xenstore.path import home_of
from jitsu.host.xen.store import Write
from jitsu.model import Mac

INITIALISING, INIT_WAIT, CONNECTED = b"1", b"2", b"4"
"""States of a device's end (xen/io/xenbus.h)."""
_MTU = 1500
_XVDA = 202 << 8
"""The first virtual disk; each has 16 minor numbers (docs/man/xen-vbd-interface.7)."""


def backend(kind: bytes, domid: int, number: int | None = None) -> bytes:
    """Return dom0's end of a device, or the folder of all of that kind."""
    folder = b"/local/domain/0/backend/%b/%d" % (kind, domid)
    return folder if number is None else b"%b/%d" % (folder, number)


def error_of(end: bytes) -> bytes:
    """Return where a driver of dom0 says what is wrong with its end of a device."""
    return end.replace(b"/domain/0/", b"/domain/0/error/", 1) + b"/error"


def frontend(kind: bytes, domid: int, number: int) -> bytes:
    """Return the guest's end of a device."""
    return b"%b/device/%b/%d" % (home_of(domid), kind, number)


def home(domid: int, name: str) -> Iterator[Write]:
    """Yield a domain's home, and what it may write there."""
    top = home_of(domid)
    its = (b"n%d" % domid,)
    yield Write(top, b"", (b"n0", b"r%d" % domid))
    yield Write(top + b"/name", name.encode())
    yield Write(top + b"/domid", b"%d" % domid)
    yield Write(top + b"/data", b"", its)
    yield Write(top + b"/control/shutdown", b"", its)


def linux(domid: int, mib: int) -> Iterator[Write]:
    """Yield what Linux looks for besides: that its processor is there, and its memory in KiB."""
    top = home_of(domid)
    yield Write(top + b"/cpu/0/availability", b"online")
    yield Write(top + b"/memory/static-max", b"%d" % (mib << 10))
    yield Write(top + b"/memory/target", b"%d" % (mib << 10))


def vif(domid: int, number: int, mac: Mac) -> Iterator[Write]:
    """Yield both ends of a network interface.

    There is no script: whoever writes this puts the interface on a bridge, and says so in
    `hotplug-status`. The node is there all the same, for netback does not begin without (Linux
    drivers/net/xen-netback/xenbus.c).
    """
    front, back = frontend(b"vif", domid, number), backend(b"vif", domid, number)
    address = mac.hex(":").encode()
    yield Write(front, b"", (b"n%d" % domid, b"r0"))
    yield Write(front + b"/backend", back)
    yield Write(front + b"/backend-id", b"0")
    yield Write(front + b"/handle", b"%d" % number)
    yield Write(front + b"/mac", address)
    yield Write(front + b"/mtu", b"%d" % _MTU)
    yield Write(front + b"/state", INITIALISING)
    yield Write(back, b"", (b"n0", b"r%d" % domid))
    yield Write(back + b"/frontend", front)
    yield Write(back + b"/frontend-id", b"%d" % domid)
    yield Write(back + b"/online", b"1")
    yield Write(back + b"/handle", b"%d" % number)
    yield Write(back + b"/mac", address)
    yield Write(back + b"/script", b"/bin/true")
    yield Write(back + b"/state", INITIALISING)


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A block device of dom0 that a guest gets: its path and number there."""

    path: str
    major: int
    minor: int
    read_only: bool = False


def disk_number(number: int) -> int:
    """Return what disk `number` is called on both ends; 0 is xvda."""
    return _XVDA + 16 * number


def vbd(domid: int, number: int, device: BlockDevice) -> Iterator[Write]:
    """Yield both ends of disk `number`, which is a block device of dom0."""
    virtual = disk_number(number)
    front, back = frontend(b"vbd", domid, virtual), backend(b"vbd", domid, virtual)
    yield Write(front, b"", (b"n%d" % domid, b"r0"))
    yield Write(front + b"/backend", back)
    yield Write(front + b"/backend-id", b"0")
    yield Write(front + b"/virtual-device", b"%d" % virtual)
    yield Write(front + b"/device-type", b"disk")
    yield Write(front + b"/state", INITIALISING)
    yield Write(back, b"", (b"n0", b"r%d" % domid))
    yield Write(back + b"/frontend", front)
    yield Write(back + b"/frontend-id", b"%d" % domid)
    yield Write(back + b"/online", b"1")
    yield Write(back + b"/params", device.path.encode())
    yield Write(back + b"/type", b"phy")
    yield Write(back + b"/dev", b"xvd%c" % (ord("a") + number))
    yield Write(back + b"/mode", b"r" if device.read_only else b"w")
    yield Write(back + b"/physical-device", b"%x:%x" % (device.major, device.minor))
    yield Write(back + b"/hotplug-status", b"connected")
    yield Write(back + b"/state", INITIALISING)
