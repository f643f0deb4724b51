"""Errors at start, and descriptions of errors that are safe to log.

Messages of SQLite and of the operating system contain no user data; of other errors only the type is logged. The
invariant: no description contains an address, because addresses may contain passwords.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator

from .originals import OriginalsError


class StartupError(Exception):
    """The proxy cannot start; the message names the problem, its cause and the setting."""


class ThrottledLogger:
    """Logs a warning at most once every `interval` seconds, with the number of suppressed ones."""

    def __init__(self, log: logging.Logger, interval: float = 60.0) -> None:
        self._log = log
        self._interval = interval
        self._next_log_time = 0.0
        self._suppressed_count = 0

    def warn(self, message: str) -> None:
        """Log the message, or count it if the last one is too recent."""
        now = time.monotonic()
        if now < self._next_log_time:
            self._suppressed_count += 1
            return
        suffix = f" ({self._suppressed_count:,} more since the last message)" if self._suppressed_count else ""
        self._next_log_time, self._suppressed_count = now + self._interval, 0
        self._log.warning("%s%s", message, suffix)


def describe(error: BaseException) -> str:
    """Return the message of SQLite, of the operating system or of this project, or else the type of the error."""
    for cause in _iter_causes(error):
        if isinstance(cause, sqlite3.Error):
            return str(cause)
        if isinstance(cause, OSError):
            return cause.strerror or type(cause).__name__
    is_own_error = isinstance(error, OriginalsError) or type(error) is ValueError
    return str(error) if is_own_error else type(error).__name__


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        orig = getattr(error, "orig", None)  # the driver's error within SQLAlchemy's
        error = orig if isinstance(orig, BaseException) else error.__cause__
