"""Taps, made for real in a namespace without a name."""

import fcntl
import os

import pytest

from host import kernel
from jitsu.errors import HostError
from jitsu.host.netns import UPLINK
from jitsu.host.tap import open_tap

pytestmark = kernel.marks()


def test_a_tap_lives_as_long_as_its_descriptor() -> None:
    with kernel.host():
        before = kernel.interfaces()
        fd = open_tap("tcfg-tap")
        assert kernel.interfaces() == before | {"tcfg-tap"}
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
        with pytest.raises(BlockingIOError):
            os.read(fd, 2048)
        os.close(fd)
        assert kernel.interfaces() == before


@pytest.mark.parametrize("vnet_hdr", [False, True])
def test_what_a_frame_begins_with(vnet_hdr: bool) -> None:
    with kernel.host():
        fd = open_tap("tcfg-tap", vnet_hdr=vnet_hdr)
        request = bytearray(40)
        fcntl.ioctl(fd, 0x800454D2, request)  # TUNGETIFF
        assert request[:16].rstrip(b"\0") == b"tcfg-tap"
        assert bool(int.from_bytes(request[16:18], "little") & 0x4000) == vnet_hdr
        os.close(fd)


def test_a_name_that_is_taken() -> None:
    with kernel.host():
        fd = open_tap("tcfg-tap")
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for name in ("tcfg-tap", UPLINK):
            with pytest.raises(HostError, match=f"cannot make tap {name}: "):
                open_tap(name)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        os.close(fd)
