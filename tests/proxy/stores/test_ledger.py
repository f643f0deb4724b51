"""The ledger in SQLite and in PostgreSQL: the same tests."""

import asyncio
import itertools
import json
import logging
import re
import sqlite3
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.reports.columns import format_cell
from clara_proxy.proxy.stores.accounting import apply_bill, mark_as_shadow
from clara_proxy.proxy.stores.ledger import GROUPINGS, Ledger
from clara_proxy.proxy.stores.ledger_audit import audit
from clara_proxy.proxy.stores.ledger_row import COUNTED_OUTCOMES, Outcome, Passage, Row, encode_labels, encode_passages
from clara_proxy.proxy.stores.ledger_schema import DAILY_TABLE, LEDGER_TABLE, MIGRATIONS, RUNS_TABLE
from clara_proxy.proxy.stores.ledger_sqlite import INSERT_SIZES
from clara_proxy.proxy.stores.ledger_totals import build_rollup_statements
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.proxy.watch.row_metrics import compute_amounts
from clara_proxy.tests.servers import Postgres

PRICE = Price(input=2.0, output=8.0, cache_read=0.5)
Fresh = Callable[[str], str]
every_database = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
SEEN = encode_passages([Passage("log", "bash", 130, 100)])
ids = (f"r{number:08d}" for number in itertools.count())
COLUMNS_AT_FIRST = 39  # of the ledger's first step


def row(**known: Any) -> Row:
    fresh = Row(id=next(ids), at=1000.0, model="m", mode_used="extract", tokens_received=130, tokens_sent=100)
    return apply_bill(fresh._replace(**known), Usage(100, 10, None, 60), PRICE, Usage(130, 10, None, 60))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Fresh:
    """Make an empty database of a kind, and return its URL."""

    def made(kind: str) -> str:
        return (
            postgres.reset_database()
            if kind == "postgres"
            else f"sqlite:///{tmp_path_factory.mktemp('l')}/new/l.sqlite3"
        )

    return made


@pytest.fixture
def url(kind: str, fresh: Fresh) -> str:
    return fresh(kind)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[Ledger]:
    ledger = Ledger(url, **options)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()


async def run(url: str, *statements: str) -> list[Any]:
    """Run SQL beside the ledger; return what the last statement says."""
    found: list[Any] = []
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
            for statement in statements:
                found = database.execute(statement).fetchall()
    else:
        connection = await asyncpg.connect(url)
        for statement in statements:
            found = [tuple(row) for row in await connection.fetch(statement)]
        await connection.close()
    return found


async def count(url: str) -> int:
    return int((await run(url, "SELECT count(*) FROM ledger"))[0][0])


# writing


@every_database
async def test_what_was_written_can_be_read(url: str) -> None:
    written = [row(at=float(number), streamed=number % 2 == 0, tags='{"team":"a"}') for number in range(5)]
    async with opened(url) as ledger:
        for one in written:
            ledger.write(one)
        await ledger.flush()
        assert await ledger.read_newest_rows() == written[::-1]
        assert await ledger.read_newest_rows(since=3.0) == written[:2:-1]
        assert await ledger.read_newest_rows(limit=2) == written[:2:-1]
        assert isinstance((await ledger.read_newest_rows())[0].streamed, bool)


@every_database
async def test_rows_are_stored_within_the_second_without_being_asked_for(url: str) -> None:
    async with opened(url) as ledger:
        for _ in range(2):
            ledger.write(row())
            await asyncio.sleep(0.9)
            assert ledger.lost_rows == 0
        assert await count(url) == 2


@every_database
async def test_stopping_stores_what_waits(url: str) -> None:
    async with opened(url, every=60.0) as ledger:
        for _ in range(3):
            ledger.write(row())
    assert await count(url) == 3


@every_database
@pytest.mark.parametrize("many", [0, 1, 3, 255, 256, 257, sum(INSERT_SIZES) + max(INSERT_SIZES)])
async def test_every_number_of_rows_is_stored(url: str, many: int) -> None:
    async with opened(url, every=60.0) as ledger:
        for _ in range(many):
            ledger.write(row())
        await ledger.flush()
        assert await count(url) == many


