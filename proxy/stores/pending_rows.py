"""The rows that wait to be stored. Some are still to be built: many at once take half the time that each takes alone.

A row is built, limited and shown to the observers before anything reads it, at the latest with the next transaction.
"""

import logging
from collections.abc import Callable
from traceback import format_tb

from .ledger_row import Row
from .tag_limit import TagLimit

BATCH_ROWS = 32  # rows that wait to be built: a millisecond of work
log = logging.getLogger(__name__)


class PendingRows:
    """At most `max_rows` rows. `lost_rows` counts those for which there was no room, or that could not be built."""

    def __init__(self, max_rows: int) -> None:
        self.observers: list[Callable[[Row], None]] = []
        self.lost_rows = 0
        self._max_rows = max_rows
        self._rows: list[Row] = []
        self._builders: list[Callable[[], Row]] = []
        self._tag_limit = TagLimit()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows) + len(self._builders)

    def add(self, row: Row) -> None:
        """Add a row behind all others."""
        self.build()
        self._append(row)

    def add_later(self, build: Callable[[], Row]) -> None:
        """Add the row that `build` returns. It is called on the event loop, before any later row is added."""
        self._builders.append(build)
        if len(self._builders) >= BATCH_ROWS:
            self.build()

    def build(self) -> None:
        """Build the rows that wait for it."""
        builders, self._builders = self._builders, []
        for build in builders:
            try:
                row = build()
            except Exception as error:  # noqa: BLE001 - a fault here must not cost the other rows
                log.error("a row was lost: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
                self.lost_rows += 1
            else:
                self._append(row)

    def take(self) -> list[Row]:
        """Remove and return all rows."""
        self.build()
        rows, self._rows = self._rows, []
        return rows

    def put_back(self, rows: list[Row]) -> None:
        """Put rows back that could not be stored, before all others."""
        self.build()
        rows = rows + self._rows
        self._rows = rows[: self._max_rows]
        self.lost_rows += len(rows) - len(self._rows)

    def _append(self, row: Row) -> None:
        row = self._tag_limit.apply(row)
        for observe in self.observers:
            observe(row)
        if len(self._rows) < self._max_rows:
            self._rows.append(row)
        else:
            self.lost_rows += 1
