"""Reports on the ledger of a data directory, for the command line."""

import shutil
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..stores.ledger import ledger_url, select_dialect
from ..stores.ledger_audit import describe_damage
from ..stores.ledger_sqlite import SqliteDialect
from . import render

_OWN_ERRORS = (ValueError, TypeError, OverflowError)  # invalid arguments or bugs, not errors of the database


class LedgerError(ValueError):
    """The ledger's database is damaged, or cannot be reached."""


async def render_savings(
    folder: Path, since: str, by: str, fmt: str, url: str | None = None, *, width: int | None = None
) -> str:
    """Return a report on the ledger in a folder, or at `url`.

    `width` limits the width of a table (see `get_terminal_width`).

    Raises:
        LedgerError: the ledger cannot be read.
        ValueError: the time, the grouping or the format is invalid, or the folder contains no ledger.
    """
    location = locate_ledger(folder, url)
    with map_ledger_errors(location):
        return await render.build_report(location, since, by, fmt, width)


def locate_ledger(folder: Path, url: str | None = None) -> str:
    """Return the URL of the ledger. Raises ValueError if its file does not exist."""
    if url is None and not (folder / "ledger.sqlite3").exists():
        raise ValueError(
            f"there is no ledger in {folder}: run the proxy with this data directory first, or use another"
        )
    return ledger_url(folder, url)


@contextmanager
def map_ledger_errors(url: str) -> Generator[None]:
    """Convert the errors of the ledger's database to LedgerErrors with its message, but without the URL.

    Raises ValueError for an unsupported database.
    """
    dialect = select_dialect(url)
    database_errors = (error_type for error_type in dialect.error_types if error_type not in _OWN_ERRORS)
    error_types: tuple[type[Exception], ...] = (*database_errors, sqlite3.Error)  # the latter when a file is opened
    try:
        yield
    except BrokenPipeError:  # the reader of the output has stopped
        raise
    except error_types as error:
        path = f" {dialect.path}" if isinstance(dialect, SqliteDialect) else ""
        raise LedgerError(f"the ledger{path} cannot be read: {describe_damage(error)}") from error


def get_terminal_width(stream: TextIO) -> int | None:
    """Return the width of the terminal, or None if the output is not a terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None
