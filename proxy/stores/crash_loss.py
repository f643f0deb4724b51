"""How many rows a process was handed, in a file that outlives it: what it took along when it was killed can be told.

A file a process, locked as long as that lives; the system lets go of the lock however the process ends. The number is
written through shared memory, a fraction of a microsecond a row. The invariant: a file that nobody has locked says how
many rows its process was handed, to the last one. (After a power cut it may say less.)
"""

import fcntl
import mmap
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FILE_SUFFIX = ".rows"
_COUNT_BYTES = 8  # bytes, little-endian


class CrashedRun(NamedTuple):
    """What a process that has ended without a word left behind."""

    run: str
    received_rows: int
    path: Path


class RowCounter:
    """The count of this process, named `run`, in a file of `folder`. Blocks for a moment; raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run = uuid.uuid4().hex
        self._path = folder / f"{self.run}{_FILE_SUFFIX}"
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.ftruncate(self._file, _COUNT_BYTES)
        self._memory = mmap.mmap(self._file, _COUNT_BYTES)
        self.received_rows = 0

    def count_row(self) -> None:
        """Count one row more."""
        self.received_rows += 1
        self._memory[:] = self.received_rows.to_bytes(_COUNT_BYTES, "little")

    def leave_file(self) -> None:
        """Leave the file to the next process."""
        self._memory.close()
        os.close(self._file)

    def remove_file(self) -> None:
        """Remove the file: all rows are accounted for."""
        self._path.unlink(missing_ok=True)
        self.leave_file()


def find_crashed_runs(folder: Path) -> Iterator[CrashedRun]:
    """Find what processes that have ended left behind; whoever has settled that removes the file.

    While it is looked at, no other process finds it.
    """
    for path in folder.glob(f"*{_FILE_SUFFIX}"):
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said = os.read(file, _COUNT_BYTES)
            # A file without a number is one that another process is just making, or died making.
            if path.exists() and len(said) == _COUNT_BYTES:
                yield CrashedRun(path.stem, int.from_bytes(said, "little"), path)
        except BlockingIOError:
            continue
        finally:
            os.close(file)
