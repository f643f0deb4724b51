"""Descriptions of errors, and throttled warnings."""

import logging
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from clara_proxy.proxy.stores.errors import ThrottledLogger, describe
from clara_proxy.proxy.stores.originals import OriginalsError

FULL = sqlite3.OperationalError("database or disk is full")


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FULL, "database or disk is full"),
        (OperationalError("INSERT secret", None, FULL), "database or disk is full"),
        (
            with_cause(OriginalsError("the originals cannot be reached: OperationalError"), FULL),
            "database or disk is full",
        ),
        (OriginalsError("redis needs the extra"), "redis needs the extra"),
        (PermissionError(13, "Permission denied", "/secret"), "Permission denied"),
        (with_cause(RuntimeError("secret"), OSError(28, "No space left on device")), "No space left on device"),
        (RuntimeError("secret"), "RuntimeError"),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret"), "UnicodeDecodeError"),
    ],
)
def test_only_database_and_system_messages_are_shown(error: Exception, message: str) -> None:
    assert describe(error) == message


def test_repeated_warnings_are_throttled(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("throttled")
    throttled, unthrottled = ThrottledLogger(log), ThrottledLogger(log, interval=0)
    for _ in range(100):
        throttled.warn("the disk is full")
        unthrottled.warn("and again")
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("the disk is full") == 1
    assert len(messages) == 101
