"""Guests in the daemon's store, by the link of their taps."""

import json
import os
import signal
import socket
from functools import partial

import pytest

from e2e.conftest import Lab
from e2e.test_main_job import WWW, eventually
from host.store_client import RawClient
from jitsu.model import mac_of
from jitsu.wire.xenstore import Op, join

OTHER = """
[[service]]
name = "other"
dns = ["other.jitsu.test"]
image = "hello.elf"
"""


def store(lab: Lab) -> RawClient:
    return RawClient(lab.run / "xenstored.sock")


def test_a_guest_says_in_the_store_that_it_is_ready(lab: Lab) -> None:
    with lab.serve(WWW), store(lab) as client:
        assert client.read(b"/local/domain/1") == b"!ENOENT\0"
        lab.ask("summon", "www")
        assert client.read(b"/conduit/www") == b"1"
        assert client.read(b"/local/domain/1/name") == b"www"
        eventually(lambda: client.read(b"/local/domain/1/data/ready") == b"1")
        assert 0 < int(client.read(b"/local/domain/1/data/boot_us")) < 10_000_000
        stats = json.loads(lab.curl("http://10.77.0.10/stats").stdout)
        assert stats["store"] == "ready"
        lab.ask("stop", "www")
        assert client.read(b"/local/domain/1") == b"!ENOENT\0"
        assert client.read(b"/conduit/www") == b"!ENOENT\0"


def test_each_guest_is_a_domain_of_its_own(lab: Lab) -> None:
    with lab.serve(WWW + OTHER), store(lab) as client:
        lab.ask("summon", "www")
        lab.ask("summon", "other")
        for domid in (1, 2):
            ready = b"/local/domain/%d/data/ready" % domid
            eventually(partial(lambda path: client.read(path) == b"1", ready))
        lab.ask("stop", "www")
        lab.ask("summon", "www")
        assert client.read(b"/conduit/www") == b"3"  # a number is not used again
        assert client.read(b"/conduit/other") == b"2"


def test_the_link_never_leaves_the_tap(lab: Lab) -> None:
    """Neither the LAN, nor the host, nor another guest sees a frame of a guest's store link."""
    with lab.serve(WWW + OTHER), store(lab) as client:
        lab.ask("summon", "other")
        eventually(lambda: client.read(b"/local/domain/1/data/ready") == b"1")
        with lab.hosts.at(lab.hosts.host):
            taps = [listener(name) for name in ("lan0", "jitsu0", "jitsu0-syn", "jitsu0-g1")]
        lab.ask("summon", "www")
        eventually(lambda: client.read(b"/local/domain/2/data/ready") == b"1")
        kinds = [types(tap, mac_of("www")) for tap in taps]
        assert 0x0806 in kinds[0], "the announcement at least is for all"
        assert all(0x88B5 not in seen for seen in kinds), kinds


def test_what_a_killed_daemon_left_in_the_store_is_gone(lab: Lab) -> None:
    with lab.serve(WWW):
        with store(lab) as client:
            lab.ask("summon", "www")
            assert client.write(b"/mine", b"kept") == b"OK\0"
        assert lab.process is not None
        os.kill(lab.process.pid, signal.SIGKILL)
        lab.process.wait()
    with lab.serve(WWW), store(lab) as client:
        assert client.read(b"/mine") == b"kept"
        assert client.read(b"/conduit") == b"!ENOENT\0"
        assert client.ask(Op.DIRECTORY, join(b"/local/domain")) == b""
        lab.ask("summon", "www")
        assert client.read(b"/conduit/www") == b"1"


def listener(interface: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    tap.bind((interface, 3))
    return tap


def types(tap: socket.socket, mac: bytes) -> set[int]:
    """Return the types of all frames to and from `mac` that have passed; close the listener."""
    found: set[int] = set()
    with tap:
        while True:
            try:
                frame = tap.recv(2048)
            except BlockingIOError:
                return found
            if mac in (frame[:6], frame[6:12]):
                found.add(int.from_bytes(frame[12:14]))


@pytest.mark.parametrize("handoff", ["splice", "replay"])
def test_a_guest_is_ready_when_it_says_so_in_the_store(lab: Lab, handoff: str) -> None:
    keyed = WWW + f'handoff = "{handoff}"\nready = "key:data/ready"\n'
    with lab.serve(keyed), store(lab) as client:
        assert json.loads(lab.curl("http://10.77.0.10/stats").stdout)["store"] == "ready"
        assert client.read(b"/local/domain/1/data/ready") == b"1"
        assert lab.row("www")["state"] == "awake"


def test_a_guest_that_never_says_so_is_not_ready(lab: Lab) -> None:
    keyed = WWW + 'handoff = "replay"\nready = "key:data/never"\nboot_timeout = 1.0\n'
    with lab.serve(keyed):
        failed = lab.curl("http://10.77.0.10/")
        assert failed.returncode == 7, "refused, when the time is over"
        assert "not ready within 1 s" in lab.row("www")["reason"]
