"""The server's log: whatever clients do, it can't be filled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

BURST, PERIOD = 5, 60.0  # lines of one place in the code in so many seconds


class Sparing(logging.Filter):
    """Let a few lines of each place in the code pass in a minute; the next one after that tells how many didn't.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, str], list[float]] = {}  # start of the period, passed, kept back

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line passes."""
        place = (record.pathname, record.lineno, _kind(record))
        with self._lock:
            now = self._clock()
            entry = self._seen.setdefault(place, [now, 0, 0])
            kept_back = 0
            if now - entry[0] >= PERIOD:
                kept_back = int(entry[2])
                entry[:] = [now, 0, 0]
            entry[1] += 1
            if entry[1] > BURST:
                entry[2] += 1
                return False
        if kept_back:
            record.msg, record.args = f"{record.getMessage()} (and {kept_back:,} more before)", ()
        elif entry[1] == BURST:
            record.msg, record.args = f"{record.getMessage()} (more of these are kept back for a minute)", ()
        return True


def _kind(record: logging.LogRecord) -> str:
    """What kind of exception a line tells of: other kinds are other lines."""
    return record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""


def spare_the_log() -> None:
    """Bound what is written by every handler that there is, and what Python warns of."""
    logging.captureWarnings(True)
    sparing = Sparing()
    handlers = {handler for name in ("", "uvicorn") for handler in logging.getLogger(name).handlers}
    for handler in {*handlers, *([logging.lastResort] if logging.lastResort else [])}:
        handler.addFilter(sparing)
