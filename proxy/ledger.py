"""The ledger: one row a request, in SQLite by default. The only file that knows SQL beside the originals'.

It does no sums of its own on a row (accounting does) and never stands in a request's way: `write` appends to a list,
one task puts what has gathered into the database every quarter of a second. The invariant: a row that was written is
stored, waiting, or counted as lost; `kill -9` costs what has gathered since the last transaction and nothing else.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, get_type_hints

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    FromClause,
    MetaData,
    Select,
    Table,
    Text,
    case,
    distinct,
    event,
    func,
    literal,
    make_url,
    select,
)
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeEngine

from .accounting import COUNTED, Row
from .originals import prepare

Figure = str | int | float | None
Total = dict[str, Figure]

log = logging.getLogger(__name__)

# Append-only: a step that has been released is never changed, a new one is added. Each runs once, in order.
STEPS: tuple[str, ...] = (
    """
    CREATE TABLE ledger (
        "id" TEXT NOT NULL PRIMARY KEY, "at" DOUBLE PRECISION NOT NULL,
        "protocol" TEXT NOT NULL, "path" TEXT NOT NULL, "model" TEXT NOT NULL,
        "mode_asked" TEXT NOT NULL, "mode_used" TEXT NOT NULL, "engine" TEXT NOT NULL,
        "streamed" BOOLEAN NOT NULL, "status" BIGINT NOT NULL, "outcome" TEXT NOT NULL,
        "tokens_received" BIGINT NOT NULL, "tokens_sent" BIGINT NOT NULL, "tokens_estimated" BOOLEAN NOT NULL,
        "would_send" BIGINT, "billed_input" BIGINT, "billed_output" BIGINT, "billed_reasoning" BIGINT,
        "billed_cache_read" BIGINT, "billed_cache_write" BIGINT,
        "compressor_seconds" DOUBLE PRECISION NOT NULL, "compressor_tokens" BIGINT NOT NULL,
        "gpu_seconds" DOUBLE PRECISION NOT NULL, "fetched_back_tokens" BIGINT NOT NULL,
        "price_input" DOUBLE PRECISION, "price_output" DOUBLE PRECISION,
        "price_cache_read" DOUBLE PRECISION, "price_cache_write" DOUBLE PRECISION,
        "cost" DOUBLE PRECISION, "saved_tokens" BIGINT NOT NULL, "saved_cost" DOUBLE PRECISION,
        "latency_ms" DOUBLE PRECISION NOT NULL, "overhead_ms" DOUBLE PRECISION NOT NULL,
        "skipped" TEXT NOT NULL, "passages" TEXT NOT NULL,
        "session" TEXT NOT NULL, "user" TEXT NOT NULL, "project" TEXT NOT NULL, "tags" TEXT NOT NULL
    )
    """,
    'CREATE INDEX ledger_at ON ledger ("at")',
)

# Rows in one INSERT. A statement lets go of the interpreter once; beside a busy event loop each such handover can cost
# five milliseconds, so that `executemany`, with one a row, stores some 400 rows a second and these some 20,000.
SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)

# What a row can do to a transaction, as opposed to what a database or a disk can.
POISON = (UnicodeEncodeError, OverflowError, TypeError, ProgrammingError, InterfaceError, DataError, IntegrityError)

GROUPS = ("all", "model", "day", "mode", "tool", "tag", "project", "session", "user")


def _type(hint: object) -> TypeEngine[Any]:
    if hint is bool:
        return Boolean()
    if hint in {int, int | None}:
        return BigInteger()
    return Double() if hint in {float, float | None} else Text()


TABLE = Table("ledger", MetaData(), *(Column(name, _type(hint)) for name, hint in get_type_hints(Row).items()))


class Ledger:
    """Rows in, totals out.

    `url` is SQLAlchemy's (`sqlite:///PATH`); `every` is seconds between two transactions; `most` is how many rows wait
    at most while the database cannot be written to. `lost` counts the rows that are stored nowhere.
    """

    def __init__(self, url: str, *, every: float = 0.25, most: int = 100_000) -> None:
        self._url = make_url(url)
        self._every = every
        self._most = most
        self._waiting: list[Row] = []
        self._awake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._engine: AsyncEngine | None = None
        self._task: asyncio.Task[None] | None = None
        self._down = False
        self.lost = 0

    async def start(self) -> None:
        """Open or make the database, bring it up to date and start writing.

        Raises sqlite3's or sqlalchemy's errors or OSError when it cannot be opened, ValueError when it is not ours.
        """
        self._engine = _open(self._url)
        if self._url.database not in {None, "", ":memory:"}:
            await asyncio.to_thread(prepare, Path(str(self._url.database)))
        async with self._engine.begin() as connection:
            await _migrate(connection)
        self._task = asyncio.create_task(self._run())

    def write(self, row: Row) -> None:
        """Hand a row over; to be called on the event loop. Never waits and never raises. `row.id` must be unique."""
        if len(self._waiting) < self._most:
            self._waiting.append(row)
            self._awake.set()
        else:
            self.lost += 1

    async def flush(self) -> None:
        """Store every row that has been written so far, or keep it waiting if that fails."""
        async with self._lock:
            self._awake.clear()
            batch, self._waiting = self._waiting, []
            left = batch
            try:
                left = await self._store(batch)
            finally:
                self._keep(left)

    async def stop(self) -> None:
        """Store what is waiting and close the database; what cannot be stored then is lost, and counted."""
        if self._task is not None:
            async with self._lock:  # never in the middle of a transaction
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        if self._waiting:
            log.error("ledger closed with %d rows not stored", len(self._waiting))
            self.lost += len(self._waiting)
        if self._engine is not None:
            await self._engine.dispose()

    async def rows(self, since: float = 0.0, limit: int = 100) -> list[Row]:
        """Return the newest stored rows from `since` (Unix seconds) on, newest first."""
        found = select(TABLE).where(TABLE.c.at >= since).order_by(TABLE.c.at.desc()).limit(limit)
        async with self._connected().connect() as connection:
            return [Row(*row) for row in await connection.execute(found)]

    async def totals(self, by: str = "all", since: float = 0.0, until: float | None = None) -> list[Total]:
        """Add up the stored rows from `since` to before `until` (Unix seconds), one dictionary a group.

        `by` is one of `GROUPS` (days are UTC) or `tag:NAME` (the values of one tag), else ValueError is raised. A sum
        is None when nothing is known of it. Tokens are those of requests that came to something (`COUNTED`). By tool,
        there are only the figures of the passages that the tool's answers were. By tool and by tag (`NAME=VALUE`) a
        request stands in as many groups as it has of them, and in none without.
        """
        found = (_by_tool() if by == "tool" else _by(by)).where(TABLE.c.at >= since)
        if until is not None:
            found = found.where(TABLE.c.at < until)
        async with self._connected().connect() as connection:
            return [dict(row) for row in (await connection.execute(found)).mappings()]

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("the ledger has not been started")
        return self._engine

    async def _run(self) -> None:
        while True:
            await self._awake.wait()
            await asyncio.sleep(self._every * 8 if self._down else self._every)
            await self.flush()

    async def _store(self, batch: list[Row]) -> list[Row]:
        """Store rows and return those that are to be tried again."""
        try:
            await self._insert(batch)
        except POISON as error:
            # The transaction was undone: find the row that spoils it, so that it takes no other with it.
            if len(batch) > 1:
                half = len(batch) // 2
                return await self._store(batch[:half]) + await self._store(batch[half:])
            clean = _readable(batch[0])
            if clean != batch[0]:
                return await self._store([clean])
            self.lost += 1
            log.error("a row does not fit the ledger and is lost: %s", type(error).__name__)
        except (SQLAlchemyError, OSError, ValueError) as error:
            if not self._down:
                log.error("the ledger cannot be written to, rows wait: %s", type(error).__name__)
            self._down = True
            return batch
        else:
            if self._down and batch:
                log.warning("the ledger can be written to again")
            self._down = self._down and not batch
        return []

    async def _insert(self, batch: Sequence[Row]) -> None:
        if not batch:
            return
        async with self._connected().begin() as connection:
            for chunk in _chunks(batch):
                await connection.exec_driver_sql(_INSERTS[len(chunk)], tuple(chain.from_iterable(chunk)))

    def _keep(self, rows: list[Row]) -> None:
        if rows:
            kept = (rows + self._waiting)[: self._most]
            self.lost += len(rows) + len(self._waiting) - len(kept)
            self._waiting = kept
            self._awake.set()


def _insert_of(size: int) -> str:
    # Marks as SQLite wants them; a database with others gets its own here. A row tried again may be there already.
    names = ", ".join(f'"{name}"' for name in Row._fields)
    marks = f"({', '.join('?' * len(Row._fields))})"
    return f"INSERT INTO ledger ({names}) VALUES {', '.join([marks] * size)} ON CONFLICT DO NOTHING"  # noqa: S608


_INSERTS = {size: _insert_of(size) for size in SIZES}


def _chunks(batch: Sequence[Row]) -> Iterable[Sequence[Row]]:
    start = 0
    while start < len(batch):
        size = next(size for size in SIZES if size <= len(batch) - start)
        yield batch[start : start + size]
        start += size


def _readable(row: Row) -> Row:
    return Row._make(value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in row)


def _open(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        raise ValueError(f"the ledger cannot be kept in {url.get_backend_name()} yet, only in sqlite")
    # Parameters are labels that people chose: they are kept out of error messages.
    engine = create_async_engine(url.set(drivername="sqlite+aiosqlite"), hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _set_up)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


async def _migrate(connection: AsyncConnection) -> None:
    run = connection.exec_driver_sql
    await run("CREATE TABLE IF NOT EXISTS ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL)")
    # Writing first takes the lock, so that of two processes that start at once the second finds the work done.
    await run("INSERT INTO ledger_version VALUES (1, 0) ON CONFLICT DO NOTHING")
    step = int((await run("SELECT step FROM ledger_version")).scalar_one())
    if step > len(STEPS):
        raise ValueError(f"the ledger is at step {step}, this version knows {len(STEPS)}: it was made by a later one")
    for statement in STEPS[step:]:
        await run(statement)
    await run("UPDATE ledger_version SET step = ?", (len(STEPS),))


def _by(by: str) -> Select[*tuple[Any, ...]]:
    of = TABLE.c
    counted = of.outcome.in_(COUNTED)
    rows, group = _group(by)
    sums: dict[str, ColumnElement[Any]] = {
        "requests": func.count(),
        "failures": func.count().filter(~counted),
        "received": _sum(of.tokens_received, counted),
        "sent": _sum(of.tokens_sent, counted),
        "saved": _sum(of.saved_tokens, counted),
        "would_save": _sum(of.tokens_received - of.would_send, counted),
        "fetched_back": _sum(of.fetched_back_tokens),
        "billed_input": func.sum(of.billed_input),
        "billed_output": func.sum(of.billed_output),
        "reasoning": func.sum(of.billed_reasoning),
        "cache_read": func.sum(of.billed_cache_read),
        "cache_write": func.sum(of.billed_cache_write),
        "cost": func.sum(of.cost),
        "saved_cost": func.sum(of.saved_cost),
        "unpriced": func.count().filter(counted, of.cost.is_(None)),
        "unpriced_savings": func.count().filter(counted, of.saved_cost.is_(None)),
        "estimated": func.count().filter(of.tokens_estimated),
        "compressor_tokens": _sum(of.compressor_tokens),
        "compressor_seconds": _sum(of.compressor_seconds),
        "gpu_seconds": _sum(of.gpu_seconds),
        "latency_ms": func.avg(of.latency_ms),
        "overhead_ms": func.avg(of.overhead_ms),
    }
    columns = [group.label("group"), *(total.label(name) for name, total in sums.items())]
    order = group if by == "day" else sums["received"].desc()
    return select(*columns).select_from(rows).group_by(group).order_by(order)


def _group(by: str) -> tuple[FromClause, ColumnElement[Any]]:
    """Return the rows to add up and what to group them by."""
    of = TABLE.c
    kind, colon, name = by.partition(":")
    tag = func.json_each(of.tags).table_valued("key", "value")
    if kind == "tag" and name:
        return TABLE, func.coalesce(select(tag.c.value).where(tag.c.key == name).scalar_subquery(), "")
    if colon or by not in GROUPS:
        raise ValueError(f"totals by {by!r} are not kept: say one of {', '.join(GROUPS)} or tag:NAME")
    if by == "tag":
        return TABLE.join(tag, literal(value=True)), tag.c.key + "=" + tag.c.value
    if by == "all":
        return TABLE, literal("all")
    if by == "day":
        return TABLE, func.date(of.at, "unixepoch")
    return TABLE, of.mode_used if by == "mode" else of[by]


def _by_tool() -> Select[*tuple[Any, ...]]:
    passage = func.json_each(TABLE.c.passages).table_valued("value")
    tool, before, after = (func.json_extract(passage.c.value, f"$.{name}") for name in ("tool", "before", "after"))
    received = func.sum(before)
    sent = func.sum(case((TABLE.c.would_send.is_(None), after), else_=before))
    would_save = func.sum(case((TABLE.c.would_send.is_(None), 0), else_=before - after))
    return (
        select(
            tool.label("group"),
            func.count(distinct(TABLE.c.id)).label("requests"),
            received.label("received"),
            sent.label("sent"),
            (received - sent).label("saved"),
            would_save.label("would_save"),
        )
        .select_from(TABLE)
        .join(passage, literal(value=True))
        .where(TABLE.c.outcome.in_(COUNTED))
        .group_by(tool)
        .order_by(received.desc())
    )


def _sum(column: ColumnElement[Any], where: ColumnElement[bool] | None = None) -> ColumnElement[Any]:
    total = func.sum(column)
    return func.coalesce(total if where is None else total.filter(where), 0)
