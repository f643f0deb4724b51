"""Pages of the ledger, in SQLite and in PostgreSQL: complete, without duplicates, and safe from SQL injection."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.proxy.stores import ledger_queries
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_queries import MAX_FILTER_CHARS, PageCursor, RowFilters, parse_cursor
from clara_proxy.proxy.stores.ledger_row import Passage, Row, encode_labels, encode_passages
from clara_proxy.tests.servers import Postgres

SPECIAL_TEXTS = (
    "'",
    "'; DROP TABLE ledger; --",
    '" OR 1=1 --',
    "%",
    "_",
    "\\",
    "%' OR '1'='1",
    "$1",
    ":model",
    "?",
    "{}",
)
every_database = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
ids = (f"req_{number:08d}" for number in itertools.count())


def row(**values: Any) -> Row:
    return apply_bill(Row(id=next(ids), at=1000.0)._replace(**values), None, None)


@asynccontextmanager
async def open_ledger_with(kind: str, folder: Path, postgres: Postgres, *rows: Row) -> AsyncGenerator[Ledger]:
    ledger = Ledger(postgres.reset_database() if kind == "postgres" else f"sqlite:///{folder / 'l.sqlite3'}")
    await ledger.start()
    try:
        for item in rows:
            ledger.write(item)
        await ledger.flush()
        yield ledger
    finally:
        await ledger.stop()


async def find_ids(ledger: Ledger, **filters: str) -> set[str]:
    return {item.id for item in (await ledger_queries.read_page(ledger, RowFilters(**filters), 0.0)).rows}


@every_database
async def test_pages_contain_every_row_once(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    rows = [row(at=1000.0 + number // 3, model=f"m{number % 2}") for number in range(20)]  # three with the same time
    async with open_ledger_with(kind, tmp_path, postgres, *rows) as ledger:
        page = await ledger_queries.read_page(ledger, RowFilters(), 0.0, limit=6)
        page_rows = page.rows
        while page.next_cursor is not None:
            assert page.is_full
            page = await ledger_queries.read_page(
                ledger, RowFilters(), 0.0, cursor=parse_cursor(str(page.next_cursor)), limit=6
            )
            page_rows = page_rows + page.rows
        assert page_rows == sorted(rows, key=lambda item: (item.at, item.id), reverse=True)
        assert not page.is_full
        since = await ledger_queries.read_page(ledger, RowFilters(model="m1"), 1003.0)
        assert {item.id for item in since.rows} == {item.id for item in rows if item.at >= 1003 and item.model == "m1"}


@every_database
async def test_a_page_scans_a_limited_number_of_rows(
    kind: str, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_queries, "MAX_SCANNED_ROWS", 10)
    rows = [row(at=float(number), model="rare" if number == 3 else "often") for number in range(25)]
    async with open_ledger_with(kind, tmp_path, postgres, *rows) as ledger:
        pages = [await ledger_queries.read_page(ledger, RowFilters(model="rare"), 0.0)]
        while pages[-1].next_cursor is not None:
            pages.append(
                await ledger_queries.read_page(ledger, RowFilters(model="rare"), 0.0, cursor=pages[-1].next_cursor)
            )
        assert [len(page.rows) for page in pages] == [0, 0, 1]
        assert pages[0].next_cursor == PageCursor(rows[15].at, rows[15].id)


@every_database
async def test_filters_match_exactly(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    passages = encode_passages([Passage("tool", "Bash", 9, 4), Passage("text", 'a "quoted" tool\\', 3, 3, "role")])
    match = row(model="m", mode_used="extract", project="p", outcome="ok", passages=passages, user="u", key="k")
    match = match._replace(skipped=encode_labels({"role": 1}), session="s")
    other = row(model="M", mode_used="off", project="P", outcome="failed", skipped=encode_labels({"not-role": 2}))
    other = other._replace(passages=encode_passages([Passage("Tool", "bash", 1, 1, "kind")]))
    async with open_ledger_with(kind, tmp_path, postgres, match, other) as ledger:
        filters = {"model": "m", "mode": "extract", "project": "p", "outcome": "ok", "tool": "Bash", "kind": "tool"}
        for name, value in (filters | {"reason": "role"}).items():
            assert await find_ids(ledger, **{name: value}) == {match.id}, name
        assert await find_ids(ledger, tool='a "quoted" tool\\') == {match.id}
        for label in ("u", "s", "k", match.id):
            assert await find_ids(ledger, label=label) == {match.id}
        assert await find_ids(ledger, **filters) == {match.id}
        assert await find_ids(ledger, **{**filters, "model": "M"}) == set()
        assert await ledger_queries.find_row(ledger, match.id) == match
        assert await ledger_queries.find_row(ledger, "' OR ''='") is None


@every_database
async def test_filters_are_neither_sql_nor_patterns(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    rows = [row(model="m", project="p", user="u", passages=encode_passages([Passage("tool", "t", 2, 2, "role")]))]
    rows += [row(model=text, tags='{"a":"b"}') for text in SPECIAL_TEXTS]
    async with open_ledger_with(kind, tmp_path, postgres, *rows) as ledger:
        for text in SPECIAL_TEXTS:
            for field in fields(RowFilters):
                assert RowFilters(**{field.name: text}).is_valid
                expected = {item.id for item in rows if field.name == "model" and item.model == text}
                assert await find_ids(ledger, **{field.name: text}) == expected, (field.name, text)
            after = await ledger_queries.read_page(ledger, RowFilters(), 0.0, cursor=PageCursor(2000.0, text))
            assert len(after.rows) == len(rows)
        assert len(await ledger.read_newest_rows()) == len(rows)


@pytest.mark.parametrize(
    "text", ["", "1", "~", "1~", "~a", "1e9~a", "nan~a", "inf~a", "1~a b", "1~a'", "1~a\n", "-1~a"]
)
def test_invalid_cursors_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="no such page"):
        parse_cursor(text)


def test_cursors_survive_a_round_trip() -> None:
    for time in (0.0, 1763735655.1234567, 1763735655.0, 1e9):
        assert parse_cursor(str(PageCursor(time, "req_1"))) == PageCursor(time, "req_1")


def test_impossible_filters_are_invalid() -> None:
    assert not RowFilters(model="x" * (MAX_FILTER_CHARS + 1)).is_valid
    assert not RowFilters(label="a\0b").is_valid
