import asyncio
import itertools
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.accounting import COUNTED, Outcome, Passage, Row, Usage, passages_json, settle, tags_json
from clara_proxy.proxy.ledger import GROUPS, SIZES, STEPS, TABLE, Ledger

PRICE = Price(input=2.0, output=8.0, cache_read=0.5)
ids = (f"r{number:08d}" for number in itertools.count())


def row(**known: Any) -> Row:
    fresh = Row(id=next(ids), at=1000.0, model="m", mode_used="extract", tokens_received=130, tokens_sent=100)
    return settle(fresh._replace(**known), Usage(100, 10, None, 60), PRICE)


@asynccontextmanager
async def opened(path: Path | str, **options: Any) -> AsyncGenerator[Ledger]:
    ledger = Ledger(f"sqlite:///{path}", **options)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM ledger").fetchone()[0])


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


# writing


async def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    written = [row(at=float(number), streamed=number % 2 == 0, tags='{"team":"a"}') for number in range(5)]
    async with opened(tmp_path / "new" / "ledger.sqlite3") as ledger:
        for one in written:
            ledger.write(one)
        await ledger.flush()
        assert await ledger.rows() == written[::-1]
        assert await ledger.rows(since=3.0) == written[:2:-1]
        assert await ledger.rows(limit=2) == written[:2:-1]
        assert isinstance((await ledger.rows())[0].streamed, bool)


async def test_rows_are_stored_within_the_second_without_being_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "l.sqlite3") as ledger:
        for _ in range(2):
            ledger.write(row())
            await asyncio.sleep(0.9)
            assert ledger.lost == 0
        assert count(tmp_path / "l.sqlite3") == 2


async def test_stopping_stores_what_waits(tmp_path: Path) -> None:
    async with opened(tmp_path / "l.sqlite3", every=60.0) as ledger:
        for _ in range(3):
            ledger.write(row())
    assert count(tmp_path / "l.sqlite3") == 3


@pytest.mark.parametrize("many", [0, 1, 3, 255, 256, 257, sum(SIZES) + max(SIZES)])
async def test_every_number_of_rows_is_stored(tmp_path: Path, many: int) -> None:
    async with opened(tmp_path / "l.sqlite3", every=60.0) as ledger:
        for _ in range(many):
            ledger.write(row())
        await ledger.flush()
        assert count(tmp_path / "l.sqlite3") == many


async def test_a_row_is_stored_once_however_often_it_is_tried(tmp_path: Path) -> None:
    async with opened(tmp_path / "l.sqlite3") as ledger:
        same = row()
        ledger.write(same)
        await ledger.flush()
        ledger.write(same)
        await ledger.flush()
        assert (await ledger.rows(), ledger.lost) == ([same], 0)


async def test_the_file_is_the_owner_s_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "l.sqlite3") as ledger:
        ledger.write(row())
        await ledger.flush()
        modes = [tmp_path.joinpath(f"l.sqlite3{suffix}").lstat().st_mode & 0o777 for suffix in ("", "-wal", "-shm")]
        assert modes == [0o600] * 3


# trouble


async def test_rows_wait_while_the_database_fails_and_nothing_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "l.sqlite3"
    async with opened(path, every=0.01) as ledger:
        run(path, "ALTER TABLE ledger RENAME TO elsewhere")
        for _ in range(300):
            ledger.write(row(session="secret"))
        await ledger.flush()
        await asyncio.sleep(0.2)
        run(path, "ALTER TABLE elsewhere RENAME TO ledger")
        ledger.write(row())
        await ledger.flush()
        assert (count(path), ledger.lost) == (301, 0)
    said = [record for record in caplog.records if record.name.startswith("clara_proxy")]
    assert [record.levelno for record in said] == [logging.ERROR, logging.WARNING]  # not once for each try
    assert "secret" not in caplog.text


async def test_no_more_rows_wait_than_agreed_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    async with opened(path, every=60.0, most=10) as ledger:
        run(path, "ALTER TABLE ledger RENAME TO elsewhere")
        for _ in range(15):
            ledger.write(row())
        await ledger.flush()
        ledger.write(row())
        assert ledger.lost == 6
        run(path, "ALTER TABLE elsewhere RENAME TO ledger")
        await ledger.flush()
        assert (count(path), ledger.lost) == (10, 6)


async def test_what_cannot_be_stored_at_the_end_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    async with opened(path) as ledger:
        run(path, "DROP TABLE ledger")
        ledger.write(row())
    assert ledger.lost == 1


