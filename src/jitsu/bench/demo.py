"""The main job, measured: a query, a boot, an answer, as the client's network card saw it.

A daemon runs in a network namespace of its own and serves two services with the same guest, one
with Synjitsu and one without. A client in another namespace sends a real DNS query and then runs a
real `curl`, which has been started beforehand and waits for its URL, so that its own start is not
measured. All four figures of a run are taken one after the other, so that they meet the same host:

- floor    a bare QEMU, executed as by hand, to its guest's first frame
- cold     from the DNS query to the first byte of the HTTP answer; no guest ran before
- warm     the same, the service awake
- without  the same as cold, with `handoff = "none"`. The client knows the guest's MAC address, as
           a router does that has reached the service before: its SYN goes out at once, and is lost.
"""

import hashlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
from pyroute2 import IPRoute

from jitsu.api import control
from jitsu.backends import qemu, qemu_accel
from jitsu.bench.capture import Capture, Seen
from jitsu.errors import ControlError, HostError
from jitsu.host.netns import CLIENT_PORT, UPLINK, TwoHosts, two_hosts
from jitsu.model import mac_of

CLIENT = IPv4Interface("10.77.0.100/24")
DIRECTORY = "10.77.0.1"
WITH, WITHOUT = "www", "plain"
ADDRESS_WITH, ADDRESS_WITHOUT = "10.77.0.10", "10.77.0.11"
PATIENCE = 10.0
"""Seconds until a request that is not answered is a failure."""
_START_PATIENCE = 60.0
"""Seconds until the daemon serves: Python loads slowly on a host that is busy."""
_PAUSE = 0.005
"""Seconds between two looks at what nothing tells us of."""

_CONFIG = """
[directory]
listen = ["{directory}:53"]
[network]
uplink = "{uplink}"
[host]
memory = "256MiB"
state = "{folder}/state"
run = "{folder}/run"
"""
_SERVICE = """
[[service]]
name = "{offer.name}"
dns = ["{offer.name}.jitsu.test"]
image = "{offer.image}"
address = "{offer.address}"
idle_after = 600
{offer.more}
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """A service of the demo's daemon; `more` are further lines of its configuration."""

    name: str
    address: str
    more: str = ""
    image: Path = field(default_factory=qemu_accel.hello_image)


@dataclass(frozen=True, slots=True)
class Request:
    """One query and one HTTP request: what came back, and what was seen of it."""

    status: int
    body: bytes
    seen: Seen
    connect: float
    """Milliseconds until curl was connected."""

    @property
    def milliseconds(self) -> float:
        """Return the time from the query to the first byte of the answer."""
        return (self.seen.first_byte - self.seen.query) * 1e3


@dataclass(slots=True)
class Result:
    """What was measured; each list has one entry a run, in milliseconds."""

    floor: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    trace: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        """Return the public form, figures as medians."""
        last = self.requests[-1]
        return {
            "backend": "qemu",
            "http_status": last.status,
            "body_sha256": hashlib.sha256(last.body).hexdigest(),
            "cold_ms": _median(self.cold),
            "without_synjitsu_ms": _median(self.without),
            "warm_ms": _median(self.warm),
            "floor_ms": _median(self.floor),
            "syn_retransmits": sum(request.seen.syn_retransmits for request in self.requests),
            "client_saw_rst": any(request.seen.resets for request in self.requests),
            "runs": len(self.cold),
        }


