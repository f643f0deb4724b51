"""The ledger: every test runs with SQLite and with PostgreSQL."""

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
CreateDatabase = Callable[[str], str]
every_database = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
PASSAGES = encode_passages([Passage("log", "bash", 130, 100)])
ids = (f"r{number:08d}" for number in itertools.count())
INITIAL_COLUMNS = 39  # of the first released schema


def row(**values: Any) -> Row:
    empty = Row(id=next(ids), at=1000.0, model="m", mode_used="extract", tokens_received=130, tokens_sent=100)
    return apply_bill(empty._replace(**values), Usage(100, 10, None, 60), PRICE, Usage(130, 10, None, 60))


@pytest.fixture(scope="session")
def create_database(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> CreateDatabase:
    """Return a function that creates an empty database and returns its URL."""

    def create(kind: str) -> str:
        return (
            postgres.reset_database()
            if kind == "postgres"
            else f"sqlite:///{tmp_path_factory.mktemp('l')}/new/l.sqlite3"
        )

    return create


@pytest.fixture
def url(kind: str, create_database: CreateDatabase) -> str:
    return create_database(kind)


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


# writing


@every_database
async def test_written_rows_can_be_read(url: str) -> None:
    rows = [row(at=float(number), streamed=number % 2 == 0, tags='{"team":"a"}') for number in range(5)]
    async with open_ledger(url) as ledger:
        for item in rows:
            ledger.write(item)
        await ledger.flush()
        assert await ledger.read_newest_rows() == rows[::-1]
        assert await ledger.read_newest_rows(since=3.0) == rows[:2:-1]
        assert await ledger.read_newest_rows(limit=2) == rows[:2:-1]
        assert isinstance((await ledger.read_newest_rows())[0].streamed, bool)


@every_database
async def test_rows_are_stored_within_a_second(url: str) -> None:
    async with open_ledger(url) as ledger:
        for _ in range(2):
            ledger.write(row())
            await asyncio.sleep(0.9)
            assert ledger.lost_rows == 0
        assert await count_rows(url) == 2


@every_database
async def test_stop_stores_pending_rows(url: str) -> None:
    async with open_ledger(url, flush_interval=60.0) as ledger:
        for _ in range(3):
            ledger.write(row())
    assert await count_rows(url) == 3


@every_database
@pytest.mark.parametrize("count", [0, 1, 3, 255, 256, 257, sum(INSERT_SIZES) + max(INSERT_SIZES)])
async def test_batches_of_any_size_are_stored(url: str, count: int) -> None:
    async with open_ledger(url, flush_interval=60.0) as ledger:
        for _ in range(count):
            ledger.write(row())
        await ledger.flush()
        assert await count_rows(url) == count


@every_database
async def test_a_retried_row_is_stored_once(url: str) -> None:
    async with open_ledger(url) as ledger:
        retried = row()
        ledger.write(retried)
        await ledger.flush()
        ledger.write(retried)
        await ledger.flush()
        assert (await ledger.read_newest_rows(), ledger.lost_rows) == ([retried], 0)


async def test_the_file_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}") as ledger:
        ledger.write(row())
        await ledger.flush()
        modes = [tmp_path.joinpath(f"l.sqlite3{suffix}").lstat().st_mode & 0o777 for suffix in ("", "-wal", "-shm")]
        assert modes == [0o600] * 3


# failures


