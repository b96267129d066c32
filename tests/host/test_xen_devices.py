"""Xen's devices where there are none; where there is a Xen, see tests/xen."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jitsu.errors import HostError
from jitsu.host.xen.device import DEVICES
from jitsu.host.xen.evtchn import EventChannels
from jitsu.host.xen.gntalloc import GrantAllocator
from jitsu.host.xen.gntdev import GrantMapper
from jitsu.host.xen.xenbus import kernel_ring

pytestmark = pytest.mark.skipif(DEVICES.exists(), reason="this host runs on Xen")


@pytest.mark.parametrize(
    ("opening", "name"),
    [
        (EventChannels, "evtchn"),
        (GrantMapper, "gntdev"),
        (GrantAllocator, "gntalloc"),
        (kernel_ring, "xenbus_backend"),
    ],
)
def test_a_host_that_is_no_dom0_is_told_so(opening: Callable[[], object], name: str) -> None:
    with pytest.raises(HostError, match=f"/dev/xen/{name}: .* needs the dom0 of a running Xen"):
        opening()


def test_no_store_of_dom0_without_xen(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "jitsu", "xenstored", "--xen"]
    argv += ["--socket", str(tmp_path / "socket"), "--state", str(tmp_path / "state")]
    argv += ["--pid-file", str(tmp_path / "pid")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Xen" in done.stderr
    assert not (tmp_path / "socket").exists()
    assert not (tmp_path / "pid").exists()


def test_a_store_without_a_socket_is_refused() -> None:
    argv = [sys.executable, "-m", "jitsu", "xenstored"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--socket" in done.stderr
