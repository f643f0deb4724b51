"""The ledger in an SQLite file: one writer at a time, and nobody else on the machine reads it."""

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    FromClause,
    Text,
    cast,
    column,
    event,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from .ledger_dialect import COLUMN_NAMES, SECONDS_PER_DAY, Expression, PassageColumns, Upsert
from .ledger_row import Row
from .ledger_schema import LEDGER_TABLE
from .sqlite_file import create_file, release_free_pages

# Rows in one INSERT. A statement lets go of the interpreter once; beside a busy event loop each such handover can cost
# five milliseconds, so that `executemany`, with one a row, stores some 400 rows a second and these some 20,000.
INSERT_SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)


class SqliteDialect:
    """SQLite, one writer at a time."""

    error_types = (SQLAlchemyError, OSError, ValueError, TypeError, OverflowError)

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="sqlite+aiosqlite")

    @property
    def path(self) -> Path | None:
        """The file, unless it is all in memory."""
        return None if self._url.database in {None, "", ":memory:"} else Path(str(self._url.database))

    async def open(self) -> AsyncEngine:
        """Open or make the file, which only its owner can read."""
        if self.path is not None:
            await asyncio.to_thread(create_file, self.path)
        # Parameters are labels that people chose: they are kept out of error messages.
        engine = create_async_engine(self._url, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        return engine

    def release_free_pages(self) -> None:
        """Give the space of deleted rows back to the disk. Blocks."""
        if self.path is not None:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
                release_free_pages(database)

    async def lock(self, connection: AsyncConnection) -> None:
        """Do nothing: whoever writes first has the lock."""

    async def insert_rows(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[str]:
        """Insert rows, some hundred a statement; return the ids of those that were not there."""
        fresh: list[str] = []
        for chunk in _split_rows(rows):
            statement = _INSERTS[len(chunk)]
            found = await connection.exec_driver_sql(statement, tuple(chain.from_iterable(chunk)))
            fresh += [row[0] for row in found]
        return fresh

    def is_row_error(self, error: Exception) -> bool:
        """Say whether a row is to blame: its text, its numbers, its types or its JSON."""
        poison = (UnicodeEncodeError, OverflowError, TypeError, ProgrammingError, InterfaceError, DataError)
        return isinstance(error, (*poison, IntegrityError)) or "malformed JSON" in str(getattr(error, "orig", ""))

    def build_upsert(self, table: Any) -> Upsert:
        """Return SQLite's INSERT."""
        return sqlite.insert(table)

    @property
    def new_row_filter(self) -> ColumnElement[bool]:
        """Compare with a list in JSON: one parameter, however many ids."""
        return LEDGER_TABLE.c.id.in_(text("SELECT value FROM json_each(?)"))

    @property
    def time_range_filter(self) -> ColumnElement[bool]:
        """Compare with two parameters."""
        return (LEDGER_TABLE.c.at >= literal_column("?")) & (LEDGER_TABLE.c.at < literal_column("?"))

    def encode_ids(self, ids: Sequence[str]) -> object:
        """Write the list in JSON."""
        return orjson.dumps(ids).decode()

    def compile_statement(self, statement: Upsert) -> str:
        """Write a statement out, with all its values in it."""
        return str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))

    def compute_day(self, at: Expression) -> Expression:
        """Cut the fraction off."""
        return cast(at / SECONDS_PER_DAY, BigInteger)

    def expand_tags(self, of: Expression) -> tuple[FromClause, Expression, Expression]:
        """Read the object."""
        tag = func.json_each(of).table_valued(column("key", Text), column("value", Text))
        return tag, tag.c.key, tag.c.value

    def expand_passages(self, of: Expression) -> PassageColumns:
        """Read the list of objects."""
        passage = func.json_each(of).table_valued("value")
        names = ("tool", "kind", "before", "after")
        read = {name: func.json_extract(passage.c.value, f"$.{name}") for name in names}
        return PassageColumns(passage, read, read["before"], read["after"])


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _build_insert(size: int) -> str:
    # A row that is tried again may be there already.
    marks = f"({', '.join('?' * len(Row._fields))})"
    rows = ", ".join([marks] * size)
    return f'INSERT INTO ledger ({COLUMN_NAMES}) VALUES {rows} ON CONFLICT DO NOTHING RETURNING "id"'  # noqa: S608


_INSERTS = {size: _build_insert(size) for size in INSERT_SIZES}


def _split_rows(batch: Sequence[Row]) -> Iterable[Sequence[Row]]:
    start = 0
    while start < len(batch):
        size = next(size for size in INSERT_SIZES if size <= len(batch) - start)
        yield batch[start : start + size]
        start += size
