"""What the ledger of a data directory says: behind `clara-proxy report`, its like, and the demonstration."""

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

_OWN_ERRORS = (ValueError, TypeError, OverflowError)  # not the database's: what was asked for, or a mistake of our own


class LedgerError(ValueError):
    """The ledger's database is damaged, or cannot be reached."""


async def render_savings(
    folder: Path, since: str, by: str, fmt: str, url: str | None = None, *, width: int | None = None
) -> str:
    """Return the totals since then as a report; `url` says where the ledger is if not in the folder.

    A table is as wide as its figures need, or `width` columns at most (see `room`).

    Raises:
        LedgerError: the ledger cannot be read.
        ValueError: a span of time, a grouping or a format that does not exist, or a directory without a ledger.
    """
    where = locate_ledger(folder, url)
    with map_ledger_errors(where):
        return await render.build_report(where, since, by, fmt, width)


def locate_ledger(folder: Path, url: str | None = None) -> str:
    """Return where the ledger is. Raises ValueError when it is in the folder and not there."""
    if url is None and not (folder / "ledger.sqlite3").exists():
        raise ValueError(f"there is no ledger in {folder}; has the proxy been run with this data directory?")
    return ledger_url(folder, url)


@contextmanager
def map_ledger_errors(url: str) -> Generator[None]:
    """Turn the errors of the ledger's database into LedgerErrors in its own words, without the URL and what is in it.

    Raises ValueError for a URL of another kind of database.
    """
    dialect = select_dialect(url)
    theirs = (kind for kind in dialect.error_types if kind not in _OWN_ERRORS)
    trouble: tuple[type[Exception], ...] = (*theirs, sqlite3.Error)  # the latter while a file is opened
    try:
        yield
    except BrokenPipeError:  # whoever reads what is printed has gone
        raise
    except trouble as error:
        where = f" {dialect.path}" if isinstance(dialect, SqliteDialect) else ""
        raise LedgerError(f"the ledger{where} cannot be read: {describe_damage(error)}") from error


def get_terminal_width(page: TextIO) -> int | None:
    """Return how many columns there are where a page is shown: those of a terminal, else None, for any number."""
    return shutil.get_terminal_size().columns if page.isatty() else None
