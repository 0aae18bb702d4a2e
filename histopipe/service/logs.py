"""A limit on the rate of log lines, so that no client can fill the service's log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

BURST, PERIOD = 5, 60.0  # lines that one logging call may write in so many seconds


class RateLimitFilter(logging.Filter):
    """A filter that passes a few lines per minute of each logging call in the code.

    The last line that passes announces that more will be suppressed; the first line of the next period states how
    many were.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, int, str], list[float]] = {}  # start of the period, lines passed, suppressed

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether a line passes, and extend its message where lines are suppressed."""
        source = (record.pathname, record.lineno, _exception_name(record))
        with self._lock:
            now = self._clock()
            entry = self._counts.setdefault(source, [now, 0, 0])
            suppressed = 0
            if now - entry[0] >= PERIOD:
                suppressed = int(entry[2])
                entry[:] = [now, 0, 0]
            entry[1] += 1
            if entry[1] > BURST:
                entry[2] += 1
                return False
        if suppressed:
            record.msg, record.args = f"{record.getMessage()} ({suppressed:,} earlier ones were suppressed)", ()
        elif entry[1] == BURST:
            record.msg, record.args = f"{record.getMessage()} (further ones are suppressed for a minute)", ()
        return True


def _exception_name(record: logging.LogRecord) -> str:
    """Return the exception class that a record reports; each class is counted separately."""
    return record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""


def limit_log_rate() -> None:
    """Add the filter to every existing log handler, and send Python's warnings through them."""
    logging.captureWarnings(True)
    rate_limit = RateLimitFilter()
    handlers = {handler for name in ("", "uvicorn") for handler in logging.getLogger(name).handlers}
    for handler in {*handlers, *([logging.lastResort] if logging.lastResort else [])}:
        handler.addFilter(rate_limit)
