"""A ledger of ten million rows: how long reports take, and how many rows a second are written to it.

    python -m clara_proxy.benchmarks.ledger --rows 10000000 [--url URL]

The rows are made by the database itself, evenly over 90 days. Each report is asked for several times and the median
told; "from the rows" is the same report without what is kept of each day, asked for once. The last line is JSON.
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

SECONDS_PER_DAY = 86_400
SPAN_DAYS = 90  # days
INSERT_ROWS = 200_000  # rows in one INSERT
REPORT_GROUPINGS = ("day", "model", "mode", "tool", "project", "user", "tag")
PASSAGES_JSON = encode_passages([Passage(kind, tool, 900, 300) for kind, tool in (("log", "bash"), ("json", "api"))])
# Of every row number `i` another row, with 5 models, 20 projects and 500 users.
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
    "passages": "'{seen}'",
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
    """Make so many rows that end now, and the totals of their days."""
    start = time.time() - SPAN_DAYS * SECONDS_PER_DAY
    empty = Row("", 0.0)
    values = ", ".join(_format_value(name, default) for name, default in empty._asdict().items())
    names = ", ".join(f'"{name}"' for name in Row._fields)
    series = SERIES_QUERIES[ledger.engine.dialect.name]
    for first in range(1, rows + 1, INSERT_ROWS):
        last = min(first + INSERT_ROWS - 1, rows)
        source = series.format(first=first, last=last)
        selected = values.format(seen=PASSAGES_JSON, start=start, step=SPAN_DAYS * SECONDS_PER_DAY / rows)
        async with ledger.engine.begin() as connection:
            await connection.exec_driver_sql(f"INSERT INTO ledger ({names}) SELECT {selected} FROM {source} AS s")
        if (first // INSERT_ROWS) % 10 == 0:
            print(f"{last:,} rows", flush=True)
    began = time.perf_counter()
    await ledger.rebuild_daily_totals()
    print(f"totals of days made anew from all rows in {time.perf_counter() - began:.1f} s", flush=True)


async def measure_report(ledger: Ledger, by: str, rounds: int = 5) -> float:
    """Return the seconds of the median report over the 90 days, which begin and end within a day."""
    taken: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert await ledger.read_totals(by, time.time() - SPAN_DAYS * SECONDS_PER_DAY, time.time())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def measure_writes(ledger: Ledger, rows: int = 20_000) -> float:
    """Return how many rows a second are stored, with what they add to their days."""
    now = time.time()
    made = [
        apply_bill(
            Row(
                f"new-{now}-{at}", now, model=f"model-{at % 5}", user=f"user-{at % 500}", passages=PASSAGES_JSON
            )._replace(tokens_received=1800, tokens_sent=600),
            None,
            None,
        )
        for at in range(rows)
    ]
    began = time.perf_counter()
    for start in range(0, rows, 2_000):
        for row in made[start : start + 2_000]:
            ledger.write(row)
        await ledger.flush()
    return rows / (time.perf_counter() - began)


async def main() -> None:
    """Fill a ledger unless it is filled, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--url")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.url or f"sqlite:///{Path(folder) / 'ledger.sqlite3'}"
        ledger = Ledger(url, flush_interval=3600.0)
        await ledger.start()
        try:
            if not await ledger.read_newest_rows(limit=1):
                await fill_ledger(ledger, asked.rows)
            found: dict[str, float] = {
                f"by_{by}_s": round(await measure_report(ledger, by), 3) for by in REPORT_GROUPINGS
            }
            found["by_session_from_the_rows_s"] = round(await measure_report(ledger, "session", rounds=1), 1)
            found["rows_written_a_second"] = round(await measure_writes(ledger))
        finally:
            await ledger.stop()
    for name, figure in found.items():
        print(f"{name:30} {figure:>10,}")
    print(json.dumps({"database": make_url(url).get_backend_name(), "rows": asked.rows, **found}))


if __name__ == "__main__":
    asyncio.run(main())
