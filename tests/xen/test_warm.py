"""Prepared domains on a real Xen: the very one that was there answers the first request."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitsu.api import control
from jitsu.host.xen import domain
from jitsu.host.xen.libxc import Xen
from xen import dom0
from xen.test_main_job import CONFIG, as_client, client, daemon

pytestmark = pytest.mark.xen(timeout=600)
PAGE = ("curl", "-s", "-m", "120", "-o", "/dev/null", "-w", "%{http_code}", "http://10.77.0.10/")


def configure(folder: Path) -> None:
    (folder / "jitsu.toml").write_text(CONFIG.format(folder=folder) + "warm = 1\n")


def row(folder: Path) -> Any:
    (only,) = control.request(folder / "run", "ls")
    return only


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells us of."""
    deadline = time.monotonic() + dom0.PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {dom0.PATIENCE:.0f} s"
        time.sleep(0.1)


def prepared(folder: Path, known: set[int]) -> int:
    """Wait until a domain is prepared; return its number, which is none of those known."""
    eventually(lambda: bool(row(folder)["prepared"] == 1))
    (domid,) = guests() - known
    return domid


def guests() -> set[int]:
    return {domid for domid in dom0.domains() if domid}


def stages(folder: Path) -> set[str]:
    trace = control.request(folder / "run", "trace", name="www")
    return {stage["name"] for stage in trace["stages"]}


def test_the_prepared_domain_answers_again_and_again(tmp_path: Path) -> None:
    configure(tmp_path)
    with client(), daemon(tmp_path):
        for _ in range(3):
            domid = prepared(tmp_path, set())
            assert as_client(*PAGE) == "200"
            assert domid in guests(), "the very same domain"
            eventually(lambda: {"finish domain", "hand over"} <= stages(tmp_path))
            assert "build domain" not in stages(tmp_path)
            following = prepared(tmp_path, {domid})
            control.request(tmp_path / "run", "stop", name="www")
            eventually(lambda following=following: guests() == {following})  # type: ignore[misc]
        assert row(tmp_path)["summons"] == 3
    assert dom0.left() == []


def test_one_that_somebody_destroys_costs_nobody_anything(tmp_path: Path) -> None:
    configure(tmp_path)
    with client(), daemon(tmp_path):
        domid = prepared(tmp_path, set())
        xen = Xen()
        domain.destroy(xen, domid)
        xen.close()
        assert as_client(*PAGE) == "200"
        running = min(
            guests() - {domid}
        )  # the next to be prepared has a higher number, if it is there
        prepared(tmp_path, {running, domid})
        assert domid not in guests()
    assert dom0.left() == []


def test_what_a_killed_daemon_had_prepared_its_heir_ends(tmp_path: Path) -> None:
    configure(tmp_path)
    with client():
        with daemon(tmp_path) as killed:
            domid = prepared(tmp_path, set())
            killed.kill()
        assert guests() == {domid}
        with daemon(tmp_path):
            assert prepared(tmp_path, set()) != domid
            assert as_client(*PAGE) == "200"
    assert dom0.left() == []
