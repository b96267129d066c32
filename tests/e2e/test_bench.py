"""The benchmark of cold starts measures what it says, in every mode and on every backend."""

import json
import subprocess
import sys

FAULTS = ("resets", "wrong_bodies", "unanswered")
"""A SYN that is sent again is one as well, but on a busy host the kernel may be right to."""


def test_cold_starts_in_every_mode() -> None:
    command = [sys.executable, "-m", "jitsu", "bench", "coldstart", "--runs", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)["rows"]}
    assert len(rows) == 2 * 3 * 2
    for backend in ("qemu", "process"):
        for mode in ("import", "splice", "replay"):
            connect = rows[f"{mode}, {backend}: connect"]
            whole = rows[f"{mode}, {backend}: query to first byte"]
            assert 0 < connect["median"] <= whole["median"]
            assert connect["n"] == whole["n"] == 2
            assert whole["beyond"] + whole["floor"] > 0
            assert [whole[fault] for fault in FAULTS] == [0, 0, 0]
