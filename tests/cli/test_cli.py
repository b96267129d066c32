"""The command as it is typed: exit codes, and what is said on which stream."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config.elf import elf64
from jitsu.cli import VERBS, main

GOOD = '[[service]]\nname = "www"\nimage = "www.elf"\n'
BAD = GOOD + 'memry = "16MiB"\n[host]\nmemory = 3\n'
SERVES = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK),
    reason="needs root and /dev/net/tun: without them this host cannot serve",
)


Said = tuple[int, str, str]
"""Exit code, output, complaints."""
Jitsu = Callable[..., Said]


@pytest.fixture
def jitsu(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Jitsu:
    """Run the command in this process, which saves the time of its start."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["jitsu", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return run


def process(*arguments: str, **environment: str) -> Said:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "jitsu", *arguments],
        capture_output=True,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"} | environment,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "www.elf").write_bytes(elf64())
    path = tmp_path / "good.toml"
    path.write_text(GOOD + f'[host]\nrun = "{tmp_path}/run"\nstate = "{tmp_path}/state"\n')
    return path


@pytest.fixture
def bad(good: Path) -> Path:
    path = good.with_name("bad.toml")
    path.write_text(BAD)
    return path


def complaints(bad: Path) -> str:
    return (
        f"{bad}:4: memry: unknown key; did you mean memory?\n"
        f"{bad}:6: memory: not an amount of memory: 3; "
        'write it like "16MiB" or "2GiB"\n'
    )


@SERVES
def test_check_a_good_file(good: Path) -> None:
    before = sorted(good.parent.iterdir())
    code, said, complained = process("check", "-c", str(good))
    assert (code, complained) == (0, "")
    assert said.replace("\n", "").startswith(f"{good}: 1 service, no mistakes")
    for what in ("root", "tap", "nftables", "qemu", "kvm"):
        assert what in said
    assert sorted(good.parent.iterdir()) == before, "something was started"


@SERVES
def test_check_as_json(jitsu: Jitsu, good: Path) -> None:
    code, said, complained = jitsu("check", "--config", str(good), "--json")
    assert (code, complained) == (0, "")
    report = json.loads(said)
    assert report["config"] == str(good)
    assert {"what", "ok", "said", "needed"} == set(report["host"][0])


def test_check_on_a_host_that_cannot_serve(good: Path) -> None:
    """One without QEMU, for nothing is on its path."""
    code, said, complained = process("check", "-c", str(good), PATH="/nowhere")
    assert code == 1
    assert "no  qemu" in said
    assert complained.startswith("jitsu: this host cannot serve: ")
    assert "qemu missing; see above" in complained
    assert len(complained.splitlines()) == 1


@pytest.mark.parametrize("verb", ["check", "serve", "ls"])
def test_a_bad_file(jitsu: Jitsu, bad: Path, verb: str) -> None:
    assert jitsu(verb, "-c", str(bad)) == (2, "", complaints(bad))


def test_a_file_that_is_missing(jitsu: Jitsu, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"
    said = f"{path}: cannot be read: No such file or directory\n"
    assert jitsu("check", "-c", str(path)) == (2, "", said)


def test_a_file_is_utf8_whatever_the_locale_says(good: Path) -> None:
    good.write_text(GOOD + '# caf\xe9\ncmdline = "\xe9"\nmemry = 1\n', encoding="utf-8")
    code, _, complained = process(
        *("check", "-c", str(good)), LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"
    )
    assert (code, complained) == (2, f"{good}:6: memry: unknown key; did you mean memory?\n")


NO_DAEMON = "jitsu: no daemon answers at {}/control; start `jitsu serve`\n"


def test_no_daemon(jitsu: Jitsu, tmp_path: Path) -> None:
    run = str(tmp_path / "nowhere")
    said = NO_DAEMON.format(run)
    assert jitsu("ls", "--run", run) == (1, "", said)
    assert jitsu("summon", "www", "--run", run, "--json") == (1, "", said)


def test_a_daemon_is_found_by_its_configuration(jitsu: Jitsu, good: Path) -> None:
    said = NO_DAEMON.format(good.parent / "run")
    assert jitsu("ls", "-c", str(good)) == (1, "", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dance"], "No such command 'dance'"),
        (["ls", "--frobnicate"], "No such option: --frobnicate"),
        (["summon"], "Missing argument"),
        (["serve"], "Missing option"),
        (["demo", "--runs", "0"], "Invalid value for '--runs'"),
        (["demo", "--runs", "many"], "Invalid value for '--runs'"),
    ],
)
def test_wrong_usage(jitsu: Jitsu, arguments: list[str], said: str) -> None:
    code, printed, complained = jitsu(*arguments)
    assert (code, printed) == (2, "")
    assert said in complained
    assert "Traceback" not in complained


def test_help(jitsu: Jitsu) -> None:
    code, said, _ = jitsu("--help")
    assert code == 0
    for verb in VERBS:
        assert f" {verb} " in said
    code, said, complained = jitsu("ls", "--help")
    assert (code, complained) == (0, "")
    assert "--json" in said


def test_runs_of_what_has_none(jitsu: Jitsu) -> None:
    code, printed, complained = jitsu("bench", "dns", "--runs", "3")
    assert (code, printed) == (2, "")
    assert "dns has no runs; leave --runs out" in complained


def test_a_benchmark_that_is_not_there(jitsu: Jitsu) -> None:
    code, printed, complained = jitsu("bench", "nothing")
    assert (code, printed) == (1, "")
    assert complained.startswith(
        "jitsu: no benchmark is called nothing; there are: boot, coldstart"
    )
