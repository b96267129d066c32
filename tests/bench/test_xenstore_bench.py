"""The benchmark of the store: its sums, its load, and one small round with whoever is to be had."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.store_client import daemon
from jitsu.bench import debian, vmstarts, xenstore
from jitsu.bench.xenstore import OCAML, OURS, C, Store, _start_row, turns
from jitsu.errors import HostError


def test_everybody_is_first_in_turn() -> None:
    stores = [Store(name, Path(), 0) for name in (OURS, C, OCAML)]
    first = [turns(stores, number)[0].name for number in range(6)]
    assert first == [OURS, C, OCAML] * 2
    assert all(set(turns(stores, number)) == set(stores) for number in range(3))


def test_what_is_measured_goes_before_all_else_and_nothing_does_afterwards() -> None:
    usual, before = os.sched_getscheduler(0), os.sched_getparam(0)
    with xenstore.before_all_else():
        policy = os.sched_getscheduler(0)
        say = "import os; print(os.sched_getscheduler(0))"
        child = subprocess.run([sys.executable, "-c", say], capture_output=True, check=True)
        assert int(child.stdout) == policy
        assert policy == (os.SCHED_FIFO if may_go_first() else usual)
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == (usual, before)


def may_go_first() -> bool:
    """Ask the kernel by way of a process that is soon gone."""
    ask = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True).returncode == 0


def seen(*seconds: float, eagain: int = 0) -> list[dict[str, float]]:
    return [{"seconds": one, "requests": 100, "eagain": eagain} for one in seconds]


def test_a_row_compares_rounds_with_their_like() -> None:
    """A round that was disturbed was disturbed for both."""
    rounds = {OURS: seen(1.0, 10.0, 1.0), OCAML: seen(2.0, 20.0, 2.0), C: seen(4.0, eagain=7)}
    row = _start_row(OURS, 200, rounds)
    assert (row["median"], row["p99"], row["floor"]) == (1.0, 10.0, 2.0)
    assert (row["ratio"], row["eagain"], row["us_per_request"]) == (0.5, 0, 10_000.0)
    assert row["wanted"] == 1.0
    assert "wanted" not in _start_row(OURS, 100, rounds)
    assert (_start_row(C, 200, rounds)["ratio"], _start_row(C, 200, rounds)["eagain"]) == (2.0, 7)


def test_the_load_is_what_it_says() -> None:
    works = (vmstarts.create, vmstarts.plug, vmstarts.console, vmstarts.remove)
    requests = [len(list(work(7))) for work in works]
    assert sum(requests) + 2 * len(works) == 48


def test_machines_start_and_go(tmp_path: Path) -> None:
    with daemon(tmp_path, state=False) as store, store.connect() as client:
        report = asyncio.run(vmstarts.run(str(store.socket), 20))
        assert (report["requests"], report["eagain"]) == (20 * 48, 0)
        assert client.ask(1, b"/local/domain\0") == b"0\0"
        assert client.ask(1, b"/vm\0") == b""


def test_what_apt_does_not_know() -> None:
    with pytest.raises(HostError, match=r"apt knows no package|apt-get|apt-cache"):
        debian.unpacked("no-such-package-ever")


@pytest.mark.slow
def test_a_small_round_with_debians_daemons(tmp_path: Path) -> None:
    try:
        debian.unpacked(*xenstore.PACKAGES)
    except HostError as error:
        pytest.skip(f"Debian's daemons cannot be had: {error}")
    for start in (xenstore._c, xenstore._ocaml, xenstore._ours):
        with start(tmp_path) as store:
            report = xenstore._start(store, 5)
            assert report["requests"] >= 5 * 48
            with store.connect() as client:
                xenstore._transaction(client, 1)
            pid = store.pid
        gone = subprocess.run(["kill", "-0", str(pid)], capture_output=True, check=False)
        assert gone.returncode != 0
