"""What an operator is told who has not got what it takes, in a dom0."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from jitsu.host.xen.libxc import Xen
from xen import dom0

pytestmark = pytest.mark.xen(timeout=400)
JITSU = f"{sys.executable} -m jitsu"
CONFIG = """
[network]
bridge = "jtest0"
[host]
memory = "256MiB"
state = "{folder}/state"
run = "{folder}/run"
{host}
[[service]]
name = "www"
image = "hello.elf"
backend = "xen"
"""


def tried(folder: Path, verb: str, host: str = "", before: Sequence[str] = ()) -> tuple[int, str]:
    """Return how a verb ends, and what it says; what comes before it vanishes with it."""
    config = folder / "jitsu.toml"
    config.write_text(CONFIG.format(folder=folder, host=host))
    script = "; ".join([*before, f"exec {JITSU} {verb} -c {config}"])
    command = ["unshare", "-m", "sh", "-ec", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def library(name: str) -> str:
    """Return where a library is that the hypervisor is driven by."""
    Xen().close()
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if name in line)


def test_a_library_that_is_missing(tmp_path: Path) -> None:
    away = f"mount --bind /dev/null {library('libxenguest')}"
    for verb in ("check", "serve"):
        code, said = tried(tmp_path, verb, before=[away])
        assert code == 1
        assert "libxenguest.so.4.17 cannot be loaded" in said
        assert "install its libxenmisc4.17" in said
    assert dom0.left() == []
    assert not Path("/sys/class/net/jtest0").exists()


def test_a_store_of_ones_own_where_another_runs(tmp_path: Path) -> None:
    code, said = tried(tmp_path, "check", 'xenstored = "own"')
    assert code == 0
    assert "no  xenstore     one answers at /run/xenstored/socket" in said
    code, said = tried(tmp_path, "serve", 'xenstored = "own"')
    assert code == 1
    assert "another xenstored runs in this dom0; stop it first" in said
    assert not Path("/sys/class/net/jtest0").exists()
    assert subprocess.run(["xenstore-exists", "/local/domain/0"], check=False).returncode == 0
