"""Measure the reports and the writes of a ledger with ten million rows.

    python -m clara_proxy.benchmarks.ledger --rows 10000000 [--url URL]

The database generates the rows, evenly over 90 days. A report's figure is the median of five. The report by session
does not use the daily totals, reads all rows, and runs once. The last line is JSON.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import make_url

from ..proxy.stores.accounting import apply_bill
from ..proxy.stores.ledger import Ledger
from ..proxy.stores.ledger_row import Passage, Row, encode_passages
from ..proxy.stores.ledger_schema import LAST_DAILY_MIGRATION

SECONDS_PER_DAY = 86_400
SPAN_DAYS = 90
INSERT_ROWS = 200_000  # rows of one INSERT statement
REPORT_GROUPINGS = ("day", "model", "mode", "tool", "project", "user", "tag")
PASSAGES_JSON = encode_passages([Passage(kind, tool, 900, 300) for kind, tool in (("log", "bash"), ("json", "api"))])
# SQL expressions of the columns of row `i`: 5 models, 20 projects, 500 users.
ROW_EXPRESSIONS = {
    "id": "'made-' || CAST(i AS TEXT)",
    "at": "{start} + i * {step}",
    "model": "'model-' || CAST(i % 5 AS TEXT)",
    "mode_used": "CASE i % 4 WHEN 0 THEN 'observe' ELSE 'extract' END",
    "outcome": "CASE i % 50 WHEN 0 THEN 'upstream_error' ELSE 'ok' END",
    "tokens_received": "2000 + i % 977",
    "tokens_sent": "800 + i % 977",
    "saved_tokens": "1200",
    "billed_input": "800 + i % 977",
    "billed_output": "i % 311",
    "cost": "0.00001 * (i % 311)",
    "latency_ms": "100.0 + i % 997",
    "passages": "'{passages}'",
    "user": "'user-' || CAST(i % 500 AS TEXT)",
    "project": "'project-' || CAST(i % 20 AS TEXT)",
    "tags": "'{{\"team\":\"' || CAST(i % 7 AS TEXT) || '\"}}'",
}
SERIES_QUERIES = {
    "sqlite": "(WITH RECURSIVE n(i) AS (VALUES({first}) UNION ALL SELECT i+1 FROM n WHERE i < {last}) SELECT i FROM n)",
    "postgresql": "(SELECT generate_series({first}, {last}) AS i)",
}


def _format_value(name: str, default: object) -> str:
    if name in ROW_EXPRESSIONS:
        return ROW_EXPRESSIONS[name]
    quoted = f"'{default}'".replace("{", "{{").replace("}", "}}")
    return "NULL" if default is None else quoted if isinstance(default, str) else str(default)


async def fill_ledger(ledger: Ledger, rows: int) -> None:
    """Generate `rows` rows of the last 90 days, and their daily totals."""
    start = time.time() - SPAN_DAYS * SECONDS_PER_DAY
    empty = Row("", 0.0)
    values = ", ".join(_format_value(name, default) for name, default in empty._asdict().items())
    names = ", ".join(f'"{name}"' for name in Row._fields)
    series = SERIES_QUERIES[ledger.engine.dialect.name]
    for first in range(1, rows + 1, INSERT_ROWS):
        last = min(first + INSERT_ROWS - 1, rows)
        source = series.format(first=first, last=last)
        selected = values.format(passages=PASSAGES_JSON, start=start, step=SPAN_DAYS * SECONDS_PER_DAY / rows)
        async with ledger.engine.begin() as connection:
            await connection.exec_driver_sql(f"INSERT INTO ledger ({names}) SELECT {selected} FROM {source} AS s")
        if (first // INSERT_ROWS) % 10 == 0:
            print(f"{last:,} rows", flush=True)
    async with ledger.engine.begin() as connection:  # repeat the last migration, which rebuilds the daily totals
        await connection.exec_driver_sql(f"UPDATE ledger_version SET step = {LAST_DAILY_MIGRATION - 1}")
    await ledger.stop()
    began = time.perf_counter()
    await ledger.start()
    print(f"daily totals rebuilt from all rows in {time.perf_counter() - began:.1f} s", flush=True)


async def measure_report(ledger: Ledger, by: str, rounds: int = 5) -> float:
    """Return the median seconds of a report over 90 days that start and end in the middle of a day."""
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        assert await ledger.read_totals(by, time.time() - SPAN_DAYS * SECONDS_PER_DAY, time.time())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


async def measure_writes(ledger: Ledger, rows: int = 20_000) -> float:
    """Return the number of rows stored per second, daily totals included."""
    now = time.time()
    new_rows = [
        apply_bill(
            Row(
                f"new-{now}-{number}",
                now,
                model=f"model-{number % 5}",
                user=f"user-{number % 500}",
                passages=PASSAGES_JSON,
                tokens_received=1800,
                tokens_sent=600,
            ),
            None,
            None,
        )
        for number in range(rows)
    ]
    start = time.perf_counter()
    for index in range(0, rows, 2_000):
        for row in new_rows[index : index + 2_000]:
            ledger.write(row)
        await ledger.flush()
    return rows / (time.perf_counter() - start)


async def main() -> None:
    """Fill the ledger if it is empty, measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of a new ledger")
    parser.add_argument("--url", help="database of the ledger (default: a temporary SQLite file)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{Path(folder) / 'ledger.sqlite3'}"
        ledger = Ledger(url, flush_interval=3600.0)
        await ledger.start()
        try:
            if not await ledger.read_newest_rows(limit=1):
                await fill_ledger(ledger, options.rows)
            figures: dict[str, float] = {
                f"by_{by}_s": round(await measure_report(ledger, by), 3) for by in REPORT_GROUPINGS
            }
            figures["by_session_from_the_rows_s"] = round(await measure_report(ledger, "session", rounds=1), 1)
            figures["rows_written_a_second"] = round(await measure_writes(ledger))
        finally:
            await ledger.stop()
    for name, figure in figures.items():
        print(f"{name:30} {figure:>10,}")
    print(json.dumps({"database": make_url(url).get_backend_name(), "rows": options.rows, **figures}))


if __name__ == "__main__":
    asyncio.run(main())
