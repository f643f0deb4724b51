"""Totals and audits of the ledger: every test runs with SQLite and with PostgreSQL."""

import asyncio
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.reports.columns import format_cell
from clara_proxy.proxy.stores.accounting import apply_bill, mark_as_shadow
from clara_proxy.proxy.stores.ledger import GROUPINGS
from clara_proxy.proxy.stores.ledger_audit import audit
from clara_proxy.proxy.stores.ledger_row import COUNTED_OUTCOMES, Passage, Row, encode_labels, encode_passages
from clara_proxy.proxy.stores.ledger_schema import MIGRATIONS
from clara_proxy.proxy.stores.ledger_totals import get_new_row_statements
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.proxy.watch.row_metrics import compute_amounts
from clara_proxy.tests.proxy.stores.ledgers import (
    PASSAGES,
    PRICE,
    CreateDatabase,
    every_database,
    execute_sql,
    get_shared_database,
    is_in_period,
    is_paid_elsewhere,
    open_ledger,
    random_rows,
    read_totals,
    row,
)

PERIODS = st.tuples(st.floats(0, 400_000) | st.just(0.0), st.none() | st.floats(0, 400_000) | st.just(86_400.0))
GROUPINGS_OF_ROWS = ["all", "model", "mode", "project", "session", "user", "tag:a", "day", "key", "protocol", "outcome"]


@every_database
@settings(max_examples=25)
@given(rows=st.lists(random_rows(), max_size=12), by=st.sampled_from(GROUPINGS_OF_ROWS), period=PERIODS)
def test_totals_of_groups_equal_sums_over_rows(
    create_database: CreateDatabase, kind: str, rows: list[Row], by: str, period: tuple[float, float | None]
) -> None:
    totals = asyncio.run(read_totals(get_shared_database(kind, create_database), rows, by, *period))
    rows = [item for item in rows if is_in_period(item, period)]
    requests = [item for item in rows if not item.shadow_of]
    counted = [item for item in requests if item.outcome in COUNTED_OUTCOMES]
    assert sum(total["requests"] for total in totals) == len(requests)
    assert sum(total["shadows"] for total in totals) == len(rows) - len(requests)
    assert sum(total["failures"] for total in totals) == len(requests) - len(counted)
    assert sum(total["received"] for total in totals) == sum(item.tokens_received for item in counted)
    assert all(total["saved"] == total["received"] - total["sent"] for total in totals)
    would_save = sum(item.tokens_received - item.would_send for item in counted if item.would_send is not None)
    assert sum(total["would_save"] for total in totals) == would_save
    assert sum(total["unpriced"] for total in totals) == sum(item.cost is None for item in counted)
    for name in ("cost", "cost_without", "saved_cost"):  # of shadow checks, too
        amounts = [amount for item in rows if (amount := getattr(item, name)) is not None]
        assert sum(total[name] or 0.0 for total in totals) == pytest.approx(sum(amounts), abs=1e-6)
    unknown = sum(item.saved_cost is None and (item.outcome != "served" or is_paid_elsewhere(item)) for item in counted)
    assert sum(total["unpriced_savings"] for total in totals) == unknown
    for total in totals:
        assert total["cost"] is not None or total["unpriced"] or total["failures"] == total["requests"]
        assert total["cost"] != 0 or not total["unpriced"]  # unknown is not 0
        assert total["cost_without"] != 0 or not total["unpriced_savings"]


@every_database
@settings(max_examples=20)
@given(rows=st.lists(random_rows(), max_size=12), period=PERIODS, by=st.sampled_from(["tool", "kind"]))
def test_totals_by_tool_and_kind_are_those_of_passages(
    create_database: CreateDatabase, kind: str, rows: list[Row], period: tuple[float, float | None], by: str
) -> None:
    totals = asyncio.run(
        read_totals(
            get_shared_database(kind, create_database), [item._replace(tags="{}") for item in rows], by, *period
        )
    )
    rows = [item for item in rows if is_in_period(item, period) and not item.shadow_of]
    counted = [item for item in rows if item.outcome in COUNTED_OUTCOMES]
    saved = sum(item.saved_tokens for item in counted)  # in these rows, only passages save tokens
    assert sum(total["saved"] for total in totals) == saved
    assert all(total["saved"] == total["received"] - total["sent"] for total in totals)
    assert "cost" not in {name for total in totals for name in total}
    if by == "kind":  # databases cannot store every tool name
        assert {total["group"] for total in totals} == {
            passage["kind"] for item in counted for passage in orjson.loads(item.passages)
        }


