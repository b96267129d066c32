"""Files as block devices, by the real kernel."""

import os
from pathlib import Path

import pytest

from host import kernel
from jitsu.errors import HostError
from jitsu.host.loops import open_loop

pytestmark = [
    *kernel.marks(),
    pytest.mark.skipif(not os.access("/dev/loop-control", os.R_OK | os.W_OK), reason="no loops"),
]


def backing(path: str) -> bool:
    """Say whether a file is behind a loop device."""
    return Path("/sys/block", Path(path).name, "loop").exists()


def test_a_file_is_a_block_device_until_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"hello".ljust(1 << 16, b"\0"))
    loop = open_loop(str(file), read_only=False)
    assert os.stat(loop.path).st_rdev == loop.device  # noqa: PTH116
    with open(loop.path, "r+b") as device:  # noqa: PTH123
        assert device.read(5) == b"hello"
        device.seek(0)
        device.write(b"there")
        device.flush()
        os.fsync(device)
    assert file.read_bytes()[:5] == b"there"
    assert backing(loop.path)
    loop.close()
    loop.close()
    assert not backing(loop.path)


def test_a_device_that_is_only_read(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(bytes(4096))
    file.chmod(0o444)
    loop = open_loop(str(file), read_only=True)
    assert Path("/sys/block", Path(loop.path).name, "ro").read_text() == "1\n"
    loop.close()


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"none\.raw cannot be opened: No such file"):
        open_loop(str(tmp_path / "none.raw"), read_only=False)
    with pytest.raises(HostError, match="cannot be opened: Is a directory"):
        open_loop(str(tmp_path), read_only=False)
