"""Addresses that were allotted, on disk."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from jitsu.errors import HostError
from jitsu.host import leases
from jitsu.model import Name, Service, mac_of

A, B = Name("a"), Name("b")
ONE, TWO = IPv4Address("10.77.0.1"), IPv4Address("10.77.0.2")
FILE = "addresses.json"


def service(name: Name, address: IPv4Address) -> Service:
    return Service(name, (), "www.elf", address, mac_of(name))


def test_round_trip(tmp_path: Path) -> None:
    state = tmp_path / "var" / "lib"
    assert leases.read(state) == {}
    leases.write(state, [service(A, ONE), service(B, TWO)], {})
    assert leases.read(state) == {A: ONE, B: TWO}
    assert [path.name for path in state.iterdir()] == [FILE]


def test_a_service_that_has_gone_may_come_back(tmp_path: Path) -> None:
    leases.write(tmp_path, [service(A, ONE)], {})
    leases.write(tmp_path, [service(B, TWO)], leases.read(tmp_path))
    leases.write(tmp_path, [service(B, ONE)], leases.read(tmp_path))
    assert leases.read(tmp_path) == {A: ONE, B: ONE}


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    leases.write(tmp_path / "nowhere", [service(A, ONE)], {A: ONE, B: TWO})
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"a"', b'{"a": "10.77.0"}', b'{"a": null}', b"\xff", b'{"a": []}'],
)
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(HostError) as caught:
        leases.read(tmp_path)
    what = "is damaged; delete it, and services without an address get new ones"
    assert str(caught.value) == f"{tmp_path / FILE}: {what}"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(HostError, match=f"{FILE}: Is a directory"):
        leases.read(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the way stands for missing permission, which root never misses."""
    (tmp_path / "file").touch()
    state = tmp_path / "file" / "state"
    with pytest.raises(HostError) as caught:
        leases.write(state, [service(A, ONE)], {})
    assert str(caught.value) == f"{state}: Not a directory; set [host] state to another folder"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    leases.write(tmp_path, [service(A, ONE)], {})
    (tmp_path / f"{FILE}.new").mkdir()
    with pytest.raises(HostError):
        leases.write(tmp_path, [service(A, TWO)], {A: ONE})
    assert leases.read(tmp_path) == {A: ONE}
