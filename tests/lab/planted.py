"""Tests that go wrong in every way, in a lab; `test_reports` runs them, and nobody else."""

import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xen


@pytest.fixture
def broken() -> None:
    raise ValueError("a fixture of dom0's")


def test_passes() -> None:
    assert Path("/proc/xen/capabilities").read_text() == "control_d\n"


def test_fails() -> None:
    sys.stdout.write("said in dom0\n")
    release = os.uname().nodename
    assert release == "not dom0"


def test_skips() -> None:
    pytest.skip("a reason of dom0's")


def test_has_a_broken_fixture(broken: None) -> None:
    raise AssertionError("never reached")


@pytest.mark.xen(timeout=2)
def test_takes_too_long() -> None:
    while True:
        pass


def test_kills_the_lab() -> None:
    Path("/proc/sysrq-trigger").write_text("c")


def test_has_another_lab() -> None:
    assert float(Path("/proc/uptime").read_text().split()[0]) > 0


def test_ends_pytest() -> None:
    os._exit(7)


def test_has_a_third() -> None:
    pass
