"""What happens to a test in dom0 is what is reported of it on the host."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest

from xenlab.lab import unavailable

PLANTED = Path(__file__).with_name("planted.py")
pytestmark = [pytest.mark.qemu, pytest.mark.slow]
if reason := unavailable():
    pytestmark.append(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ET.Element]:
    """What a pytest of its own says of the planted tests, by their names."""
    path = tmp_path_factory.mktemp("reports") / "report.xml"
    argv = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={path}", str(PLANTED)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    cases = ET.parse(path).getroot().iter("testcase")
    return {case.attrib["name"].removeprefix("test_"): case for case in cases}


def why(case: ET.Element, outcome: str) -> str:
    found = case.find(outcome)
    assert found is not None, ET.tostring(case)
    return f"{found.get('message')}\n{found.text}"


def test_one_result_for_each_test(reported: Mapping[str, ET.Element]) -> None:
    assert len(reported) == 9
    assert [name for name, case in reported.items() if len(case) == 0] == [
        "passes",
        "has_another_lab",
        "has_a_third",
    ]


def test_a_failure_comes_with_its_traceback_and_output(reported: Mapping[str, ET.Element]) -> None:
    said = why(reported["fails"], "failure")
    assert "assert 'dom0' == 'not dom0'" in said
    assert "planted.py" in said
    assert "said in dom0" in said or "said in dom0" in ET.tostring(reported["fails"], "unicode")


def test_a_skipped_test_says_why(reported: Mapping[str, ET.Element]) -> None:
    assert "a reason of dom0's" in why(reported["skips"], "skipped")


def test_a_broken_fixture_is_an_error(reported: Mapping[str, ET.Element]) -> None:
    assert "a fixture of dom0's" in why(reported["has_a_broken_fixture"], "error")


def test_a_test_that_hangs_is_ended_and_says_where(reported: Mapping[str, ET.Element]) -> None:
    said = why(reported["takes_too_long"], "failure")
    assert "took more than 2 s" in said
    assert "while True" in said


def test_a_lab_that_dies_fails_one_test_with_its_console(
    reported: Mapping[str, ET.Element],
) -> None:
    said = why(reported["kills_the_lab"], "failure")
    assert "the lab has died" in said
    assert "Dom0 crashed" in said


def test_a_pytest_that_ends_fails_one_test(reported: Mapping[str, ET.Element]) -> None:
    assert "exit code 7" in why(reported["ends_pytest"], "failure")