@every_database
async def test_drift_compares_our_count_with_the_provider(url: str) -> None:
    bills = [("exact", Usage(102, 1), False), ("exact", Usage(104, 1), False), ("exact", None, False)]
    bills += [("estimated", Usage(90, 1), True), ("mixed", Usage(100, 1), False), ("mixed", Usage(200, 1), True)]
    rows = [
        apply_bill(row(model=model, tokens_estimated=is_estimated), usage, PRICE)
        for model, usage, is_estimated in bills
    ]
    rows += [apply_bill(row(model="passthrough", tokens_received=0, tokens_sent=0), Usage(500, 1), PRICE)]
    totals = await read_totals(url, rows, "model")
    assert {total["group"]: (total["drift"], total["drift_estimated"]) for total in totals} == {
        "exact": (pytest.approx(0.03), None),
        "estimated": (None, pytest.approx(-0.1)),
        "mixed": (pytest.approx(0.0), pytest.approx(1.0)),
        "passthrough": (None, None),
    }


@every_database
async def test_shadow_checks_count_as_cost_and_not_as_requests(url: str) -> None:
    request = row(latency_ms=100.0)
    shadow = mark_as_shadow(row(latency_ms=900.0), request.id, {"tools": 1.0})
    both, alone = [await read_totals(url, rows, "all") for rows in ([request, shadow], [shadow])]
    cost = request.cost or 0.0
    names = ("requests", "shadows", "received", "cost", "saved_cost", "latency_ms")
    assert [both[0][name] for name in names] == [1, 1, 130, 2 * cost, (request.saved_cost or 0.0) - cost, 100.0]
    assert [alone[0][name] for name in names] == [0, 1, 0, cost, -cost, None]
    assert await read_totals(url, [mark_as_shadow(row(passages=PASSAGES), "x", {})], "kind") == []


@every_database
async def test_groups_have_the_expected_names(url: str) -> None:
    day = 86_400.0
    rows = [
        row(at=0.0, model="x", mode_used="auto", project="p", session="s", user="u", tags='{"team":"red"}'),
        row(at=day - 1, model="x", key="k", protocol="chat", passages=PASSAGES),
        row(at=day, model="y", outcome="failed", tags='{"team":"blue","x":"red"}'),
    ]
    groups: dict[str, dict[Any, int]] = defaultdict(dict)
    for by in (*GROUPINGS, "tag:team", "tag:none"):
        assert orjson.dumps(await read_totals(url, rows, by))  # reports and endpoints do this
        groups[by] = {total["group"]: total["requests"] for total in await read_totals(url, rows, by)}
    assert groups == {
        "all": {"all": 3},
        "model": {"x": 2, "y": 1},
        "day": {"1970-01-01": 2, "1970-01-02": 1},
        "mode": {"auto": 1, "extract": 2},
        "tool": {"bash": 1},
        "kind": {"log": 1},
        "key": {"k": 1, "": 2},
        "protocol": {"chat": 1, "": 2},
        "outcome": {"ok": 2, "failed": 1},
        "tag": {"team=red": 1, "team=blue": 1, "x=red": 1},
        "project": {"p": 1, "": 2},
        "session": {"s": 1, "": 2},
        "user": {"u": 1, "": 2},
        "tag:team": {"red": 1, "blue": 1, "": 1},
        "tag:none": {"": 3},
    }


@every_database
async def test_totals_cover_only_the_requested_period(url: str) -> None:
    rows = [row(at=float(time)) for time in range(10)]
    assert [total["requests"] for total in await read_totals(url, rows, "all", 3.0, 7.0)] == [4]
    assert await read_totals(url, rows, "all", 10.0) == []


