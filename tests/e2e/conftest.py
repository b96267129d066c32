"""A host with a real daemon and a client, in namespaces of their own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from jitsu.api import control
from jitsu.backends.qemu_accel import choose, hello_image
from jitsu.bench.capture import Capture
from jitsu.bench.demo import CLIENT, DIRECTORY, daemon
from jitsu.host.forkserver import CONTROL_FD
from jitsu.host.netns import CLIENT_PORT, UPLINK, TwoHosts, two_hosts

RTO_FIRST, RTO_MIN = 1.0, 0.2
"""Seconds until a SYN and until data are sent again, at the soonest (RFC 6298; Linux)."""
NEEDED = ("qemu-system-x86_64", "curl", "dig", "nft")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    reason = ""
    if os.geteuid() != 0:
        reason = "needs root"
    elif not os.access("/dev/net/tun", os.W_OK):
        reason = "needs /dev/net/tun"
    elif missing:
        reason = f"not installed: {', '.join(missing)}"
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.host)
            item.add_marker(pytest.mark.qemu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Lab:
    """Two hosts; on one of them a daemon may run."""

    hosts: TwoHosts
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @contextmanager
    def serve(self, services: str, host: str = "", network: str = "") -> Iterator[None]:
        """Have a daemon serve `services`, the [[service]] part of a configuration."""
        config = self.folder / "lab.toml"
        config.write_text(
            f'[directory]\nlisten = ["{DIRECTORY}:53"]\n[network]\nuplink = "{UPLINK}"\n'
            f"{network}\n"
            f'[host]\nstate = "{self.folder}/state"\nrun = "{self.run}"\n{host}\n{services}'
        )
        with self.hosts.at(self.hosts.host), daemon(config, self.run) as self.process:
            yield

    def ask(self, verb: str, name: str = "") -> Any:
        return control.request(self.run, verb, **({"name": name} if name else {}))

    def jitsu(self, verb: str, *arguments: str) -> str:
        """Return what `jitsu` prints, to what is no terminal."""
        command = [sys.executable, "-m", "jitsu", verb, *arguments, "--run", str(self.run)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def row(self, name: str) -> dict[str, Any]:
        rows = self.ask("ls")
        return next(row for row in rows if row["name"] == name)

    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "serve.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def client(self, *command: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run a command at the client."""
        with self.hosts.at(self.hosts.client):
            return subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )

    def curl(self, url: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.client("curl", "-sS", "--noproxy", "*", "-m", "10", *options, url)

    @contextmanager
    def clean_wire(self) -> Iterator[None]:
        """See to it that the client's network card sees nothing sent again, and no RST.

        On a host so busy that it all takes longer than TCP is patient, the kernel is right to
        send again.
        """
        with self.hosts.at(self.hosts.client):
            capture = Capture(CLIENT_PORT)
        with capture:
            began = time.monotonic()
            yield
            took = time.monotonic() - began
            seen = capture.drain()
        assert seen.syn_ack, "there was a connection"
        assert seen.resets == 0
        assert seen.syn_retransmits == 0 or took > RTO_FIRST
        assert seen.retransmits == 0 or took > RTO_MIN

    def guests(self) -> list[int]:
        """Return the pids of guests that run on the host."""
        return guests(self.hosts.host)

    def interfaces(self) -> set[str]:
        """Return the names of the host's interfaces."""
        with self.hosts.at(self.hosts.host), IPRoute() as ipr:
            return {dict(link["attrs"])["IFLA_IFNAME"] for link in ipr.link("dump")}

    def ports(self) -> set[str]:
        """Return the names of the bridge's ports."""
        with self.hosts.at(self.hosts.host), IPRoute() as ipr:
            (bridge,) = ipr.link_lookup(ifname="jitsu0")
            return {link.get("IFLA_IFNAME") for link in ipr.get_links(master=bridge)}

    def rules(self) -> set[str]:
        """Return the host's nftables tables."""
        with self.hosts.at(self.hosts.host):
            listed = subprocess.run(["nft", "list", "tables"], capture_output=True, check=True)
        return set(listed.stdout.decode().splitlines())


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a state folder that knows which accelerator is faster here: measured once for all."""
    hello_image()
    state = tmp_path_factory.mktemp("state")
    with two_hosts(CLIENT) as hosts, hosts.at(hosts.host):
        choose(state, None)
    return state


@pytest.fixture
def lab(tmp_path: Path, measured: Path) -> Iterator[Lab]:
    shutil.copytree(measured, tmp_path / "state")
    with ExitStack() as stack:
        yield Lab(stack.enter_context(two_hosts(CLIENT)), tmp_path)


def guests(namespace: int) -> list[int]:
    """Return the pids of guests that run in a network namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            here = (process / "ns" / "net").stat().st_ino == os.fstat(namespace).st_ino
            # The fork server bears the words of a copy while it makes it; that has no such socket.
            server = (process / "fd" / str(CONTROL_FD)).is_socket()
        except OSError:
            continue
        named = b"-name" in command and any(word.startswith(b"jitsu-") for word in command)
        if here and named and not server:
            found.append(int(process.name))
    return found