@every_database
async def test_a_row_is_stored_once_however_often_it_is_tried(url: str) -> None:
    async with opened(url) as ledger:
        same = row()
        ledger.write(same)
        await ledger.flush()
        ledger.write(same)
        await ledger.flush()
        assert (await ledger.read_newest_rows(), ledger.lost_rows) == ([same], 0)


async def test_the_file_is_the_owner_s_alone(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'l.sqlite3'}") as ledger:
        ledger.write(row())
        await ledger.flush()
        modes = [tmp_path.joinpath(f"l.sqlite3{suffix}").lstat().st_mode & 0o777 for suffix in ("", "-wal", "-shm")]
        assert modes == [0o600] * 3


# trouble


@every_database
async def test_rows_wait_while_the_database_fails_and_nothing_raises(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(url, every=0.01) as ledger:
        await run(url, "ALTER TABLE ledger RENAME TO elsewhere")
        for _ in range(300):
            ledger.write(row(session="secret"))
        await ledger.flush()
        await asyncio.sleep(0.2)
        await run(url, "ALTER TABLE elsewhere RENAME TO ledger")
        ledger.write(row())
        await ledger.flush()
        assert (await count(url), ledger.lost_rows) == (301, 0)
    said = [record for record in caplog.records if record.name.startswith("clara_proxy")]
    assert [record.levelno for record in said] == [logging.ERROR, logging.WARNING]  # not once for each try
    assert "secret" not in caplog.text


@every_database
async def test_no_more_rows_wait_than_agreed_and_the_rest_is_counted(url: str) -> None:
    async with opened(url, every=60.0, most=10) as ledger:
        await run(url, "ALTER TABLE ledger RENAME TO elsewhere")
        for _ in range(15):
            ledger.write(row())
        await ledger.flush()
        ledger.write(row())
        assert ledger.lost_rows == 6
        await run(url, "ALTER TABLE elsewhere RENAME TO ledger")
        await ledger.flush()
        assert (await count(url), ledger.lost_rows) == (10, 6)


@every_database
async def test_what_cannot_be_stored_at_the_end_is_counted(url: str) -> None:
    async with opened(url) as ledger:
        await run(url, "DROP TABLE ledger")
        ledger.write(row())
    assert ledger.lost_rows == 1


@every_database
@pytest.mark.parametrize("poison", [{"status": 2**70}, {"path": None}, {"model": object()}])
async def test_a_row_that_does_not_fit_takes_no_other_with_it(
    url: str, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(url, every=60.0) as ledger:
        good = [row() for _ in range(70)]
        for one in [*good[:33], row(session="secret")._replace(**poison), *good[33:]]:
            ledger.write(one)
        await ledger.flush()
        assert {one.id for one in await ledger.read_newest_rows()} == {one.id for one in good}
        assert ledger.lost_rows == 1
    assert "secret" not in caplog.text


@every_database
async def test_text_that_is_no_text_is_stored_readable(url: str, kind: str) -> None:
    async with opened(url) as ledger:
        ledger.write(row(model="gpt\ud800", user="a \U0001f600"))
        ledger.write(row(model="nul", user="b \0", tags=encode_labels({"c\0": r"d\u0000"})))
        await ledger.flush()
        found = {one.model: one for one in await ledger.read_newest_rows()}
        assert (found["gpt?"].user, ledger.lost_rows) == ("a \U0001f600", 0)
        nul = "\0" if kind == "sqlite" else "\ufffd"  # PostgreSQL has no such text
        assert (found["nul"].user, json.loads(found["nul"].tags)) == (f"b {nul}", {f"c{nul}": r"d\u0000"})


@every_database
@pytest.mark.parametrize("odd", ["", "xxx", "[]", '"x"', "{", "\ud800"])
async def test_what_is_no_json_is_stored_as_nothing(url: str, odd: str) -> None:
    async with opened(url) as ledger:
        for one in (row(tags=odd), row(passages=odd if odd != "[]" else "{}"), row()):
            ledger.write(one)
        await ledger.flush()
        assert (await count(url), ledger.lost_rows) == (3, 0)
        assert await ledger.read_totals("tag") == await ledger.read_totals("tool") == []
        assert (await ledger.read_totals("all"))[0]["requests"] == 3


@every_database
async def test_a_flush_that_is_broken_off_loses_nothing(url: str) -> None:
    async with opened(url, every=60.0) as ledger:
        for _ in range(600):
            ledger.write(row())
        for steps in range(8):
            flush = asyncio.create_task(ledger.flush())
            for _ in range(steps):
                await asyncio.sleep(0)
            flush.cancel()
            await asyncio.gather(flush, return_exceptions=True)
        await ledger.flush()
        assert (await count(url), ledger.lost_rows) == (600, 0)


# migrations


@every_database
async def test_the_database_has_the_columns_of_a_row(url: str) -> None:
    async with opened(url) as ledger, ledger.engine.connect() as connection:
        for table in (LEDGER_TABLE, DAILY_TABLE, RUNS_TABLE):
            read = await connection.exec_driver_sql(f"SELECT * FROM {table.name} LIMIT 0")
            assert list(read.keys()) == [column.name for column in table.columns]
    assert [column.name for column in LEDGER_TABLE.columns] == list(Row._fields)


@every_database
async def test_an_earlier_database_is_brought_up_to_date(url: str) -> None:
    if url.startswith("sqlite"):
        await asyncio.to_thread(Path(url.removeprefix("sqlite:///")).parent.mkdir, parents=True)
    version = "CREATE TABLE ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL)"
    old = ", ".join("NULL" if value is None else repr(value) for value in row(at=90_000.0)[:COLUMNS_AT_FIRST])
    inserted = f"INSERT INTO ledger VALUES ({old})".replace("True", "true").replace("False", "false")
    await run(url, MIGRATIONS[0], version, "INSERT INTO ledger_version VALUES (1, 1)", inserted)
    async with opened(url) as ledger:
        ledger.write(row())
    assert await run(url, "SELECT step FROM ledger_version") == [(len(MIGRATIONS),)]
    assert await count(url) == 2
    async with opened(url) as ledger:  # what was there before is in the totals of its day
        assert [total["group"] for total in await ledger.read_totals("day")] == ["1970-01-01", "1970-01-02"]
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]
        was = next(one for one in await ledger.read_newest_rows() if one.at == 90_000.0)
        assert was.cost is not None
        assert was.saved_cost is not None
        assert was.cost_without == was.cost + was.saved_cost


@every_database
async def test_many_may_start_at_once_and_again(url: str) -> None:
    ledgers = [Ledger(url) for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    for ledger in ledgers:
        ledger.write(row())
    await asyncio.gather(*(ledger.stop() for ledger in ledgers))
    async with opened(url):
        assert await count(url) == 4


@every_database
async def test_a_database_of_a_later_version_is_refused(url: str) -> None:
    async with opened(url):
        await run(url, "UPDATE ledger_version SET step = step + 1")
    later = Ledger(url)
    with pytest.raises(ValueError, match="later"):
        await later.start()
    await later.stop()


def test_other_databases_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mysql") as told:
        Ledger("mysql://user:secret@localhost/x")
    assert "secret" not in str(told.value)


async def test_a_server_that_is_not_there_is_told() -> None:
    ledger = Ledger("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ledger.dialect.error_types):
        await ledger.start()
    await ledger.stop()


# totals

LABEL = st.sampled_from(["", "a", "b\"'%", "c\0d"])
TOKENS = st.integers(0, 10_000)


@st.composite
def some_row(draw: st.DrawFn) -> Row:
    outcomes: list[Outcome] = ["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
    observed = draw(st.booleans())
    seen = [
        Passage(draw(st.sampled_from(["log", "json"])), draw(LABEL), after + less, after)
        for after, less in draw(st.lists(st.tuples(TOKENS, TOKENS)))
    ]
    received = draw(TOKENS) + sum(passage.before for passage in seen)
    shorter = received - sum(passage.before - passage.after for passage in seen)
    one = Row(
        id=next(ids),
        at=draw(st.floats(0, 400_000, allow_subnormal=False)),
        model=draw(LABEL),
        session=draw(LABEL),
        user=draw(LABEL),
        project=draw(LABEL),
        mode_used="observe" if observed else "extract",
        outcome=draw(st.sampled_from(outcomes)),
        tokens_received=received,
        tokens_sent=received if observed else shorter,
        would_send=shorter if observed else None,
        passages=encode_passages(seen),
        tags=encode_labels(draw(st.dictionaries(LABEL, LABEL))),
        key=draw(LABEL),
        protocol=draw(st.sampled_from(["chat", "messages", "compress"])),
        tokens_estimated=draw(st.booleans()),
    )
    usage, without = (draw(st.none() | st.builds(Usage, input=TOKENS, output=TOKENS)) for _ in range(2))
    one = apply_bill(one, usage, draw(st.none() | st.just(PRICE)), None if observed else without)
    return mark_as_shadow(one, "another", {}) if draw(st.integers(0, 4)) == 0 else one


_reused: dict[str, str] = {}


def reused(kind: str, fresh: Fresh) -> str:
    """One database for all the examples of a test: making one takes longer than an example."""
    if kind not in _reused:
        _reused[kind] = fresh(kind)
    return _reused[kind]


def sold_elsewhere(one: Row) -> bool:
    return one.protocol == "compress" and one.tokens_sent != one.tokens_received


def within(one: Row, span: tuple[float, float | None]) -> bool:
    since, until = span
    return one.at >= since and (until is None or one.at < until)


async def add_up(
    url: str, rows: list[Row], by: str, since: float = 0.0, until: float | None = None
) -> list[dict[str, Any]]:
    async with opened(url, every=60.0) as ledger:
        async with ledger.engine.begin() as connection:
            for table in ("ledger", "ledger_daily"):
                await connection.exec_driver_sql(f"DELETE FROM {table}")
        for one in rows:
            ledger.write(one)
        await ledger.flush()
        return list(await ledger.read_totals(by, since, until))


SPANS = st.tuples(st.floats(0, 400_000) | st.just(0.0), st.none() | st.floats(0, 400_000) | st.just(86_400.0))
BY = ["all", "model", "mode", "project", "session", "user", "tag:a", "day", "key", "protocol", "outcome"]


@every_database
@settings(max_examples=25, deadline=None)
@given(rows=st.lists(some_row(), max_size=12), by=st.sampled_from(BY), span=SPANS)
def test_the_groups_add_up_to_the_rows(
    fresh: Fresh, kind: str, rows: list[Row], by: str, span: tuple[float, float | None]
) -> None:
    totals = asyncio.run(add_up(reused(kind, fresh), rows, by, *span))
    rows = [one for one in rows if within(one, span)]
    asked = [one for one in rows if not one.shadow_of]
    counted = [one for one in asked if one.outcome in COUNTED_OUTCOMES]
    assert sum(total["requests"] for total in totals) == len(asked)
    assert sum(total["shadows"] for total in totals) == len(rows) - len(asked)
    assert sum(total["failures"] for total in totals) == len(asked) - len(counted)
    assert sum(total["received"] for total in totals) == sum(one.tokens_received for one in counted)
    assert all(total["saved"] == total["received"] - total["sent"] for total in totals)
    would_save = sum(one.tokens_received - one.would_send for one in counted if one.would_send is not None)
    assert sum(total["would_save"] for total in totals) == would_save
    assert sum(total["unpriced"] for total in totals) == sum(one.cost is None for one in counted)
    for name in ("cost", "cost_without", "saved_cost"):  # of our own requests, too
        figures = [figure for one in rows if (figure := getattr(one, name)) is not None]
        assert sum(total[name] or 0.0 for total in totals) == pytest.approx(sum(figures), abs=1e-6)
    unknown = sum(one.saved_cost is None and (one.outcome != "served" or sold_elsewhere(one)) for one in counted)
    assert sum(total["unpriced_savings"] for total in totals) == unknown
    for total in totals:
        assert total["cost"] is not None or total["unpriced"] or total["failures"] == total["requests"]
        assert total["cost"] != 0 or not total["unpriced"]  # what is not known is not nought
        assert total["cost_without"] != 0 or not total["unpriced_savings"]


@every_database
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(some_row(), max_size=12), span=SPANS, by=st.sampled_from(["tool", "kind"]))
def test_tools_and_kinds_have_the_figures_of_their_passages(
    fresh: Fresh, kind: str, rows: list[Row], span: tuple[float, float | None], by: str
) -> None:
    totals = asyncio.run(add_up(reused(kind, fresh), [one._replace(tags="{}") for one in rows], by, *span))
    counted = [one for one in rows if one.outcome in COUNTED_OUTCOMES and within(one, span) and not one.shadow_of]
    saved = sum(one.saved_tokens for one in counted)  # in these rows, all that was saved was saved on passages
    assert sum(total["saved"] for total in totals) == saved
    assert all(total["saved"] == total["received"] - total["sent"] for total in totals)
    assert "cost" not in {name for total in totals for name in total}
    if by == "kind":  # a tool's name may be any text, of which databases show what they can
        assert {total["group"] for total in totals} == {
            passage["kind"] for one in counted for passage in orjson.loads(one.passages)
        }


@every_database
async def test_drift_is_what_the_provider_counts_beyond_us(url: str) -> None:
    bills = [("exact", Usage(102, 1), False), ("exact", Usage(104, 1), False), ("exact", None, False)]
    bills += [("guessed", Usage(90, 1), True), ("mixed", Usage(100, 1), False), ("mixed", Usage(200, 1), True)]
    rows = [apply_bill(row(model=model, tokens_estimated=guessed), usage, PRICE) for model, usage, guessed in bills]
    rows += [apply_bill(row(model="passed on", tokens_received=0, tokens_sent=0), Usage(500, 1), PRICE)]
    found = {total["group"]: (total["drift"], total["drift_estimated"]) for total in await add_up(url, rows, "model")}
    assert found == {
        "exact": (pytest.approx(0.03), None),
        "guessed": (None, pytest.approx(-0.1)),
        "mixed": (pytest.approx(0.0), pytest.approx(1.0)),
        "passed on": (None, None),
    }


@every_database
async def test_what_only_the_proxy_asked_is_paid_for_and_is_no_request(url: str) -> None:
    asked = row(latency_ms=100.0)
    ours = mark_as_shadow(row(latency_ms=900.0), asked.id, {"tools": 1.0})
    both, alone = [await add_up(url, rows, "all") for rows in ([asked, ours], [ours])]
    cost = asked.cost or 0.0
    names = ("requests", "shadows", "received", "cost", "saved_cost", "latency_ms")
    assert [both[0][name] for name in names] == [1, 1, 130, 2 * cost, (asked.saved_cost or 0.0) - cost, 100.0]
    assert [alone[0][name] for name in names] == [0, 1, 0, cost, -cost, None]
    assert await add_up(url, [mark_as_shadow(row(passages=SEEN), "x", {})], "kind") == []


@every_database
async def test_the_groups_are_what_they_are_called(url: str) -> None:
    day = 86_400.0
    rows = [
        row(at=0.0, model="x", mode_used="auto", project="p", session="s", user="u", tags='{"team":"red"}'),
        row(at=day - 1, model="x", key="k", protocol="chat", passages=SEEN),
        row(at=day, model="y", outcome="failed", tags='{"team":"blue","x":"red"}'),
    ]
    groups: dict[str, dict[Any, int]] = defaultdict(dict)
    for by in (*GROUPINGS, "tag:team", "tag:none"):
        assert orjson.dumps(await add_up(url, rows, by))  # as reports and endpoints do
        groups[by] = {total["group"]: total["requests"] for total in await add_up(url, rows, by)}
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
async def test_only_the_span_that_was_asked_for_is_added_up(url: str) -> None:
    rows = [row(at=float(at)) for at in range(10)]
    assert [total["requests"] for total in await add_up(url, rows, "all", 3.0, 7.0)] == [4]
    assert await add_up(url, rows, "all", 10.0) == []


@every_database
async def test_days_that_are_whole_are_not_added_up_anew(url: str) -> None:
    rows = [row(at=at * 43_200.0) for at in range(10)]
    await add_up(url, rows, "all")
    async with opened(url) as ledger:
        await run(url, "DELETE FROM ledger WHERE at BETWEEN 86400 AND 345599")
        assert (await ledger.read_totals("all", 3600.0, 400_000.0))[0]["requests"] == 9


@every_database
async def test_long_labels_are_told_apart_by_their_beginning(url: str) -> None:
    long = "x" * 5_000
    rows = [row(model=long + end, user=end + long, tags=encode_labels({"t": long + end})) for end in "ab"]
    assert [total["requests"] for total in await add_up(url, rows, "model")] == [2]
    assert [total["requests"] for total in await add_up(url, rows, "user")] == [1, 1]
    assert [total["requests"] for total in await add_up(url, rows, "user", 1.0)] == [1, 1]
    assert [total["requests"] for total in await add_up(url, rows, "tag")] == [2]


@every_database
async def test_what_nobody_knows_is_none(url: str) -> None:
    total = (await add_up(url, [apply_bill(Row("one", 1.0), None, None)], "all"))[0]
    assert {name for name, value in total.items() if value is None} == {
        *("billed_input", "billed_output", "reasoning", "cache_read", "cache_write", "cost", "saved_cost"),
        *("cost_without", "drift", "drift_estimated"),
    }
    assert (total["unpriced"], total["unpriced_savings"]) == (1, 1)


SHORTER: dict[str, Any] = {"tokens_received": 130, "tokens_sent": 100}
SAME: dict[str, Any] = {"tokens_received": 30, "tokens_sent": 30}
NOTHING: dict[str, Any] = {"tokens_received": 0, "tokens_sent": 0}


@every_database
@pytest.mark.parametrize(
    ("kind_of_row", "unpriced", "unpriced_savings"),
    [
        ({"protocol": "chat", **SHORTER}, 1, 1),  # by a model without a price
        ({"protocol": "chat", **SAME}, 1, 1),
        ({"protocol": "chat", "outcome": "failed", **SHORTER}, 0, 0),
        ({"protocol": "compress", "outcome": "served", **SHORTER}, 0, 1),  # a real saving, on somebody else's bill
        ({"protocol": "compress", "outcome": "served", **SAME}, 0, 0),
        ({"protocol": "count_tokens", "outcome": "served", **NOTHING}, 0, 0),
        ({"protocol": "retrieve", "outcome": "served", "fetched_back_tokens": 100, **NOTHING}, 0, 0),
        ({"protocol": "models", "outcome": "served", **NOTHING}, 0, 0),
        ({"protocol": "clara", "outcome": "served", "mode_used": "latent", **SHORTER}, 0, 0),
        ({"protocol": "chat", "outcome": "served", "mode_used": "latent", "model": "clara", **SHORTER}, 0, 0),
        ({"protocol": "chat", "outcome": "served", "mode_used": "latent", **SHORTER}, 0, 0),
    ],
)
async def test_only_what_somebody_bills_can_be_an_unpriced_saving(
    url: str, kind_of_row: dict[str, Any], unpriced: int, unpriced_savings: int
) -> None:
    one = apply_bill(row(**kind_of_row), None, None)
    (total,) = await add_up(url, [one], "all")
    assert (total["unpriced"], total["unpriced_savings"]) == (unpriced, unpriced_savings)
    assert compute_amounts(one).unpriced_savings_requests == unpriced_savings
    dollars = {"report": format_cell("saved_cost", total), "json": total["saved_cost"]}
    assert dollars == {"report": "unknown" if unpriced_savings else "-", "json": None}


@every_database
async def test_a_sum_of_nothing_known_is_not_nought(url: str) -> None:
    free = apply_bill(row(outcome="served", protocol="retrieve", **NOTHING), None, None)
    unpriced = apply_bill(row(**SHORTER), Usage(30, 1), None)
    (total,) = await add_up(url, [free, unpriced, apply_bill(row(outcome="rejected"), None, None)], "all")
    assert [total[name] for name in ("cost", "cost_without", "saved_cost")] == [None, None, None]
    (total,) = await add_up(url, [free], "all")
    assert total["cost"] == 0.0


@every_database
async def test_days_that_were_added_up_before_are_added_up_as_now(url: str) -> None:
    await add_up(url, [apply_bill(row(outcome="served", **NOTHING), None, None)], "all")
    await run(url, "UPDATE ledger_daily SET unpriced_savings = 1")
    await run(url, f"UPDATE ledger_version SET step = {len(MIGRATIONS) - 1}")
    async with opened(url) as ledger:
        assert (await ledger.read_totals())[0]["unpriced_savings"] == 0
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]


@pytest.mark.parametrize("by", ["", "tags", "tag:", "cost", "day:1", "all:x", "id; DROP TABLE ledger"])
async def test_other_groups_are_refused(by: str) -> None:
    with pytest.raises(ValueError, match="tag:NAME"):
        await add_up("sqlite:///:memory:", [], by)


# the audit, pruning, reading all


@every_database
@settings(max_examples=15, deadline=None)
@given(batches=st.lists(st.lists(some_row(), max_size=5), max_size=4), again=st.integers(0, 5))
def test_the_totals_of_days_are_those_of_the_rows(
    fresh: Fresh, kind: str, batches: list[list[Row]], again: int
) -> None:
    async def look() -> None:
        url = reused(kind, fresh)
        await add_up(url, [], "all")
        async with opened(url, every=60.0) as ledger:
            for one in (*batches, *batches[:again]):  # what is written twice counts once
                for written in one:
                    ledger.write(written)
                await ledger.flush()
            assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]

    asyncio.run(look())


@every_database
async def test_an_audit_finds_what_does_not_add_up(url: str) -> None:
    async with opened(url, every=60.0) as ledger:
        for _ in range(5):
            ledger.write(row())
        await ledger.flush()
        await run(url, "UPDATE ledger SET saved_tokens = saved_tokens + 1 WHERE id = (SELECT min(id) FROM ledger)")
        found = {finding.name: finding.problem async for finding in audit(ledger)}
        assert "saved_tokens is not received - sent (1 rows)" in found["rows"]
        assert "differ from the rows" in found["totals of days"]


@every_database
async def test_whole_days_are_pruned_from_rows_and_totals(url: str) -> None:
    day = 86_400.0
    async with opened(url, every=60.0) as ledger:
        for at in range(40):
            ledger.write(row(at=at * day / 4, tags='{"a":"b"}'))
        await ledger.flush()
        assert await ledger.prune(2.9 * day) == 8
        assert (await ledger.read_totals())[0]["requests"] == len(await ledger.read_newest_rows()) == 32
        assert min(total["group"] for total in await ledger.read_totals("day")) == "1970-01-03"  # type: ignore[type-var]
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]
        assert await ledger.prune(2.9 * day) == 0
        assert await ledger.prune(1e6 * day) == 32
        assert await ledger.read_totals() == []


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


