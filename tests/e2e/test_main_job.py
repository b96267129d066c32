"""The main job, with a real daemon, real guests and real clients."""

import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import pytest
from pyroute2 import IPRoute

from e2e.conftest import Lab
from jitsu.backends.qemu_accel import KVM
from jitsu.errors import ControlError
from jitsu.host.netns import CLIENT_PORT, UPLINK
from jitsu.model import Mac, mac_of
from jitsu.testing.peer import PORT, segment
from jitsu.wire import tcp

WWW = """
[[service]]
name = "www"
dns = ["www.jitsu.test"]
image = "hello.elf"
address = "10.77.0.10"
"""
QUIET = {"lo", "lan0"}
"""The interfaces of a host on which no daemon runs."""
IDLE = QUIET | {"jitsu0", "jitsu0-syn", "jitsu0-new"}
"""And on which one runs, but no guest: the bridge, Synjitsu's port, the tap that lies ready."""


def eventually(condition: Callable[[], bool], within: float = 15.0) -> None:
    """Wait for something that no event tells us of."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.02)


def only(things: Callable[[], list[int]]) -> int:
    """Return the only one, as soon as there is just one: a second look may find another."""
    found: list[int] = []

    def is_one() -> bool:
        found[:] = things()
        return len(found) == 1

    eventually(is_one)
    return found[0]


def stages(lab: Lab) -> set[str]:
    """Return the names of the stages of www's last summons."""
    return {stage["name"] for stage in lab.ask("trace", "www")["stages"]}


