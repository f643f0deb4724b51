"""Originals in an SQLite file, which serves the processes of one machine.

One thread writes, and another one reads, so that reading waits neither for a writer of this process nor for another
one. A power cut may lose the last inserts; the client's next request stores its texts again under the same names.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import ColumnElement, FromClause, bindparam, func, select
from sqlalchemy.dialects import sqlite

from . import sqlite_file
from .originals_sql import DELETE_BATCH, EXPIRY_COLUMNS, TABLE, SqlStore, Statement
from .originals_store import TIMEOUT_SECONDS, Entry, OriginalsError, map_store_errors

_DELETE_BYTES = 2**21  # bytes deleted in one transaction: SQLite overwrites them
_VACUUM_PAGES = 256  # pages that are released at once
_INSERT_BATCH = 64  # rows of one INSERT: the interpreter lock is released once per statement, not per row

Result = TypeVar("Result")


class SqliteStore(SqlStore):
    """A store in the SQLite file at `path`, which only its owner can read. Its last methods run in the thread."""

    # A stopped thread pool raises RuntimeError; texts that SQLite or JSON cannot represent raise the last three.
    _ERROR_TYPES = (sqlite3.Error, OSError, RuntimeError, ValueError, OverflowError, TypeError)
    _ROW = "(?, ?, ?, ?)"
    _SELECT_EXPIRED = (
        "SELECT rowid, length(body) FROM originals WHERE expires <= ? AND owner = coalesce(?, owner)"
        " ORDER BY expires LIMIT ?"
    )
    _greatest, _byte_length = staticmethod(func.max), staticmethod(func.length)
    _used_bytes = Statement(
        "SELECT (page_count - freelist_count) * page_size"
        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    )

    def __init__(self, path: Path) -> None:
        super().__init__(sqlite.dialect())
        self._insert = self._compile(self._complete_upsert(sqlite.insert(TABLE))).sql
        self._path = path
        self._deletions_path = path.with_name(f"{path.name}-drops")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="originals")
        self._reading_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="originals-reading")
        self._database: sqlite3.Connection | None = None
        self._reading_database: sqlite3.Connection | None = None
        self._file: sqlite_file.OpenedFile | None = None

    async def start(self) -> None:
        """Open or create the file. Raises OriginalsError on failure."""
        await self._run_in_thread(self._open)

    async def stop(self) -> None:
        """Close the file."""
        await self._run_in_thread(self._close)
        self._thread.shutdown()
        self._reading_thread.shutdown()

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries, `_INSERT_BATCH` in a transaction; an entry that is stored only gets a later expiry."""
        await self._run_in_thread(lambda: self._insert_entries(entries))

    async def read_deletion_version(self) -> int:
        """Return how often entries were wiped: the size of a file beside the database, read without the thread."""
        try:
            return self._deletions_path.stat().st_size
        except OSError:
            return 0

    def _filter_names(self) -> ColumnElement[bool]:
        names = func.json_each(bindparam("names")).table_valued("value")
        return TABLE.c.name.in_(select(names.c.value))

    def _encode_names(self, names: Sequence[str]) -> object:
        with map_store_errors(*self._ERROR_TYPES):
            return orjson.dumps(list(names)).decode()

    def _select_expiries(self) -> FromClause:
        row = func.json_each(bindparam("entries")).table_valued("value")
        fields = ((name, func.json_extract(row.c.value, f"$[{index}]")) for index, name in enumerate(EXPIRY_COLUMNS))
        return select(*(value.label(name) for name, value in fields)).subquery()

    def _encode_expiries(self, entries: Sequence[Entry]) -> dict[str, object]:
        with map_store_errors(*self._ERROR_TYPES):
            return {"entries": orjson.dumps([entry[:3] for entry in entries]).decode()}

    async def _increment_deletion_version(self) -> None:
        await self._run_in_thread(self._append_deletion)

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return the bodies of the owner's entries. They are read in a thread that never waits for a writer."""
        values = {"owner": owner, "now": now, "names": self._encode_names(names)}
        with map_store_errors(*self._ERROR_TYPES):
            rows = await asyncio.get_running_loop().run_in_executor(self._reading_thread, self._read_rows, values)
        return {row[0]: row[1] for row in rows}

    async def _delete_entries(self, until: float, owner: str | None) -> int:
        deleted = await super()._delete_entries(until, owner)
        has_free_pages = deleted > 0
        while has_free_pages:
            has_free_pages = await self._run_in_thread(self._release_pages)
        if deleted:
            await self._run_in_thread(lambda: sqlite_file.truncate_log(self._get_connection()))
        return deleted

    async def _delete_slice(self, until: float, owner: str | None) -> int:
        return await self._run_in_thread(lambda: self._delete_rows(until, owner))

    async def _fetch(self, statement: Statement, values: Mapping[str, object]) -> list[Any]:
        parameters = statement.bind(values)
        return await self._run_in_thread(lambda: self._get_connection().execute(statement.sql, parameters).fetchall())

    async def _run_in_thread(self, work: Callable[[], Result]) -> Result:
        with map_store_errors(*self._ERROR_TYPES):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        sqlite_file.create_file(self._path)
        self._file = sqlite_file.OpenedFile(self._path)
        self._database = sqlite3.connect(self._path, isolation_level=None, timeout=TIMEOUT_SECONDS)
        for statement in ("PRAGMA synchronous = NORMAL", "PRAGMA secure_delete = ON", *self._create):
            self._database.execute(statement)

        self._reading_database = sqlite3.connect(
            self._path, isolation_level=None, timeout=TIMEOUT_SECONDS, check_same_thread=False
        )

    def _close(self) -> None:
        for database in (self._database, self._reading_database):
            if database is not None:
                database.close()
        self._database = self._reading_database = None

    def _get_connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise OriginalsError("the store of originals is not open")
        if self._file is not None:
            self._file.check()
        return self._database

    def _read_rows(self, values: Mapping[str, object]) -> list[Any]:
        if self._reading_database is None:
            raise OriginalsError("the store of originals is not open")
        return self._reading_database.execute(self._read.sql, self._read.bind(values)).fetchall()

    def _release_pages(self) -> bool:
        return sqlite_file.release_some_pages(self._get_connection(), _VACUUM_PAGES)

    def _delete_rows(self, until: float, owner: str | None) -> int:
        database = self._get_connection()
        database.execute("BEGIN IMMEDIATE")  # another process must not reuse the id of a row in between
        try:
            size, ids = 0, list[int]()
            for row_id, length in database.execute(self._SELECT_EXPIRED, (until, owner, DELETE_BATCH)):
                ids.append(row_id)
                size += length
                if size >= _DELETE_BYTES:
                    break
            database.execute("DELETE FROM originals WHERE rowid IN (SELECT value FROM json_each(?))", (str(ids),))
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
        return len(ids)

    def _insert_entries(self, entries: Sequence[Entry]) -> None:
        for start in range(0, len(entries), _INSERT_BATCH):
            batch = entries[start : start + _INSERT_BATCH]
            statement = self._insert.replace(self._ROW, ", ".join([self._ROW] * len(batch)))
            self._get_connection().execute(statement, tuple(chain.from_iterable(batch)))

    def _append_deletion(self) -> None:
        with self._deletions_path.open("ab") as deletions:
            deletions.write(b".")
