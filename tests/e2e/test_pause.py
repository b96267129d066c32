"""A guest that is paused when nobody uses it: the same one answers when somebody does."""

import json
import os
import signal
import socket
from functools import partial

from e2e.conftest import Lab
from e2e.test_main_job import IDLE, QUIET, WWW, eventually, stages

URL = "http://10.77.0.10/stats"
REQUEST = b"GET /stats HTTP/1.1\r\nHost: www\r\n\r\n"
PAUSES = WWW + 'stop = "pause"\nidle_after = 1\n'


def is_in(lab: Lab, state: str) -> bool:
    return bool(lab.row("www")["state"] == state)


def test_the_same_guest_answers_again_and_again(lab: Lab) -> None:
    with lab.serve(PAUSES):
        served, first = [], lab.guests()
        for _ in range(4):
            stats = lab.curl(URL)
            assert stats.returncode == 0, stats.stderr
            served.append(json.loads(stats.stdout)["requests"])
            first = first or lab.guests()
            eventually(partial(is_in, lab, "paused"))
            assert len(first) == 1
            assert lab.guests() == first, "it is there, but does not run"
        assert served == sorted(set(served)), "it went on counting"
        row = lab.row("www")
        assert row["summons"] == 4
        assert "resume" in stages(lab)
        assert lab.client("ping", "-c", "1", "-W", "5", "10.77.0.10").returncode == 0
        eventually(partial(is_in, lab, "paused"))
        assert lab.client("dig", "+short", "@10.77.0.1", "www.jitsu.test").stdout == "10.77.0.10\n"
        assert lab.guests() == first
        eventually(partial(is_in, lab, "paused"))
        assert lab.ask("stop", "www")["state"] == "asleep"
        assert lab.guests() == []
        eventually(lambda: lab.interfaces() == IDLE)
        assert json.loads(lab.curl(URL).stdout)["requests"] == 1, "another one"
    assert lab.guests() == []
    eventually(lambda: lab.interfaces() == QUIET)


def test_an_open_connection_outlives_the_pause(lab: Lab) -> None:
    with lab.serve(PAUSES), lab.hosts.at(lab.hosts.client):
        with socket.create_connection(("10.77.0.10", 80), timeout=10) as client:
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            eventually(partial(is_in, lab, "awake"))
            assert lab.ask("stop", "www")["state"] == "paused"
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            eventually(partial(is_in, lab, "awake"))
            assert lab.ask("stop", "www")["state"] == "paused"
        # The end of the connection is the guest's, too.
        eventually(lambda: lab.row("www")["summons"] == 3)
        eventually(partial(is_in, lab, "paused"))


def test_a_paused_guest_ends_with_its_daemon(lab: Lab) -> None:
    with lab.serve(PAUSES):
        lab.ask("summon", "www")
        assert lab.ask("stop", "www")["state"] == "paused"
        assert len(lab.guests()) == 1
    assert lab.guests() == []
    with lab.serve(PAUSES):
        lab.ask("summon", "www")
        lab.ask("stop", "www")
        assert lab.process is not None
        os.kill(lab.process.pid, signal.SIGKILL)
        lab.process.wait()
    with lab.serve(PAUSES):
        assert lab.guests() == [], "its heir has ended it"
        assert is_in(lab, "asleep")
        assert lab.curl(URL).returncode == 0


def test_a_paused_guest_that_is_killed_is_asleep(lab: Lab) -> None:
    with lab.serve(PAUSES):
        lab.ask("summon", "www")
        lab.ask("stop", "www")
        (guest,) = lab.guests()
        os.kill(guest, signal.SIGKILL)
        eventually(partial(is_in, lab, "asleep"))
        assert json.loads(lab.curl(URL).stdout)["requests"] == 1
