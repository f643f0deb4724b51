"""The ledger: one row a request, in SQLite by default, in PostgreSQL by URL.

It does no sums of its own on a row (accounting does) and never stands in a request's way: `write` appends to a list,
one task puts what has gathered into the database every quarter of a second, together with what it adds to the totals
of the day. The invariant: a row that was written is stored, waiting, or counted as lost; `kill -9` costs what has
gathered since the last transaction and nothing else, and the next start says how many rows that were.
"""

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Self

import orjson
from sqlalchemy import delete, func, make_url, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from . import ledger_totals
from .crash_loss import RowCounter, find_crashed_runs
from .ledger_dialect import SECONDS_PER_DAY, Dialect
from .ledger_row import Row
from .ledger_schema import DAILY_TABLE, LEDGER_TABLE, RUNS_TABLE, migrate
from .ledger_sqlite import SqliteDialect
from .ledger_totals import GROUPINGS, Total, TotalValue

__all__ = ["GROUPINGS", "Ledger", "Total", "TotalValue", "select_dialect"]

_NUL_PATTERN = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # in JSON: not after a backslash that is one itself
PAGE_ROWS = 2_000  # rows that are read at once
log = logging.getLogger(__name__)


class Ledger:
    """Rows in, totals out.

    `url` is SQLAlchemy's (`sqlite:///PATH`, `postgresql://...`); `every` is seconds between two transactions; `most` is
    how many rows wait at most while the database cannot be written to. In the folder `tally` the process notes how many
    rows it was handed, so that its successor can tell what was lost if it is killed. `lost` counts the rows of this
    process that are stored nowhere, `lost_before` those of all that wrote to this ledger before. `hearers` are told of
    every row as it is written, so that what they count cannot disagree with the ledger; they must be quick.
    """

    def __init__(
        self,
        url: str,
        *,
        flush_interval: float = 0.25,
        max_pending_rows: int = 100_000,
        row_count_folder: Path | None = None,
    ) -> None:
        self.observers: list[Callable[[Row], None]] = []
        self._dialect = select_dialect(url)
        self._rollups = ledger_totals.build_rollup_statements(self._dialect, self._dialect.new_row_filter)
        self._flush_interval = flush_interval
        self._max_pending_rows = max_pending_rows
        self._row_count_folder = row_count_folder
        self._row_counter: RowCounter | None = None
        self._pending_rows: list[Row] = []
        self._wakeup = asyncio.Event()
        self._lock = asyncio.Lock()
        self._engine: AsyncEngine | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_unavailable = False
        self._settled_rows = 0  # rows of this process that are stored or lost
        self.lost_rows = 0
        self.previously_lost_rows = 0

    @property
    def dialect(self) -> Dialect:
        """What knows this kind of database."""
        return self._dialect

    @property
    def engine(self) -> AsyncEngine:
        """The open database. Raises RuntimeError when the ledger has not been started."""
        if self._engine is None:
            raise RuntimeError("the ledger has not been started")
        return self._engine

    async def start(self) -> None:
        """Open or make the database, bring it up to date, tell what was lost before, and start writing.

        Raises the database's errors (see `trouble` of its dialect) when it cannot be opened, ValueError when it is not
        ours.
        """
        self._engine = await self._dialect.open()
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
        """Open it for as long as the block."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.stop()

    def write(self, row: Row) -> None:
        """Hand a row over; to be called on the event loop. Never waits and never raises. `row.id` must be unique."""
        for hear in self.observers:
            hear(row)
        if self._row_counter is not None:
            self._row_counter.count_row()
        if len(self._pending_rows) < self._max_pending_rows:
            self._pending_rows.append(row)
            self._wakeup.set()
        else:
            self._count_lost(1)

    async def flush(self) -> None:
        """Store every row that has been written so far, or keep it waiting if that fails."""
        async with self._lock:
            self._wakeup.clear()
            batch, self._pending_rows = self._pending_rows, []
            left_over = batch
            try:
                left_over = await self._store_batch(batch)
            finally:
                self._requeue(left_over)

    async def stop(self) -> None:
        """Store what is waiting and close the database; what cannot be stored then is lost, and counted."""
        if self._task is not None:
            async with self._lock:  # never in the middle of a transaction
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        if self._pending_rows:
            log.error("ledger closed with %d rows not stored", len(self._pending_rows))
            self._count_lost(len(self._pending_rows))
        if self._row_counter is not None:
            await self._close_run(self._row_counter)
        if self._engine is not None:
            await self._engine.dispose()

    async def read_newest_rows(self, since: float = 0.0, limit: int = 100) -> list[Row]:
        """Return the newest stored rows from `since` (Unix seconds) on, newest first."""
        found = select(LEDGER_TABLE).where(LEDGER_TABLE.c.at >= since).order_by(LEDGER_TABLE.c.at.desc()).limit(limit)
        async with self.engine.connect() as connection:
            return [Row(*row) for row in await connection.execute(found)]

    async def iter_rows(self, since: float = 0.0, until: float = float("inf")) -> AsyncIterator[Row]:
        """Yield the stored rows from `since` to before `until` (Unix seconds), oldest first."""
        place = tuple_(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id)
        after = (since, "")
        while True:
            found = (
                select(LEDGER_TABLE)
                .where(place > after, LEDGER_TABLE.c.at < until)
                .order_by(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id)
                .limit(PAGE_ROWS)
            )
            async with self.engine.connect() as connection:
                page = [Row(*row) for row in await connection.execute(found)]
            for row in page:
                yield row
            if len(page) < PAGE_ROWS:
                return
            after = (page[-1].at, page[-1].id)

    async def read_totals(self, by: str = "all", since: float = 0.0, until: float | None = None) -> list[Total]:
        """Add up the stored rows from `since` to before `until` (Unix seconds), one dictionary a group.

        `by` is one of `GROUPS` (days are UTC) or `tag:NAME` (the values of one tag), else ValueError is raised. A sum
        is None when nothing is known of it. Tokens are those of requests that came to something (`COUNTED`). By tool,
        there are only the figures of the passages that the tool's answers were. By tool and by tag (`NAME=VALUE`) a
        request stands in as many groups as it has of them, and in none without. Whole days are not added up anew,
        except by session and by `tag:NAME`.
        """
        asked = ledger_totals.build_totals_query(self._dialect, by, since, until)
        async with self.engine.connect() as connection:
            return [ledger_totals.parse_total(by, row) for row in (await connection.execute(asked)).mappings()]

    async def count_lost_rows(self) -> int:
        """Return how many rows of processes that have ended, or have noted it, are stored nowhere."""
        async with self.engine.connect() as connection:
            return int(await connection.scalar(select(func.sum(RUNS_TABLE.c.lost + RUNS_TABLE.c.killed))) or 0)

    async def prune(self, before: float) -> int:
        """Delete the rows and totals of whole days (UTC) before that time (Unix seconds); return how many rows went.

        A day is one transaction; rows that are written meanwhile wait for its end.
        """
        gone = 0
        while (day := await self._find_oldest_day()) is not None and (day + 1) * SECONDS_PER_DAY <= before:
            async with self._lock, self.engine.begin() as connection:
                found = await connection.execute(
                    delete(LEDGER_TABLE).where(LEDGER_TABLE.c.at < (day + 1) * SECONDS_PER_DAY)
                )
                gone += found.rowcount
                await connection.execute(
                    delete(DAILY_TABLE).where(
                        DAILY_TABLE.c.by.in_(ledger_totals.list_daily_groupings()), DAILY_TABLE.c.day <= day
                    )
                )
        if gone and isinstance(self._dialect, SqliteDialect):
            await asyncio.to_thread(self._dialect.release_free_pages)
        return gone

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
        """Store rows and return those that are to be tried again."""
        try:
            await self._insert_batch(batch)
        except self._dialect.error_types as error:
            if self._dialect.is_row_error(error):
                return await self._store_valid_rows(batch, error)
            if not self._is_unavailable:
                log.error("the ledger cannot be written to, rows wait: %s", _describe_database_error(error))
            self._is_unavailable = True
            return batch
        if self._is_unavailable and batch:
            log.warning("the ledger can be written to again")
        self._is_unavailable = self._is_unavailable and not batch
        return []

    async def _store_valid_rows(self, batch: list[Row], error: Exception) -> list[Row]:
        # The transaction was undone: find the row that spoils it, so that it takes no other with it.
        if len(batch) > 1:
            half = len(batch) // 2
            return await self._store_batch(batch[:half]) + await self._store_batch(batch[half:])
        clean = _sanitize_row(batch[0])
        if clean != batch[0]:
            return await self._store_batch([clean])
        self._count_lost(1)
        log.error("a row does not fit the ledger and is lost: %s", type(error).__name__)
        return []

    async def _insert_batch(self, batch: Sequence[Row]) -> None:
        if not batch:
            return
        async with self.engine.begin() as connection:
            fresh = self._dialect.encode_ids(await self._dialect.insert_rows(connection, batch))
            for statement in self._rollups:
                await connection.exec_driver_sql(statement, (fresh,))
            if self._row_counter is not None:
                await self._record_settled(connection, self._row_counter.run, self._settled_rows + len(batch))
        self._settled_rows += len(batch)

    def _requeue(self, rows: list[Row]) -> None:
        if rows:
            kept = (rows + self._pending_rows)[: self._max_pending_rows]
            self._count_lost(len(rows) + len(self._pending_rows) - len(kept))
            self._pending_rows = kept
            self._wakeup.set()

    def _count_lost(self, rows: int) -> None:
        self.lost_rows += rows
        self._settled_rows += rows

    async def rebuild_daily_totals(self) -> None:
        """Make the totals of the days anew from the rows, which are the truth. Nobody else may write meanwhile."""
        async with self._lock, self.engine.begin() as connection:
            await self._rebuild_daily_totals(connection)

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
        """Note what processes that were killed took along, and say so."""
        for process in find_crashed_runs(folder):
            async with self.engine.begin() as connection:
                settled = await connection.scalar(select(RUNS_TABLE.c.settled).where(RUNS_TABLE.c.run == process.run))
                if settled is not None:  # it wrote to this ledger, and not to another one
                    killed = max(0, process.received_rows - settled)
                    await connection.execute(
                        RUNS_TABLE.update().where(RUNS_TABLE.c.run == process.run).values(killed=killed)
                    )
                    if killed:
                        log.warning("the proxy was killed, and with it %d rows that the ledger had not stored", killed)
            process.path.unlink()
        self.previously_lost_rows = await self.count_lost_rows()

    async def _register_run(self, run: str) -> None:
        async with self.engine.begin() as connection:
            await self._record_settled(connection, run, self._settled_rows)

    async def _record_settled(self, connection: AsyncConnection, run: str, settled: int) -> None:
        values = {"settled": settled, "lost": self.lost_rows}
        insert = self._dialect.build_upsert(RUNS_TABLE).values(run=run, killed=0, **values)
        await connection.execute(insert.on_conflict_do_update(index_elements=["run"], set_=values))

    async def _close_run(self, tally: RowCounter) -> None:
        """Leave no trace of a process that lost nothing, and what it lost otherwise."""
        try:
            async with self.engine.begin() as connection:
                await self._record_settled(connection, tally.run, self._settled_rows)
                if not self.lost_rows:
                    await connection.execute(delete(RUNS_TABLE).where(RUNS_TABLE.c.run == tally.run))
        except self._dialect.error_types as error:
            log.error("the ledger was not told how many rows are lost: %s", type(error).__name__)
            tally.leave_file()
        else:
            tally.remove_file()


def ledger_url(folder: Path, url: str | None = None) -> str:
    """Return where the ledger is: at the URL, or else in the data directory."""
    return url or f"sqlite:///{folder / 'ledger.sqlite3'}"


def select_dialect(url: str) -> Dialect:
    """Return what knows the database at this URL. Raises ValueError for another kind, without repeating the URL."""
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        return SqliteDialect(made)
    if made.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError(f"the ledger cannot be kept in {made.get_backend_name()}, only in sqlite or postgresql")
    try:
        from .ledger_postgres import PostgresDialect  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError("a ledger in postgresql needs the extra: pip install 'clara-proxy[postgres]'") from error
    return PostgresDialect(made)


def _describe_database_error(error: Exception) -> str:
    """Say what SQLite says, as that the disk is full: that holds nobody's text; of another error only the kind."""
    cause = getattr(error, "orig", None)
    return str(cause) if isinstance(cause, sqlite3.Error) else type(error).__name__


def _sanitize_row(row: Row) -> Row:
    """Return the row as any database takes it: text is text without NULs, and JSON is JSON of the right kind."""
    values: dict[str, object] = row._asdict()
    values |= {name: _sanitize_text(value) for name, value in values.items() if isinstance(value, str)}
    for name, kind in (("skipped", dict), ("passages", list), ("tags", dict), ("agreement", dict)):
        values[name] = _sanitize_json(str(values[name]), kind)
    return Row._make(values.values())


def _sanitize_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _sanitize_json(text: str, kind: type) -> str:
    text = _NUL_PATTERN.sub(r"\1\\ufffd", text)
    try:
        return text if isinstance(orjson.loads(text), kind) else orjson.dumps(kind()).decode()
    except ValueError:
        return orjson.dumps(kind()).decode()
