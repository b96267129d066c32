"""`python -m xenlab`: one command in dom0, and a person's shell there."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from xenlab.lab import unavailable

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
if reason := unavailable():
    pytestmark.append(pytest.mark.skip(reason=reason))


def test_a_command_has_its_files_its_output_and_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "asked").write_text("xl list\n")
    argv = [sys.executable, "-m", "xenlab", "run", "--file", str(tmp_path / "asked"), "--"]
    argv += ["sh", "-c", "echo told >&2; . ./asked; jitsu --help >/dev/null && exit 5"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("told\n")
    assert "Domain-0" in done.stdout


def test_a_shell_is_a_terminal_and_ends_with_its_exit_code() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (33, 111))
    argv = [sys.executable, "-m", "xenlab", "shell"]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as shell:
        os.close(theirs)
        said = ""
        try:
            while "dom0:" not in said:
                said += os.read(ours, 4096).decode()
            os.write(ours, b"tty && stty size && xl list; exit 5\r")
            while True:
                said += os.read(ours, 4096).decode()
        except OSError:  # EIO: nobody has the terminal any more
            pass
        os.close(ours)
    assert shell.returncode == 5, said
    assert "/dev/hvc1" in said
    assert "\n33 111\r" in said, "it is as large as the person's"
    assert "Domain-0" in said