@pytest.mark.parametrize("poison", [{"status": 2**70}, {"path": None}, {"model": object()}])
async def test_a_row_that_does_not_fit_takes_no_other_with_it(
    tmp_path: Path, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "l.sqlite3", every=60.0) as ledger:
        good = [row() for _ in range(70)]
        for one in [*good[:33], row(session="secret")._replace(**poison), *good[33:]]:
            ledger.write(one)
        await ledger.flush()
        assert {one.id for one in await ledger.rows()} == {one.id for one in good}
        assert ledger.lost == 1
    assert "secret" not in caplog.text


async def test_text_that_is_no_text_is_stored_readable(tmp_path: Path) -> None:
    async with opened(tmp_path / "l.sqlite3") as ledger:
        ledger.write(row(model="gpt\ud800", user="nul\0 \U0001f600"))
        await ledger.flush()
        found = (await ledger.rows())[0]
        assert (found.model, found.user, ledger.lost) == ("gpt?", "nul\0 \U0001f600", 0)


async def test_a_flush_that_is_broken_off_loses_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "l.sqlite3", every=60.0) as ledger:
        for _ in range(600):
            ledger.write(row())
        for steps in range(8):
            flush = asyncio.create_task(ledger.flush())
            for _ in range(steps):
                await asyncio.sleep(0)
            flush.cancel()
            await asyncio.gather(flush, return_exceptions=True)
        await ledger.flush()
        assert (count(tmp_path / "l.sqlite3"), ledger.lost) == (600, 0)


# migrations


async def test_the_database_has_the_columns_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    async with opened(path):
        with closing(sqlite3.connect(path)) as database:
            assert [column[1] for column in database.execute("PRAGMA table_info(ledger)")] == list(Row._fields)
    assert [column.name for column in TABLE.columns] == list(Row._fields)


async def test_an_earlier_database_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    version = "CREATE TABLE ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL)"
    run(path, STEPS[0], version, "INSERT INTO ledger_version VALUES (1, 1)")
    async with opened(path) as ledger:
        ledger.write(row())
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master WHERE name = 'ledger_at'").fetchall() == [
            ("ledger_at",)
        ]
        assert database.execute("SELECT step FROM ledger_version").fetchall() == [(len(STEPS),)]
    assert count(path) == 1


