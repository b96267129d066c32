"""pytest in dom0: tell the host of each test, in pytest's own words (`python -m pytest -p`).

Lines of JSON: `started` once the tests are collected, `report` for each phase of a test, `finished`
after each test; `collect` for a file that cannot be imported.
"""

import json
import os
import signal
from collections.abc import Generator
from types import FrameType

import pytest

from xenlab.marker import Wish

REPORT = "JITSU_LAB_REPORT"
"""The environment variable with the path of the port."""


def pytest_configure(config: pytest.Config) -> None:
    """Report to the port that the environment names."""
    config.pluginmanager.register(Reporter(config, os.environ[REPORT]))


class Reporter:
    """Writes what pytest reports to a port, and ends tests that take too long."""

    def __init__(self, config: pytest.Config, port: str) -> None:
        """Open the port; raises OSError."""
        self._config = config
        # Unbuffered: what was written before the lab dies has arrived.
        self._port = os.open(port, os.O_WRONLY | os.O_CLOEXEC)

    def pytest_collection_finish(self) -> None:
        """Say that the first test is about to begin."""
        self._write(started=True)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say why a file cannot be collected here, though it could on the host."""
        if report.failed:
            self._write(collect=report.longreprtext)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run one test, for as long as its marker gives it."""
        wish = Wish.of(item)
        seconds = wish.timeout if wish else 0

        def give_up(_signal: int, _frame: FrameType | None) -> None:
            pytest.fail(f"took more than {seconds} s")

        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(seconds)
        try:
            return (yield)
        finally:
            signal.alarm(0)
            self._write(finished=item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pass a phase of a test on."""
        hook = self._config.hook
        self._write(report=hook.pytest_report_to_serializable(config=self._config, report=report))

    def _write(self, **message: object) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        while line:
            line = line[os.write(self._port, line) :]

    def pytest_unconfigure(self) -> None:
        """Close the port: one at a time may have it open."""
        os.close(self._port)
