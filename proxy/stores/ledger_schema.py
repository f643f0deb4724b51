"""The tables of the ledger, and the steps that made them what they are.

`ledger` holds the rows and is the truth. `ledger_daily` holds what the rows of a day (UTC) add up to, by model, mode
and so on: it is derived, kept in the same transaction as the rows, and made anew whenever its own step runs.
`ledger_runs` holds, for each process that writes, how many of the rows it was handed are settled.
"""

from typing import Any, get_type_hints

from sqlalchemy import BigInteger, Boolean, Column, Double, MetaData, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from .ledger_row import Row

# Append-only: a step that has been released is never changed, a new one is added. Each runs once, in order.
MIGRATIONS: tuple[str, ...] = (
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
    """
    CREATE TABLE ledger_daily (
        "by" TEXT NOT NULL, "day" BIGINT NOT NULL, "group" TEXT NOT NULL,
        "requests" BIGINT, "failures" BIGINT, "received" BIGINT, "sent" BIGINT, "saved" BIGINT, "would_save" BIGINT,
        "fetched_back" BIGINT, "billed_input" BIGINT, "billed_output" BIGINT, "reasoning" BIGINT,
        "cache_read" BIGINT, "cache_write" BIGINT, "cost" DOUBLE PRECISION, "saved_cost" DOUBLE PRECISION,
        "unpriced" BIGINT, "unpriced_savings" BIGINT, "estimated" BIGINT, "compressor_tokens" BIGINT,
        "compressor_seconds" DOUBLE PRECISION, "gpu_seconds" DOUBLE PRECISION,
        "latency_ms" DOUBLE PRECISION, "overhead_ms" DOUBLE PRECISION,
        PRIMARY KEY ("by", "day", "group")
    )
    """,
    """
    CREATE TABLE ledger_runs (
        "run" TEXT NOT NULL PRIMARY KEY, "settled" BIGINT NOT NULL, "lost" BIGINT NOT NULL, "killed" BIGINT NOT NULL
    )
    """,
    """ALTER TABLE ledger ADD COLUMN "key" TEXT NOT NULL DEFAULT ''""",
    """ALTER TABLE ledger ADD COLUMN "shadow_of" TEXT NOT NULL DEFAULT ''""",
    """ALTER TABLE ledger ADD COLUMN "agreement" TEXT NOT NULL DEFAULT '{}'""",
    *(
        f"""ALTER TABLE ledger ADD COLUMN "{name}" {kind}"""
        for name, kind in (
            ("billed_cache_write_hour", "BIGINT"),
            ("price_cache_write_hour", "DOUBLE PRECISION"),
            ("without_input", "BIGINT"),
            ("without_output", "BIGINT"),
            ("without_cache_read", "BIGINT"),
            ("without_cache_write", "BIGINT"),
            ("cost_without", "DOUBLE PRECISION"),
        )
    ),
    # Before, savings were estimated; what a request would have cost follows from that.
    "UPDATE ledger SET cost_without = cost + saved_cost WHERE saved_cost IS NOT NULL",
    *(
        f"""ALTER TABLE ledger_daily ADD COLUMN "{name}" {kind}"""
        for name, kind in (
            ("shadows", "BIGINT"),
            ("cost_without", "DOUBLE PRECISION"),
            ("drift_sent", "BIGINT"),
            ("drift_billed", "BIGINT"),
            ("drift_sent_estimated", "BIGINT"),
            ("drift_billed_estimated", "BIGINT"),
        )
    ),
    # Before, what no provider was asked for counted as a saving without a price.
    "DELETE FROM ledger_daily",
)
LAST_DAILY_MIGRATION = len(MIGRATIONS)  # the last step that makes or changes `ledger_daily`

_DOLLAR_COLUMNS = {"cost", "saved_cost", "cost_without"}
_TIME_COLUMNS = {"compressor_seconds", "gpu_seconds", "latency_ms", "overhead_ms"}
TOTAL_COLUMNS = (
    *("requests", "failures", "received", "sent", "saved", "would_save", "fetched_back", "billed_input"),
    *("billed_output", "reasoning", "cache_read", "cache_write", "cost", "saved_cost", "unpriced"),
    *("unpriced_savings", "estimated", "compressor_tokens", "compressor_seconds", "gpu_seconds"),
    *("latency_ms", "overhead_ms", "shadows", "cost_without"),
    *("drift_sent", "drift_billed", "drift_sent_estimated", "drift_billed_estimated"),
)


def _map_column_type(hint: object) -> TypeEngine[Any]:
    if hint is bool:
        return Boolean()
    if hint in {int, int | None}:
        return BigInteger()
    return Double() if hint in {float, float | None} else Text()


LEDGER_TABLE = Table(
    "ledger", MetaData(), *(Column(name, _map_column_type(hint)) for name, hint in get_type_hints(Row).items())
)
DAILY_TABLE = Table(
    "ledger_daily",
    MetaData(),
    Column("by", Text, primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("group", Text, primary_key=True),
    *(Column(name, Double() if name in _DOLLAR_COLUMNS | _TIME_COLUMNS else BigInteger()) for name in TOTAL_COLUMNS),
)
RUNS_TABLE = Table(
    "ledger_runs",
    MetaData(),
    Column("run", Text, primary_key=True),
    *(Column(name, BigInteger) for name in ("settled", "lost", "killed")),
)


async def migrate(connection: AsyncConnection) -> bool:
    """Run the steps that have not been run; say whether `ledger_daily` is to be made anew.

    Raises ValueError for a ledger of a later version. Two processes that start at once must be kept apart by a lock.
    """
    run = connection.exec_driver_sql
    await run("CREATE TABLE IF NOT EXISTS ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL)")
    # Writing first takes SQLite's lock, so that of two processes that start at once the second finds the work done.
    await run("INSERT INTO ledger_version VALUES (1, 0) ON CONFLICT DO NOTHING")
    step = int((await run("SELECT step FROM ledger_version")).scalar_one())
    if step > len(MIGRATIONS):
        raise ValueError(
            f"the ledger is at step {step}, this version knows {len(MIGRATIONS)}: it was made by a later one"
        )
    for statement in MIGRATIONS[step:]:
        await run(statement)
    await run(f"UPDATE ledger_version SET step = {len(MIGRATIONS)}")  # noqa: S608
    return step < LAST_DAILY_MIGRATION
