"""The daemons' log."""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

LOG_AFTER = 0.002
"""Seconds; a line of log takes a tenth of what Jitsu adds to a boot, and nobody waits for it."""


class Late:
    """Writes lines a little later, in their order."""

    def __init__(self) -> None:
        self._lines: deque[Callable[[], object]] = deque()

    def write(self, line: Callable[[], object]) -> None:
        """Call `line`, which writes one, in `LOG_AFTER`."""
        self._lines.append(line)
        asyncio.get_running_loop().call_later(LOG_AFTER, self._next)

    def flush(self) -> None:
        """Write now whatever waits."""
        while self._lines:
            self._next()

    def _next(self) -> None:
        if self._lines:
            self._lines.popleft()()


def logger() -> FilteringBoundLogger:
    """Log to standard error: for people on a terminal, else one JSON object a line."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    log: FilteringBoundLogger = structlog.get_logger()
    return log
