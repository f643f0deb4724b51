"""SQLite files that only their owner can read, in write-ahead mode, and that can release free space."""

import errno
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path


class OpenedFile:
    """A file as it was when it was opened: a database goes on in a file that was removed or replaced since then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._read_identity()

    def check(self) -> None:
        """Raise FileNotFoundError if the path no longer leads to the opened file."""
        if self._read_identity() != self._identity:
            raise FileNotFoundError(errno.ENOENT, "the database file was removed or replaced; restart the proxy")

    def _read_identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


def create_file(path: Path) -> None:
    """Create an SQLite file. Blocks; raises OSError or sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _enable_wal(database, tries=100)
    finally:
        database.close()


def is_read_only(path: Path) -> bool:
    """Return True if an existing file, or its directory, cannot be written: SQLite needs both."""
    return path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def is_empty_database(path: Path) -> bool:
    """Return True if a database does not exist or has no table; False if it cannot be read. Blocks."""
    if not path.exists() or not path.stat().st_size:
        return True
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.Error:
        return False


def release_free_pages(database: sqlite3.Connection) -> None:
    """Return the space of deleted rows to the disk. Blocks; raises sqlite3.Error."""
    # As a script: with `execute`, each fetch frees only one page.
    database.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")


def release_some_pages(database: sqlite3.Connection, pages: int) -> bool:
    """Return the space of some free pages to the disk; return True if more are left. Blocks; raises sqlite3.Error."""
    before = _count_free_pages(database)
    database.executescript(f"PRAGMA incremental_vacuum({pages})")
    return 0 < _count_free_pages(database) < before


def truncate_log(database: sqlite3.Connection) -> None:
    """Empty the write-ahead log, unless another process uses it. Blocks; raises sqlite3.Error."""
    (timeout,) = database.execute("PRAGMA busy_timeout").fetchone()
    database.execute("PRAGMA busy_timeout = 0")
    try:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        database.execute(f"PRAGMA busy_timeout = {timeout}")


def _count_free_pages(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA freelist_count").fetchone()[0])


def _enable_wal(database: sqlite3.Connection, tries: int) -> None:
    # SQLite does not wait for the lock here, and processes may start at the same time.
    for attempt in range(tries):
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if attempt == tries - 1:
                raise
            time.sleep(0.02)
        else:
            return