async def test_many_may_start_at_once_and_again(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    ledgers = [Ledger(f"sqlite:///{path}") for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    for ledger in ledgers:
        ledger.write(row())
    await asyncio.gather(*(ledger.stop() for ledger in ledgers))
    async with opened(path):
        assert count(path) == 4


async def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    async with opened(path):
        run(path, "UPDATE ledger_version SET step = step + 1")
    later = Ledger(f"sqlite:///{path}")
    with pytest.raises(ValueError, match="later"):
        await later.start()
    await later.stop()


async def test_other_databases_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="postgresql"):
        await Ledger("postgresql://localhost/x").start()


# totals

LABEL = st.sampled_from(["", "a", "b\"'%", "c\0d"])
TOKENS = st.integers(0, 10_000)


@st.composite
def some_row(draw: st.DrawFn) -> Row:
    outcomes: list[Outcome] = ["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
    observed = draw(st.booleans())
    seen = [
        Passage("log", draw(LABEL), after + less, after) for after, less in draw(st.lists(st.tuples(TOKENS, TOKENS)))
    ]
    received = draw(TOKENS) + sum(passage.before for passage in seen)
    shorter = received - sum(passage.before - passage.after for passage in seen)
    one = Row(
        id=next(ids),
        at=draw(st.floats(0, 400_000)),
        model=draw(LABEL),
        session=draw(LABEL),
        user=draw(LABEL),
        project=draw(LABEL),
        mode_used="observe" if observed else "extract",
        outcome=draw(st.sampled_from(outcomes)),
        tokens_received=received,
        tokens_sent=received if observed else shorter,
        would_send=shorter if observed else None,
        passages=passages_json(seen),
        tags=tags_json(draw(st.dictionaries(LABEL, LABEL))),
    )
    usage = draw(st.none() | st.builds(Usage, input=TOKENS, output=TOKENS))
    return settle(one, usage, draw(st.none() | st.just(PRICE)))


async def add_up(rows: list[Row], by: str, since: float = 0.0, until: float | None = None) -> list[dict[str, Any]]:
    async with opened(":memory:", every=60.0) as ledger:
        for one in rows:
            ledger.write(one)
        await ledger.flush()
        return list(await ledger.totals(by, since, until))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(some_row(), max_size=12), st.sampled_from(["all", "model", "mode", "project", "session", "user", "tag:a"])
)
def test_the_groups_add_up_to_the_rows(rows: list[Row], by: str) -> None:
    totals = asyncio.run(add_up(rows, by))
    counted = [one for one in rows if one.outcome in COUNTED]
    assert sum(total["requests"] for total in totals) == len(rows)
    assert sum(total["failures"] for total in totals) == len(rows) - len(counted)
    assert sum(total["received"] for total in totals) == sum(one.tokens_received for one in counted)
    assert all(total["saved"] == total["received"] - total["sent"] for total in totals)
    would_save = sum(one.tokens_received - one.would_send for one in counted if one.would_send is not None)
    assert sum(total["would_save"] for total in totals) == would_save
    assert sum(total["unpriced"] for total in totals) == sum(one.cost is None for one in counted)
    costs = [one.cost for one in rows if one.cost is not None]
    assert sum(total["cost"] or 0.0 for total in totals) == pytest.approx(sum(costs))
    assert all(
        (total["cost"] is None) <= (total["unpriced"] + total["failures"] == total["requests"]) for total in totals
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(some_row(), max_size=12))
def test_tools_have_the_figures_of_their_passages(rows: list[Row]) -> None:
    totals = asyncio.run(add_up([one._replace(tags="{}") for one in rows], "tool"))
    counted = [one for one in rows if one.outcome in COUNTED]
    saved = sum(one.saved_tokens for one in counted)  # in these rows, all that was saved was saved on passages
    assert sum(total["saved"] for total in totals) == saved
    assert all(total["saved"] == total["received"] - total["sent"] for total in totals)
    assert "cost" not in {name for total in totals for name in total}


async def test_the_groups_are_what_they_are_called() -> None:
    day = 86_400.0
    rows = [
        row(at=0.0, model="x", mode_used="auto", project="p", session="s", user="u", tags='{"team":"red"}'),
        row(at=day - 1, model="x", passages=passages_json([Passage("log", "bash", 130, 100)])),
        row(at=day, model="y", outcome="failed", tags='{"team":"blue","x":"red"}'),
    ]
    groups: dict[str, dict[Any, int]] = defaultdict(dict)
    for by in (*GROUPS, "tag:team", "tag:none"):
        groups[by] = {total["group"]: total["requests"] for total in await add_up(rows, by)}
    assert groups == {
        "all": {"all": 3},
        "model": {"x": 2, "y": 1},
        "day": {"1970-01-01": 2, "1970-01-02": 1},
        "mode": {"auto": 1, "extract": 2},
        "tool": {"bash": 1},
        "tag": {"team=red": 1, "team=blue": 1, "x=red": 1},
        "project": {"p": 1, "": 2},
        "session": {"s": 1, "": 2},
        "user": {"u": 1, "": 2},
        "tag:team": {"red": 1, "blue": 1, "": 1},
        "tag:none": {"": 3},
    }


async def test_only_the_span_that_was_asked_for_is_added_up() -> None:
    rows = [row(at=float(at)) for at in range(10)]
    assert [total["requests"] for total in await add_up(rows, "all", 3.0, 7.0)] == [4]
    assert await add_up(rows, "all", 10.0) == []


async def test_what_nobody_knows_is_none() -> None:
    total = (await add_up([settle(Row("one", 1.0), None, None)], "all"))[0]
    assert {name for name, value in total.items() if value is None} == {
        *("billed_input", "billed_output", "reasoning", "cache_read", "cache_write", "cost", "saved_cost")
    }
    assert (total["unpriced"], total["unpriced_savings"]) == (1, 1)


@pytest.mark.parametrize("by", ["", "tags", "tag:", "cost", "day:1", "all:x", "id; DROP TABLE ledger"])
async def test_other_groups_are_refused(by: str) -> None:
    with pytest.raises(ValueError, match="tag:NAME"):
        await add_up([], by)


# kill -9

CHILD = """
import asyncio, sys, time
from clara_proxy.proxy.accounting import Row
from clara_proxy.proxy.ledger import Ledger

async def main():
    ledger = Ledger("sqlite:///" + sys.argv[1])
    await ledger.start()
    for number in range(10**9):
        for part in range(20):
            ledger.write(Row(f"{sys.argv[2]}-{number}-{part}", time.time(), passages="x" * 500))
        print(f"{sys.argv[2]}-{number}", time.monotonic(), flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


def test_kill_9_costs_the_last_second_at_most_and_corrupts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    promised: set[str] = set()
    for run_number in range(3):
        command = [sys.executable, "-c", CHILD, str(path), str(run_number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(1.3 + 0.07 * run_number)
            killed = time.monotonic()
            os.kill(child.pid, 9)
            said += child.stdout.read().splitlines()
        written = [line.split() for line in said if len(line.split()) == 2]
        old = {name for name, at in written if float(at) < killed - 1.0}
        assert old
        promised |= {f"{name}-{part}" for name in old for part in range(20)}
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert promised <= {name for (name,) in database.execute("SELECT id FROM ledger")}
