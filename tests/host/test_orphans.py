"""Whom a killed daemon's heir has to ask."""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from jitsu.errors import HostError
from jitsu.host.orphans import REGISTER_MAX, Orphan, Register

ONE = Orphan(IPv4Address("10.77.0.10"), 80, IPv4Address("10.77.0.9"), 40000)
SIX = Orphan(IPv6Address("fd77::10"), 443, IPv6Address("fd77::9"), 40001)
TRACKED = Orphan(IPv4Address("10.77.0.10"), 80, IPv4Address("192.0.2.1"), 5)


def remember(register: Register, *orphans: Orphan) -> None:
    for o in orphans:
        register.remember(o.local.packed, o.port, o.peer.packed, o.peer_port)


def test_an_heir_knows_them_however_often_heirs_are_killed(tmp_path: Path) -> None:
    first = Register(tmp_path / "clients")
    first.inherit([])
    remember(first, ONE, SIX, ONE)
    # Killed: nothing is closed.
    second = Register(tmp_path / "clients")
    assert second.left == {ONE, SIX}
    second.inherit([TRACKED])
    late = Orphan(ONE.local, 80, ONE.peer, 40002)
    remember(second, late)
    third = Register(tmp_path / "clients")
    third.inherit([])
    assert third.left == {ONE, SIX, TRACKED, late}
    third.settle()
    assert third.left == set()
    assert Register(tmp_path / "clients").left == set(), "all have been asked"


def test_an_end_in_good_order_leaves_nobody(tmp_path: Path) -> None:
    register = Register(tmp_path / "clients")
    register.inherit([TRACKED])
    remember(register, ONE)
    register.close()
    assert list(tmp_path.iterdir()) == []


def test_the_latest_are_kept(tmp_path: Path) -> None:
    register = Register(tmp_path / "clients")
    many = [Orphan(ONE.local, 80, ONE.peer, number) for number in range(REGISTER_MAX + 2)]
    remember(register, *many)
    assert Register(tmp_path / "clients").left == set(many[2:])


def test_what_was_half_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "clients").write_bytes(bytes([4]) + b"\xff" * 20)
    (tmp_path / "clients.left").write_bytes(bytes([6, 7, 8]))
    assert len(Register(tmp_path / "clients").left) == 1


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"clients: .*; set \[host\] run to another folder"):
        Register(tmp_path / "nowhere" / "clients")
