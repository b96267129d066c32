"""How many DNS queries a second the directory answers, and how soon, beside Debian's dnsmasq.

Both serve one A record on 127.0.0.1 and take turns under the same load, so that whatever else the
machine does hits both. Throughput is dnsperf's, latency is that of single queries one after the
other. `python -m jitsu.bench.dns` is our server alone, in a process of its own as dnsmasq is.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median, quantiles

import dns.message
import uvloop

from jitsu.core.directory import Directory, Effect, Forwarded, Query, Respond, StateChanged
from jitsu.errors import HostError
from jitsu.host.dns import DnsServer
from jitsu.model import DirectoryConfig, Endpoint, Mac, Name, Service, State

LOCALHOST = IPv4Address("127.0.0.1")
SERVICE = Service(
    name=Name("www"),
    dns=("www.jitsu.test",),
    image="",
    address=IPv4Address("10.77.0.10"),
    mac=Mac(bytes.fromhex("020000000001")),
)
START_TRIES, START_WAIT = 50, 0.1
"""How often, and how long each, in seconds, a server that starts is asked."""
RATIO_WANTED = 0.7
"""The part of dnsmasq's throughput that the directory has to reach."""


def run(quick: bool) -> list[dict[str, object]]:
    """Measure both servers. Raises HostError if a program is missing or does not work."""
    rounds, seconds, queries = (5, 2, 1000) if quick else (9, 5, 9000)
    dnsperf = _program("dnsperf", "dnsperf")
    rates: dict[str, list[float]] = {"jitsu": [], "dnsmasq": []}
    latencies: dict[str, list[float]] = {"jitsu": [], "dnsmasq": []}
    with ExitStack() as stack:
        ports = {
            "jitsu": stack.enter_context(_jitsu()),
            "dnsmasq": stack.enter_context(_dnsmasq()),
        }
        for number in range(rounds):
            # Who goes first has the better or the worse of it: take turns at that, too.
            for name in sorted(ports, reverse=bool(number % 2)):
                rates[name].append(_throughput(dnsperf, ports[name], seconds))
                latencies[name] += _latencies(ports[name], queries // rounds)
    return [*_rate_rows(rates), *_latency_rows(latencies)]


def _rate_rows(rates: dict[str, list[float]]) -> list[dict[str, object]]:
    """Sum up throughput; its tail, `p99`, is the slowest round.

    The ratio is the median of the rounds' ratios: what disturbs a round disturbs both halves of it.
    """
    rounds = list(zip(rates["jitsu"], rates["dnsmasq"], strict=True))
    ratios = {"jitsu": median(ours / theirs for ours, theirs in rounds), "dnsmasq": 1.0}
    floor = median(rates["dnsmasq"])
    return [
        {
            "what": f"{name}: DNS throughput",
            "n": len(values),
            "median": round(median(values)),
            "p99": round(min(values)),
            "unit": "queries/s",
            "floor": round(floor),
            "ratio": round(ratios[name], 3),
            "wanted": RATIO_WANTED,
        }
        for name, values in rates.items()
    ]


def _latency_rows(latencies: dict[str, list[float]]) -> list[dict[str, object]]:
    """Sum up the time from query to answer."""
    floor = median(latencies["dnsmasq"])
    return [
        {
            "what": f"{name}: DNS latency",
            "n": len(values),
            "median": round(median(values) * 1e6, 1),
            "p99": round(quantiles(values, n=100)[98] * 1e6, 1),
            "unit": "us",
            "floor": round(floor * 1e6, 1),
            "ratio": round(median(values) / floor, 3),
        }
        for name, values in latencies.items()
    ]


def _program(name: str, package: str) -> str:
    """Find a program, also where only root looks. Raises HostError."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise HostError(f"{name} is not installed; `apt-get install {package}` brings it")
    return path


@contextmanager
def _jitsu() -> Iterator[int]:
    """Run our server in a process of its own; yield its port."""
    with _running([sys.executable, "-m", "jitsu.bench.dns"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise HostError("the directory did not start; its error is above")
        yield int(line)


@contextmanager
def _dnsmasq() -> Iterator[int]:
    """Run dnsmasq, with nothing in it but our record; yield its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((str(LOCALHOST), 0))
        port = free.getsockname()[1]
    argv = dnsmasq_argv(_program("dnsmasq", "dnsmasq-base"), port)
    with _running(argv, stdout=None) as process:
        _await_answer("dnsmasq", process, port)
        yield port


def dnsmasq_argv(program: str, port: int) -> list[str]:
    """Return the command line of a dnsmasq that touches nothing of the host."""
    return [
        program,
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        f"--port={port}",
        f"--listen-address={LOCALHOST}",
        "--bind-interfaces",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=10000",
        "--local-ttl=60",
        f"--host-record={SERVICE.dns[0]},{SERVICE.address}",
    ]


@contextmanager
def _running(argv: list[str], stdout: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the context is open."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_answer(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a server answers. Raises HostError if it does not."""
    with _client(port) as client:
        for _ in range(START_TRIES):
            if process.poll() is not None:
                break
            try:
                client.send(_query())
                client.recv(512)
            except ConnectionRefusedError:
                time.sleep(START_WAIT)
            except TimeoutError:
                continue
            else:
                return
    raise HostError(f"{name} does not answer on port {port}; its own error is above")


def _query() -> bytes:
    return dns.message.make_query(SERVICE.dns[0], "A").to_wire()


def _client(port: int) -> socket.socket:
    """Return a socket that talks to a server."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(START_WAIT)
    client.connect((str(LOCALHOST), port))
    return client


def _latencies(port: int, queries: int) -> list[float]:
    """Time single queries, in seconds. Raises HostError if one is lost."""
    query, times = _query(), []
    with _client(port) as client:
        client.settimeout(2)
        for _ in range(queries):
            begin = time.perf_counter()
            try:
                client.send(query)
                client.recv(512)
            except OSError as error:
                raise HostError(f"no answer from port {port}: {error}") from error
            times.append(time.perf_counter() - begin)
    return times


def _throughput(dnsperf: str, port: int, seconds: int) -> float:
    """Return what dnsperf measures in queries a second. Raises HostError if answers are wrong."""
    with tempfile.NamedTemporaryFile("w", suffix=".dnsperf") as queries:
        Path(queries.name).write_text(f"{SERVICE.dns[0]} A\n")
        argv = [
            dnsperf,
            "-s",
            str(LOCALHOST),
            "-p",
            str(port),
            "-d",
            queries.name,
            "-l",
            str(seconds),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return parse_dnsperf(done.stdout, done.stderr)


def parse_dnsperf(report: str, errors: str = "") -> float:
    """Read the rate in dnsperf's report. Raises HostError if there is none, or not all was well."""
    rate = re.search(r"Queries per second:\s+([\d.]+)", report)
    good = re.search(r"Response codes:\s+NOERROR \d+ \(100\.00%\)", report)
    if rate is None or good is None:
        raise HostError(f"dnsperf failed: {(errors or report).strip()}")
    return float(rate[1])


async def _serve() -> None:
    """Serve the record of an awake service for ever, and say on which port."""
    listen = (Endpoint(LOCALHOST, 0),)
    config = DirectoryConfig(listen=listen, summon_from=(IPv4Network("127.0.0.0/8"),))
    directory = Directory(config, [SERVICE], serial=1)
    loop = asyncio.get_running_loop()

    def perform(effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Respond), effect
            server.respond(effect.client, effect.data)

    def deliver(event: Query | Forwarded) -> None:
        perform(directory.handle(event, loop.time()))

    perform(directory.handle(StateChanged(SERVICE.name, State.AWAKE), loop.time()))
    async with DnsServer(listen, prepared=directory.answer_prepared, deliver=deliver) as server:
        sys.stdout.write(f"{server.endpoints[0].port}\n")
        sys.stdout.flush()
        await loop.create_future()


if __name__ == "__main__":
    uvloop.run(_serve())
