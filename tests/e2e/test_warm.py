"""Prepared guests: there before anybody asks, and the very ones that answer."""

import json
import os
import shutil
import signal
from functools import partial

import pytest

from e2e.conftest import Lab
from e2e.test_main_job import QUIET, WWW, eventually, only, stages
from jitsu.backends.qemu_accel import hello_image

URL = "http://10.77.0.10/stats"
WARM = WWW + "warm = 1\n"
REPLAY = WARM + 'handoff = "replay"\n'


def has(lab: Lab, state: str, prepared: int) -> bool:
    row = lab.row("www")
    return (row["state"], row["prepared"]) == (state, prepared)


@pytest.mark.parametrize("service", [WARM, REPLAY])
def test_the_prepared_guest_answers_again_and_again(lab: Lab, service: str) -> None:
    with lab.serve(service):
        for _ in range(4):
            eventually(partial(has, lab, "asleep", 1))
            (prepared,) = lab.guests()
            with lab.clean_wire():
                stats = lab.curl(URL)
            assert stats.returncode == 0, stats.stderr
            assert json.loads(stats.stdout)["requests"] == 1, "it has served nobody before"
            eventually(partial(has, lab, "awake", 1))
            first, second = sorted(lab.guests(), key=lambda pid: pid != prepared)
            assert first == prepared, "the very same process"
            assert second != prepared, "and the next is there"
            assert {"plug", "let it run"} <= stages(lab)
            assert lab.ask("stop", "www")["state"] == "asleep"
        assert lab.row("www")["summons"] == 4
    assert lab.guests() == []
    eventually(lambda: lab.interfaces() == QUIET)
    assert "booted cold" not in {line["event"] for line in lab.log()}


def test_one_that_is_killed_is_replaced_and_nobody_waits_for_it(lab: Lab) -> None:
    with lab.serve(WARM):
        eventually(partial(has, lab, "asleep", 1))
        (prepared,) = lab.guests()
        os.kill(prepared, signal.SIGKILL)
        assert json.loads(lab.curl(URL).stdout)["requests"] == 1
        eventually(partial(has, lab, "awake", 1))
        assert prepared not in lab.guests()
        assert lab.ask("stop", "www")["state"] == "asleep"
        assert len(lab.guests()) == 1


def test_one_gives_way_to_a_service_that_has_none(lab: Lab) -> None:
    other = WWW.replace("www", "two").replace("10.77.0.10", "10.77.0.11")
    with lab.serve(WARM + other, host='memory = "16MiB"'):
        eventually(partial(has, lab, "asleep", 1))
        (prepared,) = lab.guests()
        with lab.clean_wire():
            assert lab.curl("http://10.77.0.11/stats").returncode == 0
        assert prepared not in lab.guests()
        assert has(lab, "asleep", 0)
        lab.ask("stop", "two")
        eventually(partial(has, lab, "asleep", 1))
        assert only(lab.guests) != prepared
        assert lab.curl(URL).returncode == 0


def test_what_a_killed_daemon_had_prepared_its_heir_ends(lab: Lab) -> None:
    with lab.serve(WARM):
        eventually(partial(has, lab, "asleep", 1))
        before = lab.guests()
        assert lab.process is not None
        os.kill(lab.process.pid, signal.SIGKILL)
        lab.process.wait()
    assert lab.guests() == before
    with lab.serve(WARM):
        eventually(partial(has, lab, "asleep", 1))
        assert len(lab.guests()) == 1
        assert lab.guests() != before
    assert lab.guests() == []


def test_what_cannot_be_prepared_costs_the_service_nothing(lab: Lab) -> None:
    image = lab.folder / "www.elf"
    shutil.copy(hello_image(), image)
    with lab.serve(WARM.replace("hello.elf", "www.elf")):
        eventually(partial(has, lab, "asleep", 1))
        image.unlink()
        assert json.loads(lab.curl(URL).stdout)["requests"] == 1
        eventually(lambda: "not prepared" in {line["event"] for line in lab.log()})
        assert json.loads(lab.curl(URL).stdout)["requests"] == 2
        assert has(lab, "awake", 0)
