"""The ledger in an SQLite file, readable by its owner only."""

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

from .async_engine import AsyncConnection, AsyncEngine, create_async_engine
from .ledger_dialect import COLUMN_NAMES, SECONDS_PER_DAY, Expression, NewRowPassages, PassageColumns, Upsert
from .ledger_row import Row
from .ledger_schema import LEDGER_TABLE
from .sqlite_file import OpenedFile, create_file, is_read_only, release_free_pages

# Rows of one INSERT. Each statement releases the interpreter lock once; beside a busy event loop, getting it back may
# take 5 ms. `executemany` releases it for each row and stores 400 rows a second; these statements store 20,000.
INSERT_SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)


class SqliteDialect:
    """SQLite: one writer at a time."""

    error_types = (SQLAlchemyError, OSError, ValueError, TypeError, OverflowError)

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="sqlite+aiosqlite")
        self._file: OpenedFile | None = None

    @property
    def path(self) -> Path | None:
        """The path of the file; None for a database in memory."""
        return None if self._url.database in {None, "", ":memory:"} else Path(str(self._url.database))

    @property
    def is_read_only(self) -> bool:
        """True if the file exists and cannot be written, as on a read-only file system."""
        return self.path is not None and is_read_only(self.path)

    async def open(self) -> AsyncEngine:
        """Open or create the file. One that cannot be written is opened for reading."""
        url = self._url
        if self.is_read_only and self.path is not None:
            # Without `immutable`, SQLite would write a file for shared memory.
            url = url.set(database=f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", query={"uri": "true"})
        elif self.path is not None:
            await asyncio.to_thread(create_file, self.path)
            self._file = OpenedFile(self.path)
        # Parameters contain labels of users, which must not appear in error messages.
        engine = create_async_engine(url, hide_parameters=True)
        if self.is_read_only:
            return engine
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        return engine

    def release_free_pages(self) -> None:
        """Return the space of deleted rows to the disk. Blocks."""
        if self.path is not None:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
                release_free_pages(database)

    def check_file(self) -> None:
        """Raise FileNotFoundError if the file was removed: rows would be lost in it."""
        if self._file is not None:
            self._file.check()

    async def lock(self, connection: AsyncConnection) -> None:
        """Do nothing: the first write takes the lock."""

    async def insert_rows(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[str]:
        """Insert rows, up to 256 per statement; return the ids of the new ones."""
        self.check_file()
        new_ids: list[str] = []
        for chunk in _split_rows(rows):
            statement = _INSERTS[len(chunk)]
            result = await connection.exec_driver_sql(statement, tuple(chain.from_iterable(chunk)))
            new_ids += [row[0] for row in result]
        return new_ids

    def is_row_error(self, error: Exception) -> bool:
        """Return True if a row has invalid text, numbers, types or JSON."""
        row_errors = (UnicodeEncodeError, OverflowError, TypeError, ProgrammingError, InterfaceError, DataError)
        return isinstance(error, (*row_errors, IntegrityError)) or "malformed JSON" in str(getattr(error, "orig", ""))

    def build_upsert(self, table: Any) -> Upsert:
        """Return SQLite's INSERT."""
        return sqlite.insert(table)

    @property
    def new_row_filter(self) -> ColumnElement[bool]:
        """The condition with a JSON list: one parameter for any number of ids."""
        return LEDGER_TABLE.c.id.in_(text("SELECT value FROM json_each(?)"))

    @property
    def new_row_passages(self) -> NewRowPassages:
        """The rows of a JSON list."""
        row = func.json_each(literal_column("?")).table_valued("value", name="new_row")
        values = (func.json_extract(row.c.value, f"$.{name}") for name in ("id", "passages"))
        return NewRowPassages(row, *values)

    @property
    def time_range_filter(self) -> ColumnElement[bool]:
        """The condition with two positional parameters."""
        return (LEDGER_TABLE.c.at >= literal_column("?")) & (LEDGER_TABLE.c.at < literal_column("?"))

    def encode_ids(self, ids: Sequence[str]) -> object:
        """Return the ids as a JSON list."""
        return orjson.dumps(ids).decode()

    def compile_statement(self, statement: Upsert) -> str:
        """Return the text of a statement, with its constants inlined."""
        return str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))

    def compute_day(self, at: Expression) -> Expression:
        """Return the day; the cast truncates."""
        return cast(at / SECONDS_PER_DAY, BigInteger)

    def expand_tags(self, json: Expression) -> tuple[FromClause, Expression, Expression]:
        """Expand the JSON object."""
        tag = func.json_each(json).table_valued(column("key", Text), column("value", Text))
        return tag, tag.c.key, tag.c.value

    def expand_passages(self, json: Expression) -> PassageColumns:
        """Expand the JSON list."""
        passage = func.json_each(json).table_valued("value")
        names = ("tool", "kind", "before", "after")
        columns = {name: func.json_extract(passage.c.value, f"$.{name}") for name in names}
        return PassageColumns(passage, columns, columns["before"], columns["after"])


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _build_insert(size: int) -> str:
    # A retried row may be stored already.
    placeholders = f"({', '.join('?' * len(Row._fields))})"
    rows = ", ".join([placeholders] * size)
    return f'INSERT INTO ledger ({COLUMN_NAMES}) VALUES {rows} ON CONFLICT DO NOTHING RETURNING "id"'  # noqa: S608


_INSERTS = {size: _build_insert(size) for size in INSERT_SIZES}


def _split_rows(batch: Sequence[Row]) -> Iterable[Sequence[Row]]:
    start = 0
    while start < len(batch):
        size = next(size for size in INSERT_SIZES if size <= len(batch) - start)
        yield batch[start : start + size]
        start += size