@every_database
async def test_whole_days_come_from_stored_totals(url: str) -> None:
    rows = [row(at=index * 43_200.0) for index in range(10)]
    await read_totals(url, rows, "all")
    async with open_ledger(url) as ledger:
        await execute_sql(url, "DELETE FROM ledger WHERE at BETWEEN 86400 AND 345599")
        assert (await ledger.read_totals("all", 3600.0, 400_000.0))[0]["requests"] == 9


@every_database
async def test_long_labels_are_grouped_by_their_beginning(url: str) -> None:
    prefix = "x" * 5_000
    rows = [row(model=prefix + end, user=end + prefix, tags=encode_labels({"t": prefix + end})) for end in "ab"]
    assert [total["requests"] for total in await read_totals(url, rows, "model")] == [2]
    assert [total["requests"] for total in await read_totals(url, rows, "user")] == [1, 1]
    assert [total["requests"] for total in await read_totals(url, rows, "user", 1.0)] == [1, 1]
    assert [total["requests"] for total in await read_totals(url, rows, "tag")] == [2]


@every_database
async def test_unknown_totals_are_none(url: str) -> None:
    total = (await read_totals(url, [apply_bill(Row("one", 1.0), None, None)], "all"))[0]
    assert {name for name, value in total.items() if value is None} == {
        *("billed_input", "billed_output", "reasoning", "cache_read", "cache_write", "cost", "saved_cost"),
        *("cost_without", "drift", "drift_estimated", "expand_cost"),
    }
    assert (total["unpriced"], total["unpriced_savings"]) == (1, 1)


COMPRESSED: dict[str, Any] = {"tokens_received": 130, "tokens_sent": 100}
UNCHANGED: dict[str, Any] = {"tokens_received": 30, "tokens_sent": 30}
EMPTY: dict[str, Any] = {"tokens_received": 0, "tokens_sent": 0}


@every_database
@pytest.mark.parametrize(
    ("kind_of_row", "unpriced", "unpriced_savings"),
    [
        ({"protocol": "chat", **COMPRESSED}, 1, 1),  # by a model without a price
        ({"protocol": "chat", **UNCHANGED}, 1, 1),
        ({"protocol": "chat", "outcome": "failed", **COMPRESSED}, 0, 0),
        ({"protocol": "compress", "outcome": "served", **COMPRESSED}, 0, 1),  # a saving on somebody else's bill
        ({"protocol": "compress", "outcome": "served", **UNCHANGED}, 0, 0),
        ({"protocol": "count_tokens", "outcome": "served", **EMPTY}, 0, 0),
        ({"protocol": "retrieve", "outcome": "served", "fetched_back_tokens": 100, **EMPTY}, 0, 0),
        ({"protocol": "models", "outcome": "served", **EMPTY}, 0, 0),
        ({"protocol": "clara", "outcome": "served", "mode_used": "latent", **COMPRESSED}, 0, 0),
        ({"protocol": "chat", "outcome": "served", "mode_used": "latent", "model": "clara", **COMPRESSED}, 0, 0),
        ({"protocol": "chat", "outcome": "served", "mode_used": "latent", **COMPRESSED}, 0, 0),
    ],
)
async def test_unpriced_savings_count_only_billed_requests(
    url: str, kind_of_row: dict[str, Any], unpriced: int, unpriced_savings: int
) -> None:
    item = apply_bill(row(**kind_of_row), None, None)
    (total,) = await read_totals(url, [item], "all")
    assert (total["unpriced"], total["unpriced_savings"]) == (unpriced, unpriced_savings)
    assert compute_amounts(item)["unpriced_savings_requests"] == unpriced_savings
    dollars = {"report": format_cell("saved_cost", total), "json": total["saved_cost"]}
    assert dollars == {"report": "unknown" if unpriced_savings else "-", "json": None}


@every_database
async def test_sums_without_known_amounts_are_not_zero(url: str) -> None:
    free = apply_bill(row(outcome="served", protocol="retrieve", **EMPTY), None, None)
    unpriced = apply_bill(row(**COMPRESSED), Usage(30, 1), None)
    (total,) = await read_totals(url, [free, unpriced, apply_bill(row(outcome="rejected"), None, None)], "all")
    assert [total[name] for name in ("cost", "cost_without", "saved_cost")] == [None, None, None]
    (total,) = await read_totals(url, [free], "all")
    assert total["cost"] == 0.0


