"""The daily usage of a key: the same values from rows and from the database, in SQLite and in PostgreSQL."""

import asyncio
import itertools
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.key_usage import (
    NO_USAGE,
    KeyUsage,
    measure_for_budget,
    measure_row,
    read_stored_usage,
)
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_dialect import SECONDS_PER_DAY
from clara_proxy.proxy.stores.ledger_row import Outcome, Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.servers import Postgres

PRICE = Price(input=2e-6, output=8e-6, cache_read=0.5e-6)
NAMES = ("alice", "bob", "")
counts = st.integers(0, 10**6)
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(get_args(Outcome))
ids = itertools.count()


def row(key: str, sent: int = 100, output: int | None = 10, *, price: Price | None = PRICE, **values: object) -> Row:
    unbilled = Row(id=f"r{next(ids)}", at=1.5, key=key, tokens_received=sent, tokens_sent=sent)
    unbilled = unbilled._replace(**values)  # type: ignore[arg-type]
    return apply_bill(unbilled, None if output is None else Usage(sent, output), price)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    return row(
        draw(st.sampled_from(NAMES)),
        draw(counts),
        draw(st.none() | counts),
        price=draw(st.sampled_from((PRICE, None))),
        outcome=draw(outcomes),
        at=draw(st.sampled_from((0.0, 1.5, SECONDS_PER_DAY - 1e-3, float(SECONDS_PER_DAY), SECONDS_PER_DAY + 7.0))),
        shadow_of=draw(st.sampled_from(("", "", "r"))),
    )


def test_usage_of_one_request() -> None:
    assert measure_row(row("a")) == KeyUsage(110, 100 * 2e-6 + 10 * 8e-6)
    assert measure_row(row("a", outcome="rejected")) == KeyUsage(10, 0.0)
    assert measure_row(row("a", price=None)) == KeyUsage(110, 0.0)


INPUT_COST, OUTPUT_COST = 100 * 2e-6, 8e-6


@pytest.mark.parametrize(
    ("item", "received", "tokens", "dollars"),
    [
        (row("a", status=200), 7, 110, INPUT_COST + 10 * OUTPUT_COST),  # the bill decides
        (row("a", output=None, status=200), 7, 107, INPUT_COST + 7 * OUTPUT_COST),
        (row("a", output=None, outcome="cancelled", status=200), 70, 170, INPUT_COST + 70 * OUTPUT_COST),
        (row("a", output=None, outcome="cancelled"), 0, 100, INPUT_COST),  # the client left before the answer
        (row("a", output=1, outcome="cancelled", status=200), 70, 170, INPUT_COST + 70 * OUTPUT_COST),  # Anthropic's
        (row("a", output=None, outcome="upstream_error", status=200), 7, 107, INPUT_COST + 7 * OUTPUT_COST),
        (row("a", 0, output=None, outcome="cancelled", status=200), 7, 907, 900 * 2e-6 + 7 * OUTPUT_COST),  # uncounted
        (row("a", output=None, outcome="upstream_error", status=500), 0, 0, 0.0),
        (row("a", output=None, outcome="failed", status=502), 0, 0, 0.0),
        (row("a", output=None, outcome="rejected", status=429), 0, 0, 0.0),
        (row("a", outcome="served", status=200), 0, 110, 0.0),
        (row("a", output=None, price=None, status=200), 7, 107, 0.0),
    ],
    ids=str,
)
def test_a_request_without_a_complete_bill_counts_what_passed(
    item: Row, received: int, tokens: int, dollars: float
) -> None:
    usage = measure_for_budget(item, received, 900)
    assert usage.tokens == tokens
    assert usage.dollars == pytest.approx(dollars)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_stored_usage_equals_the_sum_over_rows(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.reset_database() if kind == "postgres" else f"sqlite:///{tmp_path}/l.sqlite3"
    ledger = Ledger(url)

    @settings(max_examples=25)
    @given(st.lists(rows(), max_size=12))
    def check(drawn: list[Row]) -> None:
        suffix = f"-{next(ids)}"  # separates the keys of the examples
        stored = [item._replace(key=item.key and item.key + suffix) for item in drawn]
        names = [name + suffix for name in NAMES if name]
        for day in (0, 1):
            usages = runner.run(store_and_read_usage(ledger, stored, day))
            assert "" not in usages
            for name in names:
                rows_of_key = [item for item in stored if item.key == name and item.at // SECONDS_PER_DAY == day]
                expected = add_usages(map(measure_row, rows_of_key))
                usage = usages.get(name, NO_USAGE)
                assert usage.tokens == expected.tokens
                assert usage.dollars == pytest.approx(expected.dollars)

    with asyncio.Runner() as runner:
        runner.run(ledger.start())
        try:
            check()
        finally:
            runner.run(ledger.stop())


def add_usages(parts: Iterable[KeyUsage]) -> KeyUsage:
    return reduce(KeyUsage.add, parts, NO_USAGE)


async def store_and_read_usage(ledger: Ledger, rows: list[Row], day: int) -> dict[str, KeyUsage]:
    for item in rows:
        ledger.write(item)  # rows that are stored already are ignored
    await ledger.flush()
    return await read_stored_usage(ledger, day)
