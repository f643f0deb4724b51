"""What a key has used of a day: the same figures from one row and from the database, in SQLite and in PostgreSQL."""

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
    estimate_unbilled_cost,
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


def row(key: str, sent: int = 100, output: int | None = 10, *, price: Price | None = PRICE, **more: object) -> Row:
    one = Row(id=f"r{next(ids)}", at=1.5, key=key, tokens_received=sent, tokens_sent=sent)._replace(**more)  # type: ignore[arg-type]
    return apply_bill(one, None if output is None else Usage(sent, output), price)


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


def test_what_a_request_uses() -> None:
    assert measure_row(row("a")) == KeyUsage(1, 110, 100 * 2e-6 + 10 * 8e-6)
    assert measure_row(row("a", outcome="rejected")) == KeyUsage(1, 10, 0.0)
    assert measure_row(row("a", price=None)) == KeyUsage(1, 110, 0.0)


def test_who_leaves_before_the_bill_pays_for_what_was_sent() -> None:
    left = row("a", output=None, outcome="cancelled")
    assert measure_row(left) == KeyUsage(1, 100, 0.0)
    assert estimate_unbilled_cost(left) == 100 * 2e-6
    for other in (row("a"), row("a", output=None, outcome="failed"), row("a", output=None, price=None)):
        assert estimate_unbilled_cost(other) == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_stored_rows_of_a_day_add_up_to_what_each_used(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.reset_database() if kind == "postgres" else f"sqlite:///{tmp_path}/l.sqlite3"
    ledger = Ledger(url)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(rows(), max_size=12))
    def holds(drawn: list[Row]) -> None:
        mark = f"-{next(ids)}"  # what other examples wrote is not looked at
        written = [one._replace(key=one.key and one.key + mark) for one in drawn]
        names = [name + mark for name in NAMES if name]
        for day in (0, 1):
            found = runner.run(_stored(ledger, written, day))
            assert "" not in found
            for name in names:
                wanted = _sum(
                    measure_row(one) for one in written if one.key == name and one.at // SECONDS_PER_DAY == day
                )
                told = found.get(name, NO_USAGE)
                assert told[:2] == wanted[:2]
                assert told.dollars == pytest.approx(wanted.dollars)

    with asyncio.Runner() as runner:
        runner.run(ledger.start())
        try:
            holds()
        finally:
            runner.run(ledger.stop())


def _sum(parts: Iterable[KeyUsage]) -> KeyUsage:
    return reduce(KeyUsage.add, parts, NO_USAGE)


async def _stored(ledger: Ledger, written: list[Row], day: int) -> dict[str, KeyUsage]:
    for one in written:
        ledger.write(one)  # the second time it is there already
    await ledger.flush()
    return await read_stored_usage(ledger, day)
