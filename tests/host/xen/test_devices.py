"""What the store is told of domains and devices, word for word."""

from jitsu.host.xen import devices
from jitsu.host.xen.devices import BlockDevice
from jitsu.host.xen.store import Write
from jitsu.model import Mac


def test_a_domain_may_read_its_home_and_write_two_places_in_it() -> None:
    assert list(devices.home(7, "www")) == [
        Write(b"/local/domain/7", b"", (b"n0", b"r7")),
        Write(b"/local/domain/7/name", b"www"),
        Write(b"/local/domain/7/domid", b"7"),
        Write(b"/local/domain/7/data", b"", (b"n7",)),
        Write(b"/local/domain/7/control/shutdown", b"", (b"n7",)),
    ]


def test_a_vif_has_two_ends_each_readable_by_the_other() -> None:
    front, back = b"/local/domain/7/device/vif/0", b"/local/domain/0/backend/vif/7/0"
    assert list(devices.vif(7, 0, Mac(bytes.fromhex("021122334455")))) == [
        Write(front, b"", (b"n7", b"r0")),
        Write(front + b"/backend", back),
        Write(front + b"/backend-id", b"0"),
        Write(front + b"/handle", b"0"),
        Write(front + b"/mac", b"02:11:22:33:44:55"),
        Write(front + b"/mtu", b"1500"),
        Write(front + b"/state", b"1"),
        Write(back, b"", (b"n0", b"r7")),
        Write(back + b"/frontend", front),
        Write(back + b"/frontend-id", b"7"),
        Write(back + b"/online", b"1"),
        Write(back + b"/handle", b"0"),
        Write(back + b"/mac", b"02:11:22:33:44:55"),
        Write(back + b"/script", b"/bin/true"),
        Write(back + b"/state", b"1"),
    ]


def test_disks_are_numbered_as_linux_does() -> None:
    first = dict(write[:2] for write in devices.vbd(7, 0, BlockDevice("/dev/loop3", 7, 3)))
    back = b"/local/domain/0/backend/vbd/7/51712"
    assert first[back + b"/dev"] == b"xvda"
    assert first[back + b"/physical-device"] == b"7:3"
    assert first[back + b"/params"] == b"/dev/loop3"
    assert first[back + b"/mode"] == b"w"
    assert first[b"/local/domain/7/device/vbd/51712/virtual-device"] == b"51712"
    assert first[b"/local/domain/7/device/vbd/51712/backend"] == back
    second = dict(write[:2] for write in devices.vbd(7, 1, BlockDevice("/dev/sda", 8, 16, True)))
    back = b"/local/domain/0/backend/vbd/7/51728"
    assert second[back + b"/dev"] == b"xvdb"
    assert second[back + b"/physical-device"] == b"8:10", "hexadecimal, as blkback reads it"
    assert second[back + b"/mode"] == b"r"


def test_linux_is_told_of_its_processor_and_memory() -> None:
    told = dict(write[:2] for write in devices.linux(7, 128))
    assert told[b"/local/domain/7/cpu/0/availability"] == b"online"
    assert told[b"/local/domain/7/memory/target"] == b"131072"


def test_where_a_driver_says_what_is_wrong() -> None:
    end = devices.backend(b"vif", 7, 0)
    assert devices.error_of(end) == b"/local/domain/0/error/backend/vif/7/0/error"