def test_the_demo_serves_the_first_request() -> None:
    command = [sys.executable, "-m", "jitsu", "demo", "--json", "--runs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["http_status"] == 200
    assert len(report["body_sha256"]) == 64
    assert report["syn_retransmits"] == 0
    assert report["client_saw_rst"] is False
    assert report["without_synjitsu_ms"] > 1000
    assert 0 < report["floor_ms"] < 1000
    assert report["warm_ms"] < report["cold_ms"] < 1000
    assert (report["backend"], report["runs"]) == ("qemu", 3)


def test_a_query_boots_and_idleness_stops(lab: Lab) -> None:
    with lab.serve(WWW + "idle_after = 1\n"):
        assert lab.row("www")["state"] == "asleep"
        dug = lab.client("dig", "@10.77.0.1", "www.jitsu.test", "+short")
        assert dug.stdout == "10.77.0.10\n"
        page = lab.curl("http://10.77.0.10/", "-w", "%{http_code}")
        assert page.returncode == 0, page.stderr
        assert page.stdout.endswith("200")
        assert lab.row("www")["summons"] == 1
        assert lab.ask("trace", "www")["cause"] == "dns"
        eventually(lambda: {"boot", "hand over"} <= stages(lab))
        eventually(lambda: lab.row("www")["state"] == "asleep")
        assert lab.guests() == []
        lab.ask("summon", "www")
    assert [line["event"] for line in lab.log()[-3:]] == ["stopping", "asleep", "stopped"]
    assert lab.interfaces() == QUIET


@pytest.mark.parametrize("cause", ["syn", "udp", "icmp"])
def test_a_packet_boots(lab: Lab, cause: str) -> None:
    with lab.serve(WWW):
        if cause == "syn":
            assert lab.curl("http://10.77.0.10/").returncode == 0
        elif cause == "icmp":
            assert lab.client("ping", "-c", "1", "-W", "10", "10.77.0.10").returncode == 0
        else:
            with lab.hosts.at(lab.hosts.client):
                client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with client:
                client.settimeout(10)
                client.sendto(b"are you there?", ("10.77.0.10", 7))
                assert client.recv(100) == b"are you there?"
        assert lab.ask("trace", "www")["cause"] == cause


def test_a_late_listener_gives_nobody_a_reset(lab: Lab) -> None:
    late = 'ready = "tcp:80"\ncmdline = "listen_delay_ms=300"\n'
    timed = ("http://10.77.0.10/", "-o", "/dev/null", "-w", "%{time_connect} %{time_total}")
    with lab.serve(WWW + late + 'handoff = "replay"\n'):
        with lab.clean_wire():
            page = lab.curl(*timed)
        assert page.returncode == 0, page.stderr
        connected, total = map(float, page.stdout.split())
        assert 0.3 < connected <= total, "held"
    with lab.serve(WWW + late.replace("300", "900")):
        with lab.clean_wire():
            page = lab.curl(*timed)
        assert page.returncode == 0, page.stderr
        connected, total = map(float, page.stdout.split())
        assert connected < 0.9 < total, "answered at once, and kept"


def test_a_probe_does_not_keep_its_guest(lab: Lab) -> None:
    with lab.serve(WWW + 'ready = "tcp:80"\nidle_after = 1\n'):
        assert lab.ask("summon", "www")["flows"] == 0
        eventually(lambda: lab.row("www")["state"] == "asleep")


def test_an_open_connection_keeps_its_guest(lab: Lab) -> None:
    with lab.serve(WWW + "idle_after = 1\n"):
        with lab.hosts.at(lab.hosts.client):
            client = socket.create_connection(("10.77.0.10", 80), 10)
        with client:
            eventually(lambda: lab.row("www")["flows"] == 1)
            began = time.monotonic()
            eventually(lambda: time.monotonic() - began > 3.5)
            assert lab.row("www")["state"] == "awake"
            client.sendall(b"GET / HTTP/1.1\r\nHost: www\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        eventually(lambda: lab.row("www")["state"] == "asleep")


def test_a_silent_guest_fails_and_its_client_is_told(lab: Lab) -> None:
    with lab.serve(WWW + 'cmdline = "silent=1"\nboot_timeout = 0.5\n'):
        page = lab.curl("http://10.77.0.10/")
        assert page.returncode == 56, "connection reset by peer"
        assert lab.row("www")["reason"] == "not ready within 0.5 s"
        dug = lab.client("dig", "@10.77.0.1", "www.jitsu.test", "+tries=1")
        assert "SERVFAIL" in dug.stdout
        eventually(lambda: lab.guests() == [])
        eventually(lambda: lab.interfaces() == IDLE)
        with pytest.raises(ControlError, match="not ready within"):
            lab.ask("summon", "www")
        assert lab.ask("trace", "www")["failed"]["reason"] == "not ready within 0.5 s"
        done = lab.jitsu("trace", "www")
        assert re.search(r"boot \d+: failed after \d{3,} ms: not ready within 0.5 s\n", done)
        assert lab.jitsu("ls").endswith("\nwww: not ready within 0.5 s\n")


@pytest.mark.parametrize("ready", ["frame", "delay:0"])
def test_a_guest_that_cannot_join_the_bridge_says_why(lab: Lab, ready: str) -> None:
    other = WWW.replace("www", "api").replace("0.10", "0.11")
    with lab.serve(WWW + f'ready = "{ready}"\n' + other):
        with lab.hosts.at(lab.hosts.host), IPRoute() as ipr:
            ipr.link("add", ifname="jitsu0-g0", kind="bridge")
        lab.client("dig", "@10.77.0.1", "www.jitsu.test")
        eventually(lambda: lab.row("www")["reason"] == "rtnetlink: File exists")
        assert lab.ask("summon", "api")["state"] == "awake"
    assert lab.interfaces() == QUIET | {"jitsu0-g0"}


def test_a_guest_that_is_killed_while_it_boots(lab: Lab) -> None:
    with lab.serve(WWW + 'cmdline = "silent=1"\nboot_timeout = 30\n'):
        lab.client("dig", "@10.77.0.1", "www.jitsu.test")
        pid = only(lab.guests)
        os.kill(pid, signal.SIGKILL)
        again = only(lambda: [guest for guest in lab.guests() if guest != pid])
        assert lab.row("www")["reason"] == "booted again: QEMU was killed by signal 9"
        os.kill(again, signal.SIGKILL)
        eventually(lambda: any(line["event"] == "failed" for line in lab.log()))
        failed = next(line for line in lab.log() if line["event"] == "failed")
        assert failed["service"] == "www"
        assert "signal 9" in lab.row("www")["reason"]
        eventually(lambda: lab.interfaces() == IDLE)


def test_a_client_whose_guest_dies_while_it_boots_is_served_by_the_next(lab: Lab) -> None:
    with lab.serve(WWW + 'cmdline = "listen_delay_ms=1500"\n'):
        with lab.hosts.at(lab.hosts.client):
            client = socket.create_connection(("10.77.0.10", 80), 10)
        with client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: www\r\n\r\n")
            os.kill(only(lab.guests), signal.SIGKILL)
            client.settimeout(10)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert lab.row("www")["summons"] == 2


def test_a_guest_that_dies_awake_is_summoned_again(lab: Lab) -> None:
    with lab.serve(WWW):
        assert lab.curl("http://10.77.0.10/").returncode == 0
        # It answers before it tells that it has imported all; until then it would be booted again.
        eventually(lambda: lab.row("www")["state"] == "awake")
        os.kill(only(lab.guests), signal.SIGKILL)
        eventually(lambda: lab.row("www")["state"] == "asleep")  # after a short back-off
        assert lab.curl("http://10.77.0.10/").returncode == 0
        assert lab.row("www")["summons"] == 2


def test_a_guest_that_crashes_says_so(lab: Lab) -> None:
    with lab.serve(WWW + 'cmdline = "panic_ms=100"\n'):
        lab.client("dig", "@10.77.0.1", "www.jitsu.test")
        why = "the guest exited with 255, see its log"
        eventually(lambda: lab.row("www")["reason"] == why)
        assert "jitsu: trap" in lab.ask("logs", "www")


def test_a_flood_of_syns_leaves_room_for_a_client(lab: Lab) -> None:
    with lab.serve(WWW + WWW.replace("www", "api").replace("0.10", "0.11")):
        with lab.hosts.at(lab.hosts.client):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            wire.bind((CLIENT_PORT, 0))
        me = Mac(b"\x06flood")
        with wire:
            for number in range(100_000):
                name, last = ("www", 10) if number % 2 else ("api", 11)
                to = (mac_of(name), IPv4Address(f"10.77.0.{last}"))
                source = (me, IPv4Address(0x0A4D0000 | 128 + number % 100))
                syn = tcp.Segment(number % 60000, PORT, number, 0, tcp.Flags.SYN, 1000)
                wire.send(segment(source, to, syn))
        assert lab.curl("http://10.77.0.10/").returncode == 0
        assert lab.curl("http://10.77.0.11/").returncode == 0
        assert (lab.row("www")["summons"], lab.row("api")["summons"]) == (1, 1)
        assert lab.process is not None
        status = Path(f"/proc/{lab.process.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert resident
        assert int(resident[1]) < 256 << 10, "memory is bounded"


def test_a_client_is_answered_in_the_middle_of_a_flood(lab: Lab) -> None:
    with lab.serve(WWW + 'cmdline = "listen_delay_ms=4000"\n'):
        with lab.hosts.at(lab.hosts.client):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            wire.bind((CLIENT_PORT, 0))
        with wire:
            for number in range(6000):
                source = (Mac(b"\x06flood"), IPv4Address(0x0A4D0000 | 128 + number % 100))
                syn = tcp.Segment(1 + number, 80, number, 0, tcp.Flags.SYN, 1000)
                wire.send(segment(source, (mac_of("www"), IPv4Address("10.77.0.10")), syn))
        with lab.hosts.at(lab.hosts.client):
            client = socket.create_connection(("10.77.0.10", 80), 10)
        with client:
            assert lab.row("www")["state"] == "booting", "nobody else can have answered"
            client.settimeout(20)
            client.sendall(b"GET / HTTP/1.1\r\nHost: www\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        counters = lab.ask("counters")
        assert counters["opened"] < 6000, "not all of them were"


def test_malformed_frames_and_queries_change_nothing(lab: Lab) -> None:
    chance = Random(1)
    with lab.serve(WWW):
        with lab.hosts.at(lab.hosts.client):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            wire.bind((CLIENT_PORT, 0))
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        good = segment(
            (Mac(b"\x06abcde"), IPv4Address("10.77.0.77")),
            (mac_of("www"), IPv4Address("10.77.0.10")),
            tcp.Segment(1, 80, 1, 0, tcp.Flags.ACK, 1),
        )
        with wire, asking:
            for _ in range(20_000):
                frame = bytearray(good[: chance.randint(14, len(good))])
                frame[chance.randrange(12, len(frame))] = chance.randrange(256)
                wire.send(frame)
                asking.sendto(chance.randbytes(chance.randrange(60)), ("10.77.0.1", 53))
        assert lab.ask("counters")["malformed"] > 0
        dug = lab.client("dig", "@10.77.0.1", "www.jitsu.test", "+short")
        assert dug.stdout == "10.77.0.10\n"
        assert lab.curl("http://10.77.0.10/").returncode == 0


def test_a_killed_daemon_leaves_what_its_heir_cleans_up(lab: Lab) -> None:
    with lab.serve(WWW):
        assert lab.curl("http://10.77.0.10/").returncode == 0
        (orphan,) = lab.guests()
        assert lab.process is not None
        lab.process.kill()
        lab.process.wait()
    assert lab.guests() == [orphan]
    with lab.serve(WWW):
        assert lab.guests() == []
        assert lab.curl("http://10.77.0.10/").returncode == 0
    assert lab.guests() == []
    assert lab.interfaces() == QUIET


def test_a_bridge_that_was_there_is_left_as_it_was_by_a_killed_daemons_heir(lab: Lab) -> None:
    def found() -> tuple[set[str], int | None]:
        """Return the bridge's addresses, and of which bridge the uplink is a port."""
        with lab.hosts.at(lab.hosts.host), IPRoute() as ipr:
            (index,) = ipr.link_lookup(ifname="jitsu0")
            dump = ipr.addr("dump", index=index, family=socket.AF_INET)
            (uplink,) = ipr.link("get", ifname=UPLINK)
            addresses = {dict(address["attrs"])["IFA_ADDRESS"] for address in dump}
            return addresses, dict(uplink["attrs"]).get("IFLA_MASTER")

    with lab.hosts.at(lab.hosts.host), IPRoute() as ipr:
        ipr.link("add", ifname="jitsu0", kind="bridge", br_forward_delay=0)
        ipr.addr(
            "add", index=ipr.link_lookup(ifname="jitsu0")[0], address="192.0.2.1", prefixlen=24
        )
    before = found()
    with lab.serve(WWW):
        assert lab.process is not None
        lab.process.kill()
        lab.process.wait()
    assert "10.77.0.1" in found()[0]
    with lab.serve(WWW):
        assert lab.curl("http://10.77.0.10/").returncode == 0
    assert found() == before
    assert lab.interfaces() == QUIET | {"jitsu0"}


@contextmanager
def starting(lab: Lab) -> Iterator[subprocess.Popen[bytes]]:
    """Start a daemon that has not set up anything yet, nor measured the accelerators."""
    shutil.rmtree(lab.folder / "state")
    config = lab.folder / "lab.toml"
    config.write_text(
        f'[network]\nuplink = "{UPLINK}"\n'
        f'[host]\nrun = "{lab.run}"\nstate = "{lab.folder}/state"\n{WWW}'
    )
    command = [sys.executable, "-m", "jitsu", "serve", "-c", str(config)]
    with lab.hosts.at(lab.hosts.host), subprocess.Popen(command) as process:
        try:
            eventually(lambda: (lab.run / "pid").exists())
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_daemon_that_is_told_to_end_as_it_starts_leaves_nothing(
    lab: Lab, number: signal.Signals
) -> None:
    with starting(lab) as process:
        process.send_signal(number)
        assert process.wait(20) == 0
    assert lab.guests() == []
    assert lab.interfaces() == QUIET


def test_a_daemon_that_is_killed_as_it_starts_leaves_what_its_heir_cleans_up(lab: Lab) -> None:
    """The guests that it measures the accelerator with are guests, too."""
    if not os.access(KVM, os.R_OK | os.W_OK):
        pytest.skip("there is nothing to measure")

    def caught() -> bool:
        """Stop the daemon; say whether a guest runs just now."""
        process.send_signal(signal.SIGSTOP)
        is_there = lab.guests() != []
        if not is_there:
            process.send_signal(signal.SIGCONT)
        return is_there

    with starting(lab) as process:
        eventually(caught)
        process.kill()
    assert len(lab.guests()) == 1
    with lab.serve(WWW):
        assert lab.guests() == []
    assert lab.interfaces() == QUIET


def test_a_daemon_whose_terminal_goes_leaves_nothing(lab: Lab) -> None:
    with lab.serve(WWW):
        assert lab.ask("summon", "www")["state"] == "awake"
        assert lab.process is not None
        lab.process.send_signal(signal.SIGHUP)
        assert lab.process.wait(20) == 0
    assert lab.guests() == []
    assert lab.interfaces() == QUIET


def test_a_daemon_whose_port_is_removed_ends_and_says_so(lab: Lab) -> None:
    with lab.serve(WWW):
        assert lab.ask("summon", "www")["state"] == "awake"
        with lab.hosts.at(lab.hosts.host), IPRoute() as ipr:
            ipr.link("del", index=ipr.link_lookup(ifname="jitsu0-syn")[0])
        assert lab.process is not None
        assert lab.process.wait(20) == 1
    said = (lab.folder / "serve.log").read_text().splitlines()[-1]
    assert said.startswith("jitsu: the network has gone: jitsu0-syn: ")
    assert lab.guests() == []
    assert lab.interfaces() == QUIET


def test_a_daemon_that_has_no_descriptor_left_lives(lab: Lab) -> None:
    """Wherever they run out on the way: the boot fails, the guests that run are not harmed."""
    other = WWW.replace("www", "api").replace("0.10", "0.11")
    with (
        lab.serve(WWW + other),
        socket.socket(socket.AF_UNIX) as operator,
        operator.makefile("r") as said,
    ):
        assert lab.process is not None
        pid, limit = lab.process.pid, resource.RLIMIT_NOFILE
        assert lab.ask("summon", "api")["state"] == "awake"
        operator.connect(str(lab.run / "control"))
        operator.sendall(b'{"verb": "counters"}\n')
        assert "ok" in json.loads(said.readline())
        before = resource.prlimit(pid, limit)
        assert before[0] == before[1], "it takes what it may"
        summoned = False
        for count in range(16):
            used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208
            free = (number for number in itertools.count() if number not in used)
            allowed = next(itertools.islice(free, count, None))
            resource.prlimit(pid, limit, (allowed, before[1]))
            operator.sendall(b'{"verb": "summon", "name": "www"}\n')
            summoned = "ok" in json.loads(said.readline())
            resource.prlimit(pid, limit, before)
            assert lab.ask("stop", "www")["state"] != "booting"
        assert summoned, "the last had enough"
        assert lab.row("api")["state"] == "awake"
        assert (lab.row("api")["summons"], len(lab.guests())) == (1, 1)
    assert lab.interfaces() == QUIET


def test_a_daemon_that_is_stopped_in_the_middle_of_a_boot_leaves_nothing(lab: Lab) -> None:
    with lab.serve(WWW + 'cmdline = "silent=1"\nboot_timeout = 30\n'):
        lab.client("dig", "@10.77.0.1", "www.jitsu.test")
        assert only(lab.guests)
    assert lab.guests() == []
    assert lab.interfaces() == QUIET


def test_a_second_daemon_in_the_same_folder_is_refused(lab: Lab) -> None:
    with lab.serve(WWW):
        command = [sys.executable, "-m", "jitsu", "serve", "-c", str(lab.folder / "lab.toml")]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert second.returncode == 1
        assert "stop it, or: a second one needs" in second.stderr
        assert lab.curl("http://10.77.0.10/").returncode == 0


def test_a_second_daemon_on_the_same_bridge_is_refused_and_touches_nothing(lab: Lab) -> None:
    with lab.serve(WWW):
        before = lab.interfaces(), lab.rules()
        other = lab.folder / "other.toml"
        text = (lab.folder / "lab.toml").read_text()
        other.write_text(text.replace(str(lab.run), f"{lab.folder}/elsewhere"))
        command = [sys.executable, "-m", "jitsu", "serve", "-c", str(other)]
        with lab.hosts.at(lab.hosts.host):
            second = subprocess.run(
                command, capture_output=True, text=True, timeout=20, check=False
            )
        assert second.returncode == 1
        assert second.stderr.startswith("jitsu: bridge jitsu0: another daemon")
        assert (lab.interfaces(), lab.rules()) == before
        assert lab.curl("http://10.77.0.10/").returncode == 0


def test_without_qemu_nothing_starts(lab: Lab) -> None:
    config = lab.folder / "lab.toml"
    config.write_text(f'[host]\nrun = "{lab.run}"\nstate = "{lab.run}"\n{WWW}')
    command = [sys.executable, "-m", "jitsu", "serve", "-c", str(config)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=False, env={"PATH": "/nowhere"}
    )
    assert done.returncode == 1
    assert "install qemu-system-x86" in done.stderr
    assert lab.interfaces() == QUIET
