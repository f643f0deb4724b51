"""Originals in an SQLite file, for the processes of one machine.

One thread of its own does all the reading and writing. After a power cut the last inserts may be gone; the client still
has the texts, and sending its conversation again puts them again under the same names.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

from . import sqlite_file
from .originals_store import Entry, EntryInfo, EntryKey, OriginalsError, map_store_errors

_TABLE = """
    CREATE TABLE IF NOT EXISTS originals (
        owner TEXT NOT NULL, name TEXT NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL, PRIMARY KEY (owner, name)
    )
"""
_INDEX = "CREATE INDEX IF NOT EXISTS originals_expires ON originals (expires)"
_INSERT = "INSERT INTO originals (owner, name, expires, body) VALUES"
_EXTEND_EXPIRY = "ON CONFLICT DO UPDATE SET expires = max(expires, excluded.expires)"
_USED_BYTES = """
    SELECT (page_count - freelist_count) * page_size
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
# A stopped thread pool raises RuntimeError, a text that SQLite cannot take ValueError or OverflowError.
_ERROR_TYPES = (sqlite3.Error, OSError, RuntimeError, ValueError, OverflowError)
_BATCH_SIZE = 64  # rows in one statement: it lets go of the interpreter once, and not once for each row

Result = TypeVar("Result")


class SqliteStore:
    """A store in the SQLite file at `path`, which nobody else on the machine can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._deletions_path = path.with_name(f"{path.name}-drops")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="originals")
        self._database: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Open or make the file. Raises OriginalsError when that cannot be done."""
        await self._run_in_thread(self._open)

    async def stop(self) -> None:
        """Close the file."""
        await self._run_in_thread(self._close)
        self._thread.shutdown()

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries, `_BATCH_SIZE` in a transaction; what is there already only gets a later expiry."""
        await self._run_in_thread(lambda: self._insert_entries(entries))

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Give later expiries to those of the entries that are there, and say which are."""
        return await self._run_in_thread(lambda: self._extend_expiry(entries))

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return those bodies that the owner has under these names and that have not expired."""
        return await self._run_in_thread(lambda: self._read_bodies(owner, names, now))

    async def read_deletion_version(self) -> int:
        """Return how often something was dropped: a byte each in a file of its own, whose size takes no thread."""
        try:
            return self._deletions_path.stat().st_size
        except OSError:
            return 0

    async def read_used_bytes(self) -> int:
        """Return the bytes of the pages that are in use; the log beside the file is not counted."""
        return await self._run_in_thread(lambda: int(self._get_connection().execute(_USED_BYTES).fetchone()[0]))

    async def delete_expired(self, now: float) -> int:
        """Wipe what has expired from the disk, and say how many entries that were."""
        return await self._run_in_thread(lambda: self._delete_where("expires <= ?", now))

    async def delete_all(self, owner: str | None) -> int:
        """Wipe everything, or all that one owner has, and say how many entries that were."""
        return await self._run_in_thread(lambda: self._delete_all(owner))

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or of one name if that is said, those first that are kept longest."""
        asked = (
            "SELECT owner, name, expires, length(body) FROM originals"
            " WHERE owner = coalesce(?, owner) AND name = coalesce(?, name) ORDER BY expires DESC LIMIT ?"
        )
        return await self._run_in_thread(
            lambda: [EntryInfo(*row) for row in self._get_connection().execute(asked, (owner, name, limit))]
        )

    async def _run_in_thread(self, work: Callable[[], Result]) -> Result:
        with map_store_errors(*_ERROR_TYPES):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # what follows runs in the thread

    def _open(self) -> None:
        sqlite_file.create_file(self._path)
        self._database = sqlite3.connect(self._path, isolation_level=None)
        for statement in ("PRAGMA synchronous = NORMAL", "PRAGMA secure_delete = ON", _TABLE, _INDEX):
            self._database.execute(statement)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _get_connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise OriginalsError("the store of originals is not open")
        return self._database

    def _insert_entries(self, entries: Sequence[Entry]) -> None:
        for start in range(0, len(entries), _BATCH_SIZE):
            some = entries[start : start + _BATCH_SIZE]
            values = ", ".join(["(?, ?, ?, ?)"] * len(some))
            self._get_connection().execute(f"{_INSERT} {values} {_EXTEND_EXPIRY}", tuple(chain.from_iterable(some)))

    def _extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        later = "UPDATE originals SET expires = max(expires, ?) WHERE owner = ? AND name = ?"
        found = [
            (entry.owner, entry.name)
            for entry in entries
            if self._get_connection().execute(later, (entry.expires, entry.owner, entry.name)).rowcount
        ]
        return set(found)

    def _read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        marks = ", ".join("?" * len(names))
        asked = f"SELECT name, body FROM originals WHERE owner = ? AND expires > ? AND name IN ({marks})"  # noqa: S608
        return dict(self._get_connection().execute(asked, (owner, now, *names)).fetchall())

    def _delete_all(self, owner: str | None) -> int:
        gone = self._delete_where("owner = coalesce(?, owner)", owner)
        if gone:  # told afterwards: who hears of it stores anew, and that must stay
            with self._deletions_path.open("ab") as drops:
                drops.write(b".")
        return gone

    def _delete_where(self, where: str, value: object) -> int:
        gone = self._get_connection().execute(f"DELETE FROM originals WHERE {where}", (value,)).rowcount  # noqa: S608
        if gone:
            sqlite_file.release_free_pages(self._get_connection())
        return gone
