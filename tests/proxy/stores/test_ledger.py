"""The ledger: every test runs with SQLite and with PostgreSQL."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_audit import audit
from clara_proxy.proxy.stores.ledger_row import Row, encode_labels
from clara_proxy.proxy.stores.ledger_schema import (
    DAILY_TABLE,
    LAST_DAILY_MIGRATION,
    LEDGER_TABLE,
    MIGRATIONS,
    RUNS_TABLE,
)
from clara_proxy.proxy.stores.ledger_sqlite import INSERT_SIZES
from clara_proxy.tests.proxy.stores.ledgers import (
    count_rows,
    every_database,
    execute_sql,
    open_ledger,
    row,
)

INITIAL_COLUMNS = 39  # of the first released schema

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


# prune and iteration


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


def test_totals_are_rebuilt_after_the_last_migration_of_their_table_only() -> None:
    assert "ledger_daily" in MIGRATIONS[LAST_DAILY_MIGRATION - 1]
    assert not [statement for statement in MIGRATIONS[LAST_DAILY_MIGRATION:] if "ledger_daily" in statement]
