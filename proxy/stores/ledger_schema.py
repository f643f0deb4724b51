"""The tables of the ledger, and the migrations that created them.

`ledger` holds the rows and is the source of the totals. `ledger_daily` holds the totals by day (UTC) and group; it is
updated in the same transaction, and rebuilt when a migration changes it. `ledger_runs` holds how many rows
each writing process has stored or lost.
"""

from collections.abc import Iterable

from sqlalchemy import BigInteger, Boolean, Column, Double, MetaData, Table, Text

from .async_engine import AsyncConnection
from .ledger_columns import LEDGER_COLUMNS, TOTALS, SqlType
from .ledger_row import Row

_INITIAL_COLUMNS = 39  # of `ledger` in the first released version
_INITIAL_TOTALS = 22  # of `ledger_daily` in the first released version
_SQL_NAMES: dict[SqlType, str] = {
    BigInteger: "BIGINT",
    Boolean: "BOOLEAN",
    Double: "DOUBLE PRECISION",
    Text: "TEXT",
}
_COLUMN_TYPES = {
    name: _SQL_NAMES[column.sql_type] + ("" if column.is_nullable else " NOT NULL")
    for name, column in LEDGER_COLUMNS.items()
}
_TOTAL_TYPES = {total.name: _SQL_NAMES[total.sql_type] for total in TOTALS}


def _list_definitions(types: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f'"{name}" {sql_type}' for name, sql_type in types)


def _add_columns(*names: str) -> list[str]:
    defaults = {name: f" DEFAULT '{Row._field_defaults[name]}'" for name in names if "NOT NULL" in _COLUMN_TYPES[name]}
    return [f'ALTER TABLE ledger ADD COLUMN "{name}" {_COLUMN_TYPES[name]}{defaults.get(name, "")}' for name in names]


def _add_totals(*names: str) -> list[str]:
    return [f'ALTER TABLE ledger_daily ADD COLUMN "{name}" {_TOTAL_TYPES[name]}' for name in names]


# Append-only: never change a released migration. Each runs once, in order.
MIGRATIONS: tuple[str, ...] = (
    f'CREATE TABLE ledger ({_list_definitions([*_COLUMN_TYPES.items()][:_INITIAL_COLUMNS])}, PRIMARY KEY ("id"))',
    'CREATE INDEX ledger_at ON ledger ("at")',
    f"""
    CREATE TABLE ledger_daily (
        "by" TEXT NOT NULL, "day" BIGINT NOT NULL, "group" TEXT NOT NULL,
        {_list_definitions([*_TOTAL_TYPES.items()][:_INITIAL_TOTALS])},
        PRIMARY KEY ("by", "day", "group")
    )
    """,
    """
    CREATE TABLE ledger_runs (
        "run" TEXT NOT NULL PRIMARY KEY, "settled" BIGINT NOT NULL, "lost" BIGINT NOT NULL, "killed" BIGINT NOT NULL
    )
    """,
    *_add_columns("key", "shadow_of", "agreement"),
    *_add_columns("billed_cache_write_hour", "price_cache_write_hour"),
    *_add_columns("without_input", "without_output", "without_cache_read", "without_cache_write", "cost_without"),
    # Earlier versions estimated savings; the cost without the proxy follows from the estimate.
    "UPDATE ledger SET cost_without = cost + saved_cost WHERE saved_cost IS NOT NULL",
    *_add_totals("shadows", "cost_without"),
    *_add_totals("drift_sent", "drift_billed", "drift_sent_estimated", "drift_billed_estimated"),
    # Earlier versions counted requests that no provider bills as savings without a price.
    "DELETE FROM ledger_daily",
    *_add_columns(
        *("billed_cache_write_12h", "price_cache_write_12h", "service_tier", "bill_parts", "unknown_usage"),
        *("cleared_tokens", "cache_miss", "expand_tokens", "expand_cost", "price_table"),
    ),
    *_add_totals("cache_misses", "cache_misses_ours", "expand_tokens", "expand_cost", "unknown_usages"),
    "DELETE FROM ledger_daily",
)
# Number of the last migration that creates or changes `ledger_daily`; all totals are rebuilt when it runs. A new column
# of `ledger` does not raise it.
LAST_DAILY_MIGRATION = 38

LEDGER_TABLE = Table(
    "ledger", MetaData(), *(Column(name, column.sql_type()) for name, column in LEDGER_COLUMNS.items())
)
DAILY_TABLE = Table(
    "ledger_daily",
    MetaData(),
    Column("by", Text, primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("group", Text, primary_key=True),
    *(Column(total.name, total.sql_type()) for total in TOTALS),
)
RUNS_TABLE = Table(
    "ledger_runs",
    MetaData(),
    Column("run", Text, primary_key=True),
    *(Column(name, BigInteger) for name in ("settled", "lost", "killed")),
)


async def migrate(connection: AsyncConnection) -> bool:
    """Run the migrations that have not run yet; return True if `ledger_daily` must be rebuilt.

    Raises ValueError for the ledger of a later version. A lock must keep out other processes that start at once.
    """
    run = connection.exec_driver_sql
    await run("CREATE TABLE IF NOT EXISTS ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL)")
    # Writing first takes SQLite's lock: of two processes that start at once the second finds the migrations done.
    await run("INSERT INTO ledger_version VALUES (1, 0) ON CONFLICT DO NOTHING")
    step = int((await run("SELECT step FROM ledger_version")).scalar_one())
    if step > len(MIGRATIONS):
        raise ValueError(
            f"the ledger has schema version {step}, but this version of clara-proxy supports {len(MIGRATIONS)}:"
            " a later version created it; upgrade clara-proxy"
        )
    for statement in MIGRATIONS[step:]:
        await run(statement)
    await run(f"UPDATE ledger_version SET step = {len(MIGRATIONS)}")  # noqa: S608
    return step < LAST_DAILY_MIGRATION
