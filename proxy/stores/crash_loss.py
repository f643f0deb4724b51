"""A count of the rows that a process received, in a file that survives its crash: the next process counts the loss.

Each process has a file, locked while it runs; the system releases the lock however the process ends. The count is
written in about a microsecond, not through shared memory: there, a full disk would kill the process. The invariant: an
unlocked file contains the exact number of rows that its process received (after a power cut or a failing disk possibly
fewer).
"""

import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FILE_SUFFIX = ".rows"
_COUNT_BYTES = 8  # bytes, little-endian


class CrashedRun(NamedTuple):
    """The file of a process that did not stop properly."""

    run: str
    received_rows: int
    path: Path


class RowCounter:
    """The row count of this process in a file of `folder`, named after `run`. Blocks briefly; raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run = uuid.uuid4().hex
        self._path = folder / f"{self.run}{_FILE_SUFFIX}"
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.received_rows = 0
        self._write_count()

    def count_row(self) -> None:
        """Count a row."""
        self.received_rows += 1
        try:
            self._write_count()
        except OSError:  # a failing disk must not fail the request
            return

    def _write_count(self) -> None:
        os.pwrite(self._file, self.received_rows.to_bytes(_COUNT_BYTES, "little"), 0)

    def leave_file(self) -> None:
        """Close the file and keep it for the next process."""
        os.close(self._file)

    def remove_file(self) -> None:
        """Remove the file: every row is stored or counted as lost."""
        self._path.unlink(missing_ok=True)
        self.leave_file()


def find_crashed_runs(folder: Path) -> Iterator[CrashedRun]:
    """Yield the files of crashed processes; the caller removes each file.

    While the caller handles a file it stays locked, so that no other process finds it.
    """
    for path in folder.glob(f"*{_FILE_SUFFIX}"):
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            count = os.read(file, _COUNT_BYTES)
            # A file without a count is just being created, or its process crashed before it was.
            if path.exists() and len(count) == _COUNT_BYTES:
                yield CrashedRun(path.stem, int.from_bytes(count, "little"), path)
        except BlockingIOError:
            continue
        finally:
            os.close(file)
