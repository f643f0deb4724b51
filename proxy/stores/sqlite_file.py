"""SQLite files that only their owner can read, in write-ahead mode, and that can release free space."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path


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