@every_database
async def test_a_migration_rebuilds_stored_totals(url: str) -> None:
    await read_totals(url, [apply_bill(row(outcome="served", **EMPTY), None, None)], "all")
    await execute_sql(url, "UPDATE ledger_daily SET unpriced_savings = 1")
    await execute_sql(url, f"UPDATE ledger_version SET step = {len(MIGRATIONS) - 1}")
    async with open_ledger(url) as ledger:
        assert (await ledger.read_totals())[0]["unpriced_savings"] == 0
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]


@pytest.mark.parametrize("by", ["", "tags", "tag:", "cost", "day:1", "all:x", "id; DROP TABLE ledger"])
async def test_unknown_groupings_are_rejected(by: str) -> None:
    with pytest.raises(ValueError, match="tag:NAME"):
        await read_totals("sqlite:///:memory:", [], by)


# audits


@every_database
@settings(max_examples=15)
@given(batches=st.lists(st.lists(random_rows(), max_size=5), max_size=4), repeated=st.integers(0, 5))
def test_stored_daily_totals_equal_sums_over_rows(
    create_database: CreateDatabase, kind: str, batches: list[list[Row]], repeated: int
) -> None:
    async def check() -> None:
        url = get_shared_database(kind, create_database)
        await read_totals(url, [], "all")
        async with open_ledger(url, flush_interval=60.0) as ledger:
            for batch in (*batches, *batches[:repeated]):  # rows written twice count once
                for item in batch:
                    ledger.write(item)
                await ledger.flush()
            assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]

    asyncio.run(check())


@every_database
async def test_an_audit_finds_inconsistent_rows_and_totals(url: str) -> None:
    async with open_ledger(url, flush_interval=60.0) as ledger:
        for _ in range(5):
            ledger.write(row())
        await ledger.flush()
        await execute_sql(
            url, "UPDATE ledger SET saved_tokens = saved_tokens + 1 WHERE id = (SELECT min(id) FROM ledger)"
        )
        problems = {finding.name: finding.problem async for finding in audit(ledger)}
        assert "saved_tokens is not received - sent (1 rows)" in problems["rows"]
        assert "differ from the rows" in problems["totals of days"]


@every_database
async def test_many_passages_add_up_as_few_do(create_database: CreateDatabase, kind: str) -> None:
    passages = [Passage(("text", "tool")[i % 2], ("", "shell", "x" * 300)[i % 3], 10 + i, i) for i in range(100)]
    async with open_ledger(create_database(kind)) as ledger:
        ledger.write(row(passages=encode_passages(passages), tokens_received=5950, tokens_sent=4950))
        ledger.write(row(passages=encode_passages(passages[:3])))
        await ledger.flush()
        totals = {total["group"]: total for total in await ledger.read_totals("tool")}
        kinds = await ledger.read_totals("kind")
        problems = [finding.problem async for finding in audit(ledger) if finding.name == "totals of days"]
    assert problems == [""]
    assert [total["requests"] for total in totals.values()] == [2, 2, 2]
    shell = [passage for passage in (*passages, *passages[:3]) if passage.tool == "shell"]
    assert totals["shell"]["received"] == sum(passage.before for passage in shell)
    assert [(total["group"], total["saved"]) for total in kinds] == [("tool", 510), ("text", 520)]


async def test_rollups_do_not_scan_the_ledger(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}") as ledger, ledger.engine.connect() as connection:
        statements = get_new_row_statements(ledger.dialect)
        parameters = {statements.by_passage: '[{"id": "r1", "passages": "[]"}]'}
        for statement in (statements.by_passage, *statements.others):
            parameter = parameters.get(statement, '["r1"]')
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (parameter,))
            steps = [str(step) for step in plan.scalars("detail")]
            assert any(re.match("SEARCH ledger USING INDEX .*id=", step) for step in steps), steps
            assert not any(step.startswith("SCAN ledger") for step in steps), steps
