"""pytest on the host: tests with the marker `xen` run in dom0 of a lab.

They are collected here like any others, so they can be selected like any others. For each kind of
XenStore that they want one lab is booted, in which one pytest runs them all and reports each to
here (`reporter`). A lab that dies fails the test that it died in, and the rest gets another; one
that does not boot fails them all.
"""

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from xenlab.errors import LabError
from xenlab.lab import Lab, lab, unavailable
from xenlab.marker import Wish
from xenlab.reporter import REPORT

BOOT_TIMEOUT = 300
"""Seconds until dom0 has collected its tests: ten times what it takes on a quiet machine."""
_GRACE = 60
"""Seconds that dom0 has to end a test itself, and tear its fixtures down, when its time is over."""
_DEATHS_MAX = 3
"""Labs of one kind that may die: more are no accident, and each costs a boot."""
_OUTPUT_MAX = 4000


def pytest_configure(config: pytest.Config) -> None:
    """Run tests of Xen in a lab, unless this is a dom0 already."""
    config.addinivalue_line(
        "markers", "xen(store, timeout, spoils): runs in dom0 of a lab with real Xen"
    )
    capabilities = Path("/proc/xen/capabilities")
    if not (capabilities.exists() and "control_d" in capabilities.read_text()):
        config.pluginmanager.register(Labs(config), "xenlab-labs")


class Labs:
    """The labs of one session, one at a time."""

    def __init__(self, config: pytest.Config) -> None:
        """Boot nothing yet."""
        self._config = config
        self._waiting: dict[str, list[str]] = {}
        self._broken: dict[str, str] = {}
        self._deaths: Counter[str] = Counter()
        self._running: tuple[str, Running] | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the lab's tests last, by kind of store, and what spoils one at its end."""
        wishes = {item: Wish.of(item) for item in items}
        items.sort(key=lambda item: (w.store, w.spoils) if (w := wishes[item]) else ("", False))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """See which tests each lab will have, of those that are selected."""
        for item in session.items:
            if wish := Wish.of(item):
                self._waiting.setdefault(wish.store, []).append(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Have one test run in its lab, and report what is reported from there."""
        wish = Wish.of(item)
        if wish is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if reason := unavailable():
            path, line, _ = item.location
            item.ihook.pytest_runtest_logreport(
                report=_report(item, "skipped", (path, line or 0, f"Skipped: {reason}"))
            )
        else:
            for report in self._reports(item, wish):
                item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        """End the lab that runs."""
        self._close()

    def _reports(self, item: pytest.Item, wish: Wish) -> Iterator[pytest.TestReport]:
        """Yield what dom0's pytest reports of a test, or that it cannot."""
        store = wish.store
        try:
            running = self._lab(store)
            for data in running.test(item.nodeid, wish.timeout + _GRACE):
                yield _restored(self._config, data)
        except LabError as error:
            self._close()
            self._deaths[store] += 1
            if self._deaths[store] == _DEATHS_MAX:
                self._broken[store] = f"{_DEATHS_MAX} labs have died, the last of this: {error}"
            yield _report(item, "failed", str(error))
        self._waiting[store].remove(item.nodeid)
        if wish.spoils:
            self._close()

    def _lab(self, store: str) -> "Running":
        """Return the lab of this kind, booted first if it does not run; raises LabError."""
        if self._running and self._running[0] == store:
            return self._running[1]
        self._close()
        if store in self._broken:
            raise LabError(self._broken[store])
        style = self._config.getoption("tbstyle")
        try:
            running = Running(store, [f"--tb={style}", *self._waiting[store]])
            self._running = (store, running)
            running.boot()
        except LabError as error:
            self._broken[store] = str(error)
            raise
        return running

    def _close(self) -> None:
        if self._running:
            self._running[1].close()
        self._running = None


class Running:
    """One lab with a pytest in dom0."""

    def __init__(self, store: str, arguments: Sequence[str]) -> None:
        """Start the lab; raises LabError."""
        self._stack = ExitStack()
        self._lines = b""
        self._output = bytearray()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xenlab-")))
            (folder / "arguments").write_text("".join(f"{line}\n" for line in arguments))
            self._lab: Lab = stack.enter_context(
                lab(_JOB, store=store, files=[folder / "arguments"])
            )
            self._stack = stack.pop_all()
        threading.Thread(target=self._drain, daemon=True).start()

    def boot(self) -> None:
        """Wait until dom0's pytest is about to run its first test; raises LabError."""
        message = self._next(time.monotonic() + BOOT_TIMEOUT)
        if "started" not in message:
            raise self._failure(message.get("collect", "pytest has ended before the first test"))

    def test(self, nodeid: str, timeout: float) -> Iterator[dict[str, Any]]:
        """Yield the reports of one test; raises LabError when there will be none."""
        until = time.monotonic() + timeout
        while (message := self._next(until)).get("finished") != nodeid:
            if "exit" in message:
                raise self._failure(f"pytest in dom0 has ended, exit code {message['exit']}")
            if "report" in message:
                yield message["report"]

    def close(self) -> None:
        """End the lab."""
        self._stack.close()

    def _next(self, until: float) -> dict[str, Any]:
        """Return the next message; raises LabError at the time `until`, or when the lab ends."""
        while b"\n" not in self._lines:
            try:
                self._lab.report.settimeout(max(0.001, until - time.monotonic()))
                data = self._lab.report.recv(65536)
            except TimeoutError:
                raise self._failure("the lab does not answer") from None
            if not data:
                raise self._failure("the lab has died")
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _drain(self) -> None:
        """Keep the end of what dom0's pytest prints, which may say why it reports nothing."""
        try:
            while data := self._lab.output.recv(65536):
                self._output += data
                del self._output[:-_OUTPUT_MAX]
        except OSError:
            pass  # closed

    def _failure(self, what: str) -> LabError:
        said = self._output.decode(errors="replace").strip()
        return LabError(
            f"{what}\n--- dom0's pytest ---\n{said}\n"
            f"--- console, the whole is in {self._lab.log} ---\n{self._lab.console()}"
        )


_JOB = f"""cd "$JITSU_TREE"
export {REPORT}=/dev/lab.report
python -m pytest -p xenlab.reporter -p no:cacheprovider @/lab/job/arguments \\
    </dev/null >/dev/lab.output 2>&1
echo "{{\\"exit\\": $?}}" >/dev/lab.report
"""


def _restored(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    """Return the report that was sent as JSON, in which tuples have become lists."""
    for name in ("location", "longrepr"):
        if isinstance(data[name], list):
            data[name] = tuple(data[name])
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report


def _report(
    item: pytest.Item, outcome: Literal["failed", "skipped"], why: str | tuple[str, int, str]
) -> pytest.TestReport:
    """Return a report of a test that dom0 says nothing of."""
    keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, outcome, why, "call")