async def test_pruning_gives_the_space_back(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    async with opened(f"sqlite:///{path}", every=60.0) as ledger:
        for _ in range(3_000):
            ledger.write(row(path="x" * 500))
        await ledger.flush()
        await ledger.prune(0.0)
        full = size(tmp_path)
        await ledger.prune(86_400.0)
        assert size(tmp_path) < full / 4


@every_database
async def test_all_rows_come_in_the_order_of_their_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clara_proxy.proxy.stores.ledger.PAGE_ROWS", 7)
    written = [row(at=float(at // 10)) for at in range(50)]
    async with opened(url, every=60.0) as ledger:
        for one in written[::-1]:
            ledger.write(one)
        await ledger.flush()
        assert [one async for one in ledger.iter_rows()] == written
        assert [one async for one in ledger.iter_rows(1.0, 3.0)] == written[10:30]


@every_database
async def test_replicas_that_write_at_once_add_up(url: str) -> None:
    ledgers = [Ledger(url, flush_interval=0.001) for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    for _ in range(10):
        for ledger in ledgers:
            for model in "abc":
                ledger.write(row(model=model, tags='{"a":"b","c":"d"}'))
        await asyncio.gather(*(ledger.flush() for ledger in ledgers))
    await asyncio.gather(*(ledger.stop() for ledger in ledgers))
    async with opened(url) as ledger:
        assert [total["requests"] for total in await ledger.read_totals("model")] == [40] * 3
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]


async def test_what_rows_add_to_their_day_is_found_without_reading_others(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'l.sqlite3'}") as ledger, ledger.engine.connect() as connection:
        for statement in build_rollup_statements(ledger.dialect, ledger.dialect.new_row_filter):
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ('["r1"]',))
            steps = [str(step) for step in plan.scalars("detail")]
            assert any(re.match("SEARCH ledger USING INDEX .*id=", step) for step in steps), steps
            assert not any(step.startswith("SCAN ledger") for step in steps), steps
