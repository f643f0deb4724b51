"""Ledgers and rows for the tests of the ledger."""

import itertools
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
import pytest
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.accounting import apply_bill, mark_as_shadow
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Outcome, Passage, Row, encode_labels, encode_passages
from clara_proxy.proxy.stores.usage import Usage

PRICE = Price(input=2.0, output=8.0, cache_read=0.5)
CreateDatabase = Callable[[str], str]
every_database = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
PASSAGES = encode_passages([Passage("log", "bash", 130, 100)])
ids = (f"r{number:08d}" for number in itertools.count())
LABEL = st.sampled_from(["", "a", "b\"'%", "c\0d"])
TOKENS = st.integers(0, 10_000)


def row(**values: Any) -> Row:
    empty = Row(id=next(ids), at=1000.0, model="m", mode_used="extract", tokens_received=130, tokens_sent=100)
    return apply_bill(empty._replace(**values), Usage(100, 10, None, 60), PRICE, Usage(130, 10, None, 60))


@asynccontextmanager
async def open_ledger(url: str, **options: Any) -> AsyncGenerator[Ledger]:
    ledger = Ledger(url, **options)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()


async def execute_sql(url: str, *statements: str) -> list[Any]:
    """Run SQL in a connection of its own and return the rows of the last statement."""
    rows: list[Any] = []
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
            for statement in statements:
                rows = database.execute(statement).fetchall()
    else:
        connection = await asyncpg.connect(url)
        for statement in statements:
            rows = [tuple(record) for record in await connection.fetch(statement)]
        await connection.close()
    return rows


async def count_rows(url: str) -> int:
    return int((await execute_sql(url, "SELECT count(*) FROM ledger"))[0][0])


@st.composite
def random_rows(draw: st.DrawFn) -> Row:
    outcomes: list[Outcome] = ["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
    is_observed = draw(st.booleans())
    passages = [
        Passage(draw(st.sampled_from(["log", "json"])), draw(LABEL), after + saved, after)
        for after, saved in draw(st.lists(st.tuples(TOKENS, TOKENS)))
    ]
    received = draw(TOKENS) + sum(passage.before for passage in passages)
    compressed = received - sum(passage.before - passage.after for passage in passages)
    unbilled = Row(
        id=next(ids),
        at=draw(st.floats(0, 400_000, allow_subnormal=False)),
        model=draw(LABEL),
        session=draw(LABEL),
        user=draw(LABEL),
        project=draw(LABEL),
        mode_used="observe" if is_observed else "extract",
        outcome=draw(st.sampled_from(outcomes)),
        tokens_received=received,
        tokens_sent=received if is_observed else compressed,
        would_send=compressed if is_observed else None,
        passages=encode_passages(passages),
        tags=encode_labels(draw(st.dictionaries(LABEL, LABEL))),
        key=draw(LABEL),
        protocol=draw(st.sampled_from(["chat", "messages", "compress"])),
        tokens_estimated=draw(st.booleans()),
    )
    usage, baseline = (draw(st.none() | st.tuples(TOKENS, TOKENS).map(lambda counts: Usage(*counts))) for _ in range(2))
    drawn = apply_bill(unbilled, usage, draw(st.none() | st.just(PRICE)), None if is_observed else baseline)
    return mark_as_shadow(drawn, "another", {}) if draw(st.integers(0, 4)) == 0 else drawn


_shared_databases: dict[str, str] = {}


def get_shared_database(kind: str, create_database: CreateDatabase) -> str:
    """Return one database for all examples of a test, because creating one takes longer than an example."""
    if kind not in _shared_databases:
        _shared_databases[kind] = create_database(kind)
    return _shared_databases[kind]


def is_paid_elsewhere(item: Row) -> bool:
    return item.protocol == "compress" and item.tokens_sent != item.tokens_received


def is_in_period(item: Row, period: tuple[float, float | None]) -> bool:
    since, until = period
    return item.at >= since and (until is None or item.at < until)


async def read_totals(
    url: str, rows: list[Row], by: str, since: float = 0.0, until: float | None = None
) -> list[dict[str, Any]]:
    async with open_ledger(url, flush_interval=60.0) as ledger:
        async with ledger.engine.begin() as connection:
            for table in ("ledger", "ledger_daily"):
                await connection.exec_driver_sql(f"DELETE FROM {table}")
        for item in rows:
            ledger.write(item)
        await ledger.flush()
        return list(await ledger.read_totals(by, since, until))
