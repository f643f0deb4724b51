"""What stops a start, and what may be said of an error that a database or the system raised.

Their own words hold no content, so that they can be logged (law 8); of any other error only the kind is told. The
invariant: nothing here repeats an address, which may have a password in it.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator

from .originals import OriginalsError


class StartupError(Exception):
    """The proxy cannot start; the message says what is not there, why, and which setting is about it."""


class ThrottledLogger:
    """Logs a warning at most once every so many seconds, with how often there was reason to since."""

    def __init__(self, log: logging.Logger, interval: float = 60.0) -> None:
        self._log = log
        self._interval = interval
        self._next_log_time = 0.0
        self._suppressed_count = 0

    def warn(self, message: str) -> None:
        """Log it, or count it."""
        now = time.monotonic()
        if now < self._next_log_time:
            self._suppressed_count += 1
            return
        more = f" ({self._suppressed_count:,} times more since this was last said)" if self._suppressed_count else ""
        self._next_log_time, self._suppressed_count = now + self._interval, 0
        self._log.warning("%s%s", message, more)


def describe(error: BaseException) -> str:
    """Say what is wrong: in the words of SQLite or of the system, in ours, or else with the kind of error."""
    for one in _iter_causes(error):
        if isinstance(one, sqlite3.Error):
            return str(one)
        if isinstance(one, OSError):
            return one.strerror or type(one).__name__
    own = isinstance(error, OriginalsError) or type(error) is ValueError
    return str(error) if own else type(error).__name__


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        orig = getattr(error, "orig", None)  # what SQLAlchemy was told
        error = orig if isinstance(orig, BaseException) else error.__cause__
