"""What is said of errors, and how often."""

import logging
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from clara_proxy.proxy.stores.errors import ThrottledLogger, describe
from clara_proxy.proxy.stores.originals import OriginalsError

FULL = sqlite3.OperationalError("database or disk is full")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "database or disk is full"),
        (OperationalError("INSERT secret", None, FULL), "database or disk is full"),
        (caused(OriginalsError("the originals cannot be reached: OperationalError"), FULL), "database or disk is full"),
        (OriginalsError("redis needs the extra"), "redis needs the extra"),
        (PermissionError(13, "Permission denied", "/secret"), "Permission denied"),
        (caused(RuntimeError("secret"), OSError(28, "No space left on device")), "No space left on device"),
        (RuntimeError("secret"), "RuntimeError"),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret"), "UnicodeDecodeError"),
    ],
)
def test_the_words_of_a_database_or_the_system_are_said_and_nobody_elses(error: Exception, said: str) -> None:
    assert describe(error) == said


def test_what_happens_all_the_time_is_said_once_a_while(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("seldom")
    seldom, often = ThrottledLogger(log), ThrottledLogger(log, interval=0)
    for _ in range(100):
        seldom.warn("the disk is full")
        often.warn("and again")
    said = [record.getMessage() for record in caplog.records]
    assert said.count("the disk is full") == 1
    assert len(said) == 101
