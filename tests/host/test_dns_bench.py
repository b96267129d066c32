"""The DNS benchmark's pure parts, and one round of the real thing."""

import pytest

from jitsu.bench import dns as bench
from jitsu.errors import HostError

REPORT = """
  Queries sent:         230187
  Queries completed:    230187 (100.00%)
  Response codes:       NOERROR 230187 (100.00%)
  Queries per second:   115088.236501
"""


def test_reads_the_report_of_dnsperf() -> None:
    assert bench.parse_dnsperf(REPORT) == 115088.236501


@pytest.mark.parametrize(
    "report", ["", REPORT.replace("NOERROR", "REFUSED"), REPORT.replace("Queries per", "")]
)
def test_a_bad_report_is_no_result(report: str) -> None:
    with pytest.raises(HostError, match="dnsperf failed: it broke"):
        bench.parse_dnsperf(report, "it broke")


def test_dnsmasq_touches_nothing_of_the_host() -> None:
    argv = bench.dnsmasq_argv("/usr/sbin/dnsmasq", 5300)
    for option in ("--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--bind-interfaces"):
        assert option in argv


def test_a_program_that_is_missing() -> None:
    with pytest.raises(HostError, match="no-such is not installed; `apt-get install pack`"):
        bench._program("no-such", "pack")


def test_rounds_are_compared_in_pairs() -> None:
    ours, theirs = bench._rate_rows({"jitsu": [80, 40, 90], "dnsmasq": [100, 50, 90]})
    assert (ours["ratio"], ours["median"], ours["p99"], ours["floor"]) == (0.8, 80, 40, 90)
    assert theirs["ratio"] == 1.0


@pytest.mark.slow
def test_the_real_thing() -> None:
    rows = bench.run(quick=True)
    assert [row["unit"] for row in rows] == ["queries/s"] * 2 + ["us"] * 2
    for row in rows:
        assert {"what", "n", "median", "p99", "unit", "floor", "ratio"} <= row.keys()
