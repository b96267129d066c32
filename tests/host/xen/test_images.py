"""Images are loaded once each, by threads that do not wait for one another."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jitsu
from jitsu.errors import HostError
from jitsu.host.xen.domain import Kind
from jitsu.host.xen.images import Images

PVH = (Path(jitsu.__file__).parent / "images" / "xen" / "hello.elf").read_bytes()[:8192]


def test_one_that_has_not_changed_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.elf"
    path.write_bytes(PVH)
    images = Images()
    first = images.load(str(path))
    assert (first.kind, first.data) == (Kind.PVH, PVH)
    assert images.load(str(path)) is first
    path.write_bytes(PVH + b"more")
    assert images.load(str(path)).data == PVH + b"more"
    path.unlink()
    with pytest.raises(HostError, match=r"a\.elf cannot be read"):
        images.load(str(path))


def test_many_are_loaded_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.elf" for i in range(1500)]
    for path in paths:
        path.write_bytes(PVH)
    images = Images()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(image.data == PVH for image in pool.map(images.load, map(str, paths)))
    finally:
        sys.setswitchinterval(before)
