"""An SQLite file of ours: for its owner's eyes alone, in write-ahead mode, and able to give space back."""

import os
import sqlite3
import time
from pathlib import Path


def create_file(path: Path) -> None:
    """Make an SQLite file that only its owner can read, in write-ahead mode. Blocks; raises OSError, sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _enable_wal(database, tries=100)
    finally:
        database.close()


def release_free_pages(database: sqlite3.Connection) -> None:
    """Give the space of deleted rows back to the disk. Blocks; raises sqlite3.Error."""
    # As a script, because fetching from this pragma takes one step and frees one page.
    database.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")


def _enable_wal(database: sqlite3.Connection, tries: int) -> None:
    # SQLite does not wait for its lock here, and processes may start together.
    for attempt in range(tries):
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if attempt == tries - 1:
                raise
            time.sleep(0.02)
        else:
            return