@every_database
async def test_rows_stay_pending_while_the_database_fails(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with open_ledger(url, flush_interval=0.01) as ledger:
        await execute_sql(url, "ALTER TABLE ledger RENAME TO elsewhere")
        for _ in range(300):
            ledger.write(row(session="secret"))
        await ledger.flush()
        await asyncio.sleep(0.2)
        await execute_sql(url, "ALTER TABLE elsewhere RENAME TO ledger")
        ledger.write(row())
        await ledger.flush()
        assert (await count_rows(url), ledger.lost_rows) == (301, 0)
    records = [record for record in caplog.records if record.name.startswith("clara_proxy")]
    assert [record.levelno for record in records] == [logging.ERROR, logging.WARNING]  # not for each attempt
    assert "secret" not in caplog.text


@every_database
async def test_rows_beyond_the_pending_limit_are_counted_as_lost(url: str) -> None:
    async with open_ledger(url, flush_interval=60.0, max_pending_rows=10) as ledger:
        await execute_sql(url, "ALTER TABLE ledger RENAME TO elsewhere")
        for _ in range(15):
            ledger.write(row())
        await ledger.flush()
        ledger.write(row())
        assert ledger.lost_rows == 6
        await execute_sql(url, "ALTER TABLE elsewhere RENAME TO ledger")
        await ledger.flush()
        assert (await count_rows(url), ledger.lost_rows) == (10, 6)


@every_database
async def test_rows_that_cannot_be_stored_at_stop_are_counted_as_lost(url: str) -> None:
    async with open_ledger(url) as ledger:
        await execute_sql(url, "DROP TABLE ledger")
        ledger.write(row())
    assert ledger.lost_rows == 1


@every_database
@pytest.mark.parametrize("invalid", [{"status": 2**70}, {"path": None}, {"model": object()}])
async def test_an_invalid_row_does_not_affect_others(
    url: str, invalid: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_ledger(url, flush_interval=60.0) as ledger:
        valid = [row() for _ in range(70)]
        for item in [*valid[:33], row(session="secret")._replace(**invalid), *valid[33:]]:
            ledger.write(item)
        await ledger.flush()
        assert {item.id for item in await ledger.read_newest_rows()} == {item.id for item in valid}
        assert ledger.lost_rows == 1
    assert "secret" not in caplog.text


@every_database
async def test_invalid_characters_are_replaced(url: str, kind: str) -> None:
    async with open_ledger(url) as ledger:
        ledger.write(row(model="gpt\ud800", user="a \U0001f600"))
        ledger.write(row(model="nul", user="b \0", tags=encode_labels({"c\0": r"d\u0000"})))
        await ledger.flush()
        stored = {item.model: item for item in await ledger.read_newest_rows()}
        assert (stored["gpt?"].user, ledger.lost_rows) == ("a \U0001f600", 0)
        nul = "\0" if kind == "sqlite" else "\ufffd"  # PostgreSQL does not support NUL
        assert (stored["nul"].user, json.loads(stored["nul"].tags)) == (f"b {nul}", {f"c{nul}": r"d\u0000"})


@every_database
@pytest.mark.parametrize("invalid", ["", "xxx", "[]", '"x"', "{", "\ud800"])
async def test_invalid_json_is_stored_as_empty(url: str, invalid: str) -> None:
    async with open_ledger(url) as ledger:
        for item in (row(tags=invalid), row(passages=invalid if invalid != "[]" else "{}"), row()):
            ledger.write(item)
        await ledger.flush()
        assert (await count_rows(url), ledger.lost_rows) == (3, 0)
        assert await ledger.read_totals("tag") == await ledger.read_totals("tool") == []
        assert (await ledger.read_totals("all"))[0]["requests"] == 3


@every_database
async def test_a_cancelled_flush_loses_no_rows(url: str) -> None:
    async with open_ledger(url, flush_interval=60.0) as ledger:
        for _ in range(600):
            ledger.write(row())
        for steps in range(8):
            flush = asyncio.create_task(ledger.flush())
            for _ in range(steps):
                await asyncio.sleep(0)
            flush.cancel()
            await asyncio.gather(flush, return_exceptions=True)
        await ledger.flush()
        assert (await count_rows(url), ledger.lost_rows) == (600, 0)


# migrations


@every_database
async def test_the_database_has_the_columns_of_a_row(url: str) -> None:
    async with open_ledger(url) as ledger, ledger.engine.connect() as connection:
        for table in (LEDGER_TABLE, DAILY_TABLE, RUNS_TABLE):
            result = await connection.exec_driver_sql(f"SELECT * FROM {table.name} LIMIT 0")
            assert list(result.keys()) == [column.name for column in table.columns]
    assert [column.name for column in LEDGER_TABLE.columns] == list(Row._fields)


@every_database
async def test_the_first_released_schema_is_migrated(url: str) -> None:
    if url.startswith("sqlite"):
        await asyncio.to_thread(Path(url.removeprefix("sqlite:///")).parent.mkdir, parents=True)
    version = "CREATE TABLE ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL)"
    values = ", ".join("NULL" if value is None else repr(value) for value in row(at=90_000.0)[:INITIAL_COLUMNS])
    insert = f"INSERT INTO ledger VALUES ({values})".replace("True", "true").replace("False", "false")
    await execute_sql(url, MIGRATIONS[0], version, "INSERT INTO ledger_version VALUES (1, 1)", insert)
    async with open_ledger(url) as ledger:
        ledger.write(row())
    assert await execute_sql(url, "SELECT step FROM ledger_version") == [(len(MIGRATIONS),)]
    assert await count_rows(url) == 2
    async with open_ledger(url) as ledger:  # the old row is in the totals of its day
        assert [total["group"] for total in await ledger.read_totals("day")] == ["1970-01-01", "1970-01-02"]
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]
        migrated = next(item for item in await ledger.read_newest_rows() if item.at == 90_000.0)
        assert migrated.cost is not None
        assert migrated.saved_cost is not None
        assert migrated.cost_without == migrated.cost + migrated.saved_cost


@every_database
async def test_ledgers_can_start_concurrently(url: str) -> None:
    ledgers = [Ledger(url) for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    for ledger in ledgers:
        ledger.write(row())
    await asyncio.gather(*(ledger.stop() for ledger in ledgers))
    async with open_ledger(url):
        assert await count_rows(url) == 4


@every_database
async def test_a_database_of_a_later_version_is_rejected(url: str) -> None:
    async with open_ledger(url):
        await execute_sql(url, "UPDATE ledger_version SET step = step + 1")
    later = Ledger(url)
    with pytest.raises(ValueError, match="later"):
        await later.start()
    await later.stop()


def test_unsupported_databases_are_rejected_by_name() -> None:
    with pytest.raises(ValueError, match="mysql") as raised:
        Ledger("mysql://user:secret@localhost/x")
    assert "secret" not in str(raised.value)


async def test_an_unreachable_server_raises_a_database_error() -> None:
    ledger = Ledger("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ledger.dialect.error_types):
        await ledger.start()
    await ledger.stop()


# totals

LABEL = st.sampled_from(["", "a", "b\"'%", "c\0d"])
TOKENS = st.integers(0, 10_000)


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
    usage, baseline = (draw(st.none() | st.builds(Usage, input=TOKENS, output=TOKENS)) for _ in range(2))
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


PERIODS = st.tuples(st.floats(0, 400_000) | st.just(0.0), st.none() | st.floats(0, 400_000) | st.just(86_400.0))
GROUPINGS_OF_ROWS = ["all", "model", "mode", "project", "session", "user", "tag:a", "day", "key", "protocol", "outcome"]


@every_database
@settings(max_examples=25, deadline=None)
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
@settings(max_examples=20, deadline=None)
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
        *("cost_without", "drift", "drift_estimated"),
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


# the audit, prune, iteration


@every_database
@settings(max_examples=15, deadline=None)
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
async def test_prune_deletes_whole_days(url: str) -> None:
    day = 86_400.0
    async with open_ledger(url, flush_interval=60.0) as ledger:
        for index in range(40):
            ledger.write(row(at=index * day / 4, tags='{"a":"b"}'))
        await ledger.flush()
        assert await ledger.prune(2.9 * day) == 8
        assert (await ledger.read_totals())[0]["requests"] == len(await ledger.read_newest_rows()) == 32
        assert min(total["group"] for total in await ledger.read_totals("day")) == "1970-01-03"  # type: ignore[type-var]
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]
        assert await ledger.prune(2.9 * day) == 0
        assert await ledger.prune(1e6 * day) == 32
        assert await ledger.read_totals() == []


def measure_folder(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


async def test_prune_releases_disk_space(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    async with open_ledger(f"sqlite:///{path}", flush_interval=60.0) as ledger:
        for _ in range(3_000):
            ledger.write(row(path="x" * 500))
        await ledger.flush()
        await ledger.prune(0.0)
        full = measure_folder(tmp_path)
        await ledger.prune(86_400.0)
        assert measure_folder(tmp_path) < full / 4


@every_database
async def test_rows_are_iterated_in_order_of_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clara_proxy.proxy.stores.ledger.PAGE_ROWS", 7)
    rows = [row(at=float(index // 10)) for index in range(50)]
    async with open_ledger(url, flush_interval=60.0) as ledger:
        for item in rows[::-1]:
            ledger.write(item)
        await ledger.flush()
        assert [item async for item in ledger.iter_rows()] == rows
        assert [item async for item in ledger.iter_rows(1.0, 3.0)] == rows[10:30]


@every_database
async def test_concurrent_writers_produce_correct_totals(url: str) -> None:
    ledgers = [Ledger(url, flush_interval=0.001) for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    for _ in range(10):
        for ledger in ledgers:
            for model in "abc":
                ledger.write(row(model=model, tags='{"a":"b","c":"d"}'))
        await asyncio.gather(*(ledger.flush() for ledger in ledgers))
    await asyncio.gather(*(ledger.stop() for ledger in ledgers))
    async with open_ledger(url) as ledger:
        assert [total["requests"] for total in await ledger.read_totals("model")] == [40] * 3
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]


async def test_rollups_do_not_scan_the_ledger(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}") as ledger, ledger.engine.connect() as connection:
        for statement in build_rollup_statements(ledger.dialect, ledger.dialect.new_row_filter):
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ('["r1"]',))
            steps = [str(step) for step in plan.scalars("detail")]
            assert any(re.match("SEARCH ledger USING INDEX .*id=", step) for step in steps), steps
            assert not any(step.startswith("SCAN ledger") for step in steps), steps
