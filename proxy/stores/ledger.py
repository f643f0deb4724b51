"""The ledger: one row per request, in SQLite by default or in PostgreSQL by URL.

A request never waits for the ledger: `write` and `write_later` append the row to a list, and a task stores the pending
rows every quarter of a second, together with the totals of their days. The invariant: every written row is stored,
pending, or counted as lost. `kill -9` loses only the pending rows, and the next start reports their number.
"""

import asyncio
import errno
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Self

from sqlalchemy import delete, func, make_url, select, tuple_

from ...config.extras import describe_install
from . import ledger_totals
from .async_engine import AsyncConnection, AsyncEngine
from .crash_loss import RowCounter, find_crashed_runs
from .ledger_dialect import SECONDS_PER_DAY, Dialect
from .ledger_row import Row, sanitize_row
from .ledger_schema import DAILY_TABLE, LEDGER_TABLE, RUNS_TABLE, migrate
from .ledger_sqlite import SqliteDialect
from .ledger_totals import GROUPINGS, Total, TotalValue
from .pending_rows import PendingRows

__all__ = ["GROUPINGS", "Ledger", "Total", "TotalValue", "select_dialect"]

PAGE_ROWS = 2_000  # rows of one query
log = logging.getLogger(__name__)


class Ledger:
    """The ledger at `url` (`sqlite:///PATH` or `postgresql://...`).

    Args:
        url: SQLAlchemy's URL of the database.
        flush_interval: seconds between two transactions.
        max_pending_rows: how many rows wait at most while the database cannot be written.
        row_count_folder: where the process counts its rows, so that the next one can tell how many a crash lost.

    `previously_lost_rows` counts the rows that earlier processes could not store. Each of `observers` is called with
    every row and must be quick.
    """

    def __init__(
        self,
        url: str,
        *,
        flush_interval: float = 0.25,
        max_pending_rows: int = 100_000,
        row_count_folder: Path | None = None,
    ) -> None:
        self._dialect = select_dialect(url)
        self._rollups = ledger_totals.get_new_row_statements(self._dialect)
        self._flush_interval = flush_interval
        self._row_count_folder = row_count_folder
        self._row_counter: RowCounter | None = None
        self._pending = PendingRows(max_pending_rows)
        self._wakeup = asyncio.Event()
        self._lock = asyncio.Lock()
        self._engine: AsyncEngine | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_unavailable = False
        self._stored_rows = 0  # of this process
        self.previously_lost_rows = 0

    @property
    def dialect(self) -> Dialect:
        """The dialect of the database."""
        return self._dialect

    @property
    def engine(self) -> AsyncEngine:
        """The open database. Raises RuntimeError if the ledger has not been started."""
        if self._engine is None:
            raise RuntimeError("the ledger has not been started")
        return self._engine

    async def start(self) -> None:
        """Open or create the database, migrate it, count earlier losses, and start the writing task.

        Raises `error_types` of the dialect if the database cannot be opened, and ValueError if a later version created
        it.
        """
        self._engine = await self._dialect.open()
        if isinstance(self._dialect, SqliteDialect) and self._dialect.is_read_only and self._row_count_folder is None:
            return  # for a report
        async with self._engine.begin() as connection:
            await self._dialect.lock(connection)
            if await migrate(connection):
                await self._rebuild_daily_totals(connection)
        if self._row_count_folder is not None:
            await self._recover_crashed_runs(self._row_count_folder)
            self._row_counter = RowCounter(self._row_count_folder)
            await self._register_run(self._row_counter.run)
        self._task = asyncio.create_task(self._flush_periodically())

    async def __aenter__(self) -> Self:
        """Start the ledger."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the ledger."""
        await self.stop()

    def write(self, row: Row) -> None:
        """Add a row with a unique id. Call it on the event loop; it never waits and never raises."""
        self._count_row()
        self._pending.add(row)

    def write_later(self, build: Callable[[], Row]) -> None:
        """Add the row that `build` returns; it is called on the event loop, before rows are read or stored."""
        self._count_row()
        self._pending.add_later(build)

    def build_rows(self) -> None:
        """Build the rows of `write_later`, so that the observers have seen every row."""
        self._pending.build()

    @property
    def observers(self) -> list[Callable[[Row], None]]:
        """The functions that are called with every row."""
        return self._pending.observers

    @property
    def waiting_rows(self) -> int:
        """The number of rows that are not stored yet."""
        return len(self._pending)

    @property
    def lost_rows(self) -> int:
        """The number of rows of this process that could not be stored."""
        return self._pending.lost_rows

    def _count_row(self) -> None:
        if self._row_counter is not None:
            self._row_counter.count_row()
        self._wakeup.set()

    async def check(self) -> None:
        """Raise one of the dialect's `error_types` if the database does not answer, or rows cannot be stored."""
        self._dialect.check_file()
        async with self.engine.connect() as connection:
            await connection.execute(select(1))
        if self._is_unavailable:
            raise OSError(errno.EIO, "the rows of requests cannot be stored")

    async def flush(self) -> None:
        """Store all pending rows; those that cannot be stored stay pending."""
        async with self._lock:
            self._wakeup.clear()
            batch = unstored = self._pending.take()
            try:
                unstored = await self._store_batch(batch)
            finally:
                self._requeue(unstored)

    async def stop(self) -> None:
        """Store the pending rows and close the database; rows that cannot be stored are counted as lost."""
        if self._task is not None:
            async with self._lock:  # do not cancel a transaction
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        if unstored := len(self._pending):
            log.error("%d rows could not be stored before the ledger was closed", unstored)
            self._pending.lost_rows += unstored
        if self._row_counter is not None:
            await self._close_run(self._row_counter)
        if self._engine is not None:
            await self._engine.dispose()

    async def read_newest_rows(self, since: float = 0.0, limit: int = 100) -> list[Row]:
        """Return the newest stored rows from `since` (Unix seconds) on, newest first."""
        query = select(LEDGER_TABLE).where(LEDGER_TABLE.c.at >= since).order_by(LEDGER_TABLE.c.at.desc()).limit(limit)
        async with self.engine.connect() as connection:
            return [Row(*row) for row in await connection.execute(query)]

    async def iter_rows(self, since: float = 0.0, until: float = float("inf")) -> AsyncIterator[Row]:
        """Yield the stored rows from `since` to before `until` (Unix seconds), oldest first."""
        position = tuple_(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id)
        last = (since, "")
        while True:
            query = (
                select(LEDGER_TABLE)
                .where(position > last, LEDGER_TABLE.c.at < until)
                .order_by(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id)
                .limit(PAGE_ROWS)
            )
            async with self.engine.connect() as connection:
                page = [Row(*row) for row in await connection.execute(query)]
            for row in page:
                yield row
            if len(page) < PAGE_ROWS:
                return
            last = (page[-1].at, page[-1].id)

    async def read_totals(self, by: str = "all", since: float = 0.0, until: float | None = None) -> list[Total]:
        """Return the totals of the stored rows from `since` to before `until` (Unix seconds), one mapping per group.

        `by` is one of `GROUPINGS` (days are UTC) or `tag:NAME` (the values of one tag); anything else raises
        ValueError. Unknown sums are None. Tokens and savings are those of requests with a counted outcome. By
        tool and kind there are only the totals of passages; by tool, kind and tag (`NAME=VALUE`) a request counts in
        each of its groups. Whole days come from the stored totals, except by session and by `tag:NAME`.
        """
        query = ledger_totals.build_totals_query(self._dialect, by, since, until)
        async with self.engine.connect() as connection:
            return [ledger_totals.parse_total(by, row) for row in (await connection.execute(query)).mappings()]

    async def count_lost_rows(self) -> int:
        """Return how many rows were lost, by all processes that have ended or reported it."""
        async with self.engine.connect() as connection:
            return int(await connection.scalar(select(func.sum(RUNS_TABLE.c.lost + RUNS_TABLE.c.killed))) or 0)

    async def prune(self, before: float) -> int:
        """Delete rows and totals of whole days (UTC) before `before` (Unix seconds); return how many rows were deleted.

        Each day is one transaction; new rows wait until it ends.
        """
        deleted = 0
        while (day := await self._find_oldest_day()) is not None and (day + 1) * SECONDS_PER_DAY <= before:
            async with self._lock, self.engine.begin() as connection:
                result = await connection.execute(
                    delete(LEDGER_TABLE).where(LEDGER_TABLE.c.at < (day + 1) * SECONDS_PER_DAY)
                )
                deleted += result.rowcount
                await connection.execute(
                    delete(DAILY_TABLE).where(
                        DAILY_TABLE.c.by.in_(ledger_totals.list_daily_groupings()), DAILY_TABLE.c.day <= day
                    )
                )
        if deleted and isinstance(self._dialect, SqliteDialect):
            await asyncio.to_thread(self._dialect.release_free_pages)
        return deleted

    async def _find_oldest_day(self) -> int | None:
        async with self.engine.connect() as connection:
            at = (await connection.execute(select(func.min(LEDGER_TABLE.c.at)))).scalar_one()
        return None if at is None else int(at // SECONDS_PER_DAY)

    async def _flush_periodically(self) -> None:
        while True:
            await self._wakeup.wait()
            await asyncio.sleep(self._flush_interval * 8 if self._is_unavailable else self._flush_interval)
            await self.flush()

    async def _store_batch(self, batch: list[Row]) -> list[Row]:
        """Store rows and return those to be retried."""
        try:
            await self._insert_batch(batch)
        except self._dialect.error_types as error:
            if self._dialect.is_row_error(error):
                return await self._store_valid_rows(batch, error)
            if not self._is_unavailable:
                log.error("the ledger cannot be written; rows stay pending: %s", _describe_database_error(error))
            self._is_unavailable = True
            return batch
        if self._is_unavailable and batch:
            log.warning("the ledger can be written again")
        self._is_unavailable = self._is_unavailable and not batch
        return []

    async def _store_valid_rows(self, batch: list[Row], error: Exception) -> list[Row]:
        # The transaction was rolled back: find the invalid row by bisection, so that no other is lost.
        if len(batch) > 1:
            half = len(batch) // 2
            return await self._store_batch(batch[:half]) + await self._store_batch(batch[half:])
        clean = sanitize_row(batch[0])
        if clean != batch[0]:
            return await self._store_batch([clean])
        self._pending.lost_rows += 1
        log.error("a row is invalid and was lost: %s", type(error).__name__)
        return []

    async def _insert_batch(self, batch: Sequence[Row]) -> None:
        if not batch:
            return
        merged = await ledger_totals.merge_row_passages(batch)
        async with self.engine.begin() as connection:
            new_ids = await self._dialect.insert_rows(connection, batch)
            passages = ledger_totals.encode_new_row_passages(merged, new_ids)
            await connection.exec_driver_sql(self._rollups.by_passage, (passages,))
            encoded_ids = self._dialect.encode_ids(new_ids)
            for statement in self._rollups.others:
                await connection.exec_driver_sql(statement, (encoded_ids,))
            if self._row_counter is not None:
                await self._record_settled(connection, self._row_counter.run, self._settled_rows + len(batch))
        self._stored_rows += len(batch)

    def _requeue(self, rows: list[Row]) -> None:
        if rows:
            self._pending.put_back(rows)
            self._wakeup.set()

    @property
    def _settled_rows(self) -> int:
        """The number of rows of this process that are stored or lost."""
        return self._stored_rows + self.lost_rows

    async def _rebuild_daily_totals(self, connection: AsyncConnection) -> None:
        await connection.execute(delete(DAILY_TABLE))
        statements = ledger_totals.build_rollup_statements(self._dialect, self._dialect.time_range_filter)
        end = 0.0
        while (
            at := await connection.scalar(select(func.min(LEDGER_TABLE.c.at)).where(LEDGER_TABLE.c.at >= end))
        ) is not None:
            start, end = at // SECONDS_PER_DAY * SECONDS_PER_DAY, (at // SECONDS_PER_DAY + 1) * SECONDS_PER_DAY
            for statement in statements:
                await connection.exec_driver_sql(statement, (start, end))

    async def _recover_crashed_runs(self, folder: Path) -> None:
        """Record how many rows killed processes lost, and log a warning."""
        for crashed in find_crashed_runs(folder):
            async with self.engine.begin() as connection:
                settled = await connection.scalar(select(RUNS_TABLE.c.settled).where(RUNS_TABLE.c.run == crashed.run))
                if settled is not None:  # the process wrote to this ledger
                    lost = max(0, crashed.received_rows - settled)
                    await connection.execute(
                        RUNS_TABLE.update().where(RUNS_TABLE.c.run == crashed.run).values(killed=lost)
                    )
                    if lost:
                        log.warning("the proxy was killed before it had stored %d rows of the ledger", lost)
            crashed.path.unlink()
        self.previously_lost_rows = await self.count_lost_rows()

    async def _register_run(self, run: str) -> None:
        async with self.engine.begin() as connection:
            await self._record_settled(connection, run, self._settled_rows)

    async def _record_settled(self, connection: AsyncConnection, run: str, settled: int) -> None:
        values = {"settled": settled, "lost": self.lost_rows}
        insert = self._dialect.build_upsert(RUNS_TABLE).values(run=run, killed=0, **values)
        await connection.execute(insert.on_conflict_do_update(index_elements=["run"], set_=values))

    async def _close_run(self, counter: RowCounter) -> None:
        """Record the lost rows of this process, or delete its record if it lost no rows."""
        try:
            async with self.engine.begin() as connection:
                await self._record_settled(connection, counter.run, self._settled_rows)
                if not self.lost_rows:
                    await connection.execute(delete(RUNS_TABLE).where(RUNS_TABLE.c.run == counter.run))
        except self._dialect.error_types as error:
            log.error("the number of lost rows could not be stored: %s", type(error).__name__)
            counter.leave_file()
        else:
            counter.remove_file()


def ledger_url(folder: Path, url: str | None = None) -> str:
    """Return the URL of the ledger; by default it is a file in the data directory."""
    return url or f"sqlite:///{folder / 'ledger.sqlite3'}"


def select_dialect(url: str) -> Dialect:
    """Return the dialect for a URL. Raises ValueError for another database; the message does not contain the URL."""
    location = make_url(url)
    backend = location.get_backend_name()
    if backend == "sqlite":
        return SqliteDialect(location)
    if backend not in {"postgresql", "postgres"}:
        raise ValueError(f"the ledger cannot be stored in {backend}; use a sqlite or postgresql URL")
    try:
        from .ledger_postgres import PostgresDialect  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError(f"a ledger in postgresql needs the extra: {describe_install('postgres')}") from error
    return PostgresDialect(location)


def _describe_database_error(error: Exception) -> str:
    """Return SQLite's message (such as a full disk), which contains no user data; of other errors only the type."""
    cause = getattr(error, "orig", None)
    return str(cause) if isinstance(cause, sqlite3.Error) else type(error).__name__