class Demo:
    """A client of a running daemon."""

    def __init__(self, hosts: TwoHosts, run: Path, capture: Capture) -> None:
        self.hosts = hosts
        self.run = run
        self._capture = capture
        self._floor = qemu_accel.floor("floor")

    def measure(self, result: Result, *, with_without: bool = True) -> None:
        """Do one run. Raises HostError when a request is not answered as it should be."""
        result.floor.append(self.floor())
        cold = self.cold(WITH, ADDRESS_WITH)
        result.trace = self._trace(cold.seen)
        warm = self.request(WITH)
        self.stop(WITH)
        result.cold.append(cold.milliseconds)
        result.warm.append(warm.milliseconds)
        result.requests += [cold, warm]
        if with_without:
            self._know_neighbour()
            result.without.append(self.request(WITHOUT).milliseconds)
            self.stop(WITHOUT)

    def floor(self) -> float:
        """Return the milliseconds that a bare guest takes to its first frame. Raises HostError."""
        with self.hosts.at(self.hosts.host):
            accel = qemu_accel.choose(self.run.parent / "state", None)
            return self._floor.first_frame(qemu.find(accel)) * 1e3

    def cold(self, service: str, address: str) -> Request:
        """Request a page of a service that sleeps, from a client that has never heard of it."""
        self._forget_neighbour(address)
        return self.request(service)

    def request(self, service: str) -> Request:
        """Ask the directory for a service, then the service for its page. Raises HostError."""
        name = f"{service}.jitsu.test"
        self._capture.drain()
        with self.hosts.at(self.hosts.client), _waiting_curl() as curl:
            address = _resolve(name)
            order = f'url = "http://{name}/"\nresolve = "{name}:80:{address}"\n'
            body, said = curl.communicate(order.encode(), timeout=2 * PATIENCE)
        *_, status, connect = said.decode().split() or ["", ""]
        if curl.returncode != 0 or status != "200":
            words = said.decode().strip()
            raise HostError(f"http://{name}/: curl exited with {curl.returncode}: {words}")
        return Request(int(status), body, self._capture.drain(), float(connect) * 1e3)

    def drain(self, seen: Seen) -> None:
        """Add what has come since a request was answered: the connection's last words."""
        self._capture.drain(seen)

    def stop(self, service: str) -> None:
        """Stop a service when its connections have ended: curl has left before their last words."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            rows = control.request(self.run, "ls")
            if not any(row["flows"] for row in rows if row["name"] == service):
                break
            time.sleep(_PAUSE)
        control.request(self.run, "stop", name=service)

    def _trace(self, seen: Seen) -> dict[str, Any]:
        """Return the daemon's waterfall of the last cold start, with what the client saw."""
        trace: dict[str, Any] = control.request(self.run, "trace", name=WITH)
        zero = seen.query

        def stage(name: str, start: float, end: float) -> dict[str, object]:
            at, took = round((start - zero) * 1e6), round((end - start) * 1e6)
            return {"name": name, "at_us": at, "took_us": took}

        shift = round((trace["started"] - zero) * 1e6)
        inside = [s | {"at_us": s["at_us"] + shift} for s in trace["stages"]]
        outside = [
            stage("query to answer", seen.query, seen.answer),
            stage("SYN to SYN-ACK", seen.syn, seen.syn_ack),
            stage("SYN-ACK to first byte", seen.syn_ack, seen.first_byte),
        ]
        stages = sorted(inside + outside, key=lambda s: (s["at_us"], s["took_us"]))
        total = round((seen.first_byte - zero) * 1e6)
        return trace | {"stages": stages, "total_us": total}

    def _forget_neighbour(self, address: str) -> None:
        with self.hosts.at(self.hosts.client), IPRoute() as ipr:
            (index,) = ipr.link_lookup(ifname=CLIENT_PORT)
            for entry in list(ipr.neigh("dump", ifindex=index)):
                if dict(entry["attrs"])["NDA_DST"] == address:
                    ipr.neigh("del", ifindex=index, dst=address)

    def _know_neighbour(self) -> None:
        with self.hosts.at(self.hosts.client), IPRoute() as ipr:
            (index,) = ipr.link_lookup(ifname=CLIENT_PORT)
            mac = mac_of(WITHOUT).hex(":")
            ipr.neigh("replace", ifindex=index, dst=ADDRESS_WITHOUT, lladdr=mac, state="reachable")


def offers() -> tuple[Offer, ...]:
    """Return the services of the demo: the same guest with Synjitsu and without."""
    return (
        Offer(WITH, ADDRESS_WITH),
        Offer(WITHOUT, ADDRESS_WITHOUT, 'handoff = "none"'),
    )


@contextmanager
def demo(services: Sequence[Offer] = ()) -> Iterator[Demo]:
    """Have a daemon and a client of it in namespaces of their own. Raises HostError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jitsu-demo-")))
        config = folder / "demo.toml"
        text = _CONFIG.format(directory=DIRECTORY, uplink=UPLINK, folder=folder)
        text += "".join(_SERVICE.format(offer=offer) for offer in services or offers())
        config.write_text(text)
        hosts = stack.enter_context(two_hosts(CLIENT))
        with hosts.at(hosts.host):
            stack.enter_context(daemon(config, folder / "run"))
        with hosts.at(hosts.client):
            capture = stack.enter_context(Capture(CLIENT_PORT))
        yield Demo(hosts, folder / "run", capture)


@contextmanager
def daemon(config: Path, run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `jitsu serve` in this namespace while the context is open.

    Raises HostError, with the daemon's own words, when it does not come up.
    """
    log = run.parent / "serve.log"
    command = [sys.executable, "-m", "jitsu", "serve", "-c", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output)
    try:
        _await(lambda: _answers(run) or process.poll() is not None, within=_START_PATIENCE)
        if process.poll() is not None:
            said = log.read_text().strip().removeprefix("jitsu: ")
            raise HostError(f"`jitsu serve` failed: {said}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(run: Path) -> bool:
    try:
        control.request(run, "counters")
    except ControlError:
        return False
    return True


@contextmanager
def _waiting_curl() -> Iterator[subprocess.Popen[bytes]]:
    """Have a curl that is loaded and waits for its URL on standard input."""
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(PATIENCE)]
    command += ["--write-out", "%{stderr}%{http_code} %{time_connect}", "--config", "-"]
    pipe = subprocess.PIPE
    try:
        curl = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    except FileNotFoundError as error:
        raise HostError("curl is not installed; install it") from error
    with curl:
        try:
            _await(lambda: _reads_standard_input(curl.pid))
            yield curl
        finally:
            curl.kill()


def _reads_standard_input(pid: int) -> bool:
    """Say whether the process is blocked in read(0, ...): see /proc/PID/syscall in proc(5)."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 ")
    except OSError:
        return True  # this kernel does not tell; the figures then hold curl's own start


def _resolve(name: str) -> IPv4Address:
    query = dns.message.make_query(name, dns.rdatatype.A)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.sendto(query.to_wire(), (DIRECTORY, 53))
        try:
            reply = dns.message.from_wire(client.recv(4096))
        except TimeoutError as error:
            raise HostError(f"the directory has not answered for {name}") from error
    addresses = [record.address for rrset in reply.answer for record in rrset]
    if not addresses:
        raise HostError(f"the directory knows no address of {name}: {reply.rcode()}")
    return IPv4Address(addresses[0])


def _await(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise HostError(f"nothing happened within {within:g} s")
        os.sched_yield()
        time.sleep(0.0005)


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3) if values else 0.0
