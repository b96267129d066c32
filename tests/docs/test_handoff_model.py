"""The hand-over's protocol, visited state by state (docs/handoff.pml).

A model that could not fail would prove nothing, so it is broken in every way that it offers, and
spin must say which of its claims does not hold.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "handoff.pml"
STACK = "-m1000000"  # deeper than any path, or spin would cut it short


@dataclass(frozen=True)
class Spin:
    """How spin is asked: of the model, of the verifier's compiler, and of the verifier."""

    model: tuple[str, ...] = ()
    compiler: tuple[str, ...] = ("-DSAFETY",)
    verifier: tuple[str, ...] = ()


NEVER = Spin()
IN_THE_END = Spin(("-DFAIR",), ("-DNFAIR=4",), ("-a", "-f"))
WITHOUT_DELAY = Spin(("-DPROMPT",), ("-DNFAIR=4",), ("-a", "-f"))
TWO_CLIENTS = Spin(
    ("-DCLIENTS=2", "-DLAST=1", "-DBOOTS=1", "-DLIVES=1"), ("-DSAFETY", "-DCOLLAPSE")
)

CYCLE = "acceptance cycle"
BROKEN = {
    "ACKNOWLEDGES_WHEN_FROZEN": (NEVER, "byte_lost"),
    "BYTES_FORGOTTEN": (NEVER, "byte_lost"),
    "COMMIT_IN_PIECES": (NEVER, "innocent_reset"),
    "ENTRY_LEFT": (NEVER, "innocent_reset"),
    "GIVEN_TOO_SOON": (NEVER, "innocent_reset"),
    "GUESTS_SPARED": (NEVER, "spoke_after_commit"),
    "GUEST_DOES_NOT_WAIT": (NEVER, "two_own"),
    "MOVED_TOO_SOON": (NEVER, "innocent_reset"),
    "NOTHING_CLEARED": (NEVER, "spoke_after_commit"),
    "NOTHING_HELD": (WITHOUT_DELAY, CYCLE),
    "NOTHING_WRITTEN": (NEVER, "nobody_owns"),
    "NOT_SILENT": (NEVER, "two_own"),
    "NO_EPOCH": (NEVER, "stale_guest"),
    "NUMBER_USED_AGAIN": (NEVER, "byte_doubled"),
    "REFUSED_TOO_SOON": (NEVER, "innocent_reset"),
    "SILENT_ABOUT_THE_DEAD": (IN_THE_END, CYCLE),
    "STRAGGLERS_DROPPED": (WITHOUT_DELAY, CYCLE),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed"),
]


def verdict(spin: Spin, folder: Path, *more: str) -> str:
    """Return all that the verifier prints."""
    for command in (  # to optimise takes longer than it saves
        ("spin", "-a", *spin.model, *more, str(MODEL)),
        ("gcc", "-O0", "-w", *spin.compiler, "-o", "pan", "pan.c"),
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    run = ("./pan", STACK, *spin.verifier)
    return subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "spin",
    [NEVER, TWO_CLIENTS, IN_THE_END, WITHOUT_DELAY],
    ids=["never", "two clients", "in the end", "without delay"],
)
def test_every_state_keeps_every_claim(spin: Spin, tmp_path: Path) -> None:
    said = verdict(spin, tmp_path)
    assert "errors: 0" in said
    assert "not completed" not in said
    assert "max search depth too small" not in said


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_protocol_is_told_from_it(fault: str, tmp_path: Path) -> None:
    spin, complaint = BROKEN[fault]
    said = verdict(spin, tmp_path, f"-DBREAK_{fault}")
    broken = re.search(
        r"^pan:1: (?:assertion violated .*\|\|(\w+)\)|(acceptance cycle))", said, re.MULTILINE
    )
    assert broken is not None, said
    assert complaint in broken.groups()


def test_the_model_offers_no_other_fault() -> None:
    assert set(re.findall(r"\bBREAK_(\w+)", MODEL.read_text())) == set(BROKEN)
