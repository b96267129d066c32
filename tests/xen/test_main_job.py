"""The main job on a real Xen: a DNS query boots a domain that answers the request, by real clients.

Synjitsu opens the connection, and the domain takes it over by the store of dom0.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from xen import dom0

pytestmark = pytest.mark.xen(timeout=600)
CONFIG = """
[directory]
listen = ["10.77.0.1:53"]
[network]
bridge = "jtest0"
uplink = "jtest-up"
[host]
memory = "256MiB"
state = "{folder}/state"
run = "{folder}/run"
[[service]]
name = "www"
dns = ["www.jitsu.test"]
image = "hello.elf"
address = "10.77.0.10"
boot_timeout = 60
"""
LINUX = """
[[service]]
name = "linux"
dns = ["linux.jitsu.test"]
image = "/boot/vmlinuz-domu"
initrd = "/boot/domu.cpio"
cmdline = "mitigations=off ip=10.77.0.11/24"
address = "10.77.0.11"
memory = "128MiB"
handoff = "splice"
ready = "tcp:80"
boot_timeout = 300
"""
"""The lab's own Linux guest takes the last `ip=` on its command line, without a gateway."""
JITSU = (sys.executable, "-m", "jitsu")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def as_client(*command: str) -> str:
    return run("ip", "netns", "exec", "jtest", *command)


@contextmanager
def client() -> Iterator[None]:
    """Have a namespace whose interface will be at the bridge."""
    with ExitStack() as undo:
        run("ip", "netns", "add", "jtest")
        undo.callback(run, "ip", "netns", "delete", "jtest")
        cable = ("type", "veth", "peer", "name", "eth0", "netns", "jtest")
        run("ip", "link", "add", "jtest-up", *cable)
        run("ip", "-n", "jtest", "address", "add", "10.77.0.2/24", "dev", "eth0")
        run("ip", "-n", "jtest", "link", "set", "eth0", "up")
        yield


@contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Have `jitsu serve`, ended by SIGTERM, unless it has been killed."""
    command = [*JITSU, "serve", "-c", str(folder / "jitsu.toml")]
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert serving.stderr is not None
    said = ""
    try:
        while '"serving"' not in said:
            line = serving.stderr.readline()
            assert line, f"it has ended: {said}"
            said += line
        yield serving
    finally:
        serving.terminate()
        _, rest = serving.communicate(timeout=dom0.PATIENCE)
        sys.stdout.write(said + rest)  # for whom a test fails
    assert serving.returncode in (0, -signal.SIGKILL), rest


def test_a_dns_query_boots_the_domain_that_answers_the_request(tmp_path: Path) -> None:
    (tmp_path / "jitsu.toml").write_text(CONFIG.format(folder=tmp_path))
    file = ("-c", str(tmp_path / "jitsu.toml"))
    assert "yes xen " in run(*JITSU, "check", *file)
    with client(), daemon(tmp_path):
        for epoch in (1, 2):
            said = as_client(
                "dig", "+time=60", "+tries=1", "+short", "@10.77.0.1", "www.jitsu.test"
            )
            assert said.split() == ["10.77.0.10"]
            page = ("curl", "-s", "-m", "120", "-o", str(tmp_path / "page"), "-w", "%{http_code}")
            assert as_client(*page, "http://10.77.0.10/") == "200"
            assert "<title>" in (tmp_path / "page").read_text()

            trace = json.loads(run(*JITSU, "trace", "www", "--json", *file))
            assert trace["epoch"] == epoch
            assert trace["cause"] == "dns"
            stages = [stage["name"] for stage in trace["stages"]]
            assert {"create domain", "build domain", "plug", "boot", "hand over"} <= set(stages)
            (row,) = json.loads(run(*JITSU, "ls", "--json", *file))
            assert (row["state"], row["backend"]) == ("awake", "xen")
            assert "www" in run("xl", "list")
            run(*JITSU, "stop", "www", *file)
            assert dom0.left() == []
        assert "jitsu" in run(*JITSU, "logs", "www", *file)
        as_client("curl", "-s", "-m", "120", "-o", "/dev/null", "http://10.77.0.10/")
    assert dom0.left() == [], "the daemon has ended its guests"


def test_a_linux_guest_goes_on_with_a_connection_that_was_opened_for_it(tmp_path: Path) -> None:
    (tmp_path / "jitsu.toml").write_text(CONFIG.format(folder=tmp_path) + LINUX)
    file = ("-c", str(tmp_path / "jitsu.toml"))
    with client(), daemon(tmp_path):
        page = ("curl", "-s", "-m", "300", "-o", "/dev/null", "-w", "%{http_code}")
        assert as_client(*page, "http://10.77.0.11/none") == "404"
        trace = json.loads(run(*JITSU, "trace", "linux", "--json", *file))
        assert trace["cause"] == "syn"
        assert as_client(*page, "http://10.77.0.11/none") == "404", "and on its own after that"
    assert dom0.left() == []
