"""Rows of the ledger for people who look at them: the newest, filtered, page by page. Read-only.

It adds up nothing but the bill of shadow checks (all else `ledger_totals` does). What is asked for arrives as
parameters, never as SQL. The invariant: pages follow one another without a row twice or left out, and one page looks
through `SCAN` rows at most, however rare the rows are that fit: a page that ends for that reason says where the next
begins.
"""

import re
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from .ledger import Ledger
from .ledger_row import Row
from .ledger_schema import LEDGER_TABLE

MAX_SCANNED_ROWS = 20_000  # rows
MAX_FILTER_CHARS = 200  # characters of a filter: no label is longer
MAX_PAGE_ROWS = 200  # rows of a page

_CURSOR_PATTERN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)~([A-Za-z0-9_.:-]{1,80})")


class PageCursor(NamedTuple):
    """Where a page ends: a row's time in Unix seconds, and its id."""

    at: float
    id: str

    def __str__(self) -> str:
        """Write it down, as `place` reads it."""
        return f"{self.at!r}~{self.id}"


@dataclass(frozen=True, slots=True)
class RowFilters:
    """What rows must have; an empty text asks for nothing. `reason`: something of it was left alone for that reason.

    `tool` and `kind` are those of a passage. `label` is a user, a session, a key or the id of a request.
    """

    model: str = ""
    mode: str = ""
    project: str = ""
    outcome: str = ""
    tool: str = ""
    kind: str = ""
    reason: str = ""
    label: str = ""

    def build_conditions(self, of: ReadOnlyColumnCollection[str, Any]) -> list[ColumnElement[bool]]:
        """Return the filters as conditions on these columns."""
        exact = {of.model: self.model, of.mode_used: self.mode, of.project: self.project, of.outcome: self.outcome}
        found: list[ColumnElement[bool]] = [column == wanted for column, wanted in exact.items() if wanted]
        inside = (
            (of.passages, f'"tool":{_encode_json(self.tool)}', self.tool),
            (of.passages, f'"kind":{_encode_json(self.kind)}', self.kind),
            (of.skipped, f"{_encode_json(self.reason)}:", self.reason),
        )
        # Not LIKE: it has letters of its own, and in SQLite it takes capitals for small ones.
        found += [func.replace(column, text, "") != column for column, text, wanted in inside if wanted]
        if self.label:
            found.append(or_(*(column == self.label for column in (of.user, of.session, of.key, of.id))))
        return found

    @property
    def is_valid(self) -> bool:
        """Say whether every filter is a text that could stand in a row."""
        said = [str(getattr(self, field.name)) for field in fields(self)]
        return all(len(text) <= MAX_FILTER_CHARS and "\0" not in text for text in said)


class RowPage(NamedTuple):
    """Rows, newest first, and where to go on, if there may be more. `looked_at` counts the rows gone through."""

    rows: list[Row]
    next_cursor: PageCursor | None
    is_full: bool


async def read_page(
    ledger: Ledger, filters: RowFilters, since: float, *, cursor: PageCursor | None = None, limit: int = 50
) -> RowPage:
    """Return stored rows from `since` (Unix seconds) on that fit, behind `after`; at most `limit` of them.

    `full` says whether the page ends because it is full; it may also end because `SCAN` rows were gone through.
    """
    limit = min(limit, MAX_PAGE_ROWS)
    near = _select_from_cursor(since, cursor)
    window = near.limit(MAX_SCANNED_ROWS).subquery()
    place = (window.c.at.desc(), window.c.id.desc())
    async with ledger.engine.connect() as connection:
        found = select(window).where(*filters.build_conditions(window.c)).order_by(*place).limit(limit)
        rows = [Row(*row) for row in await connection.execute(found)]
        if len(rows) == limit:
            return RowPage(rows, PageCursor(rows[-1].at, rows[-1].id), is_full=True)
        last = near.with_only_columns(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id).offset(MAX_SCANNED_ROWS - 1).limit(1)
        end = (await connection.execute(last)).first()
    return RowPage(rows, None if end is None else PageCursor(*end), is_full=False)


async def find_row(ledger: Ledger, its_id: str) -> Row | None:
    """Return the row of that id, if it is stored."""
    async with ledger.engine.connect() as connection:
        found = (await connection.execute(select(LEDGER_TABLE).where(LEDGER_TABLE.c.id == its_id))).first()
    return None if found is None else Row(*found)


async def sum_shadow_bills(ledger: Ledger, since: float) -> tuple[int, ...]:
    """Return what was billed as input for shadow checks from `since` (Unix seconds) on, which totals have in theirs.

    That is: our count of what was billed, the bill for that, the bill in all, and what of it was read from the cache
    and written to it.
    """
    of = LEDGER_TABLE.c
    counted = of.billed_input.is_not(None) & of.outcome.in_(("ok", "cancelled")) & (of.tokens_sent > 0)
    sums = (
        func.sum(of.tokens_sent).filter(counted),
        func.sum(of.billed_input).filter(counted),
        *(func.sum(column) for column in (of.billed_input, of.billed_cache_read, of.billed_cache_write)),
    )
    async with ledger.engine.connect() as connection:
        found = await connection.execute(select(*sums).where(of.shadow_of != "", of.at >= since))
        return tuple(int(figure or 0) for figure in found.one())


def parse_cursor(text: str) -> PageCursor:
    """Read a place as it was written down. Raises ValueError when it is none."""
    found = _CURSOR_PATTERN.fullmatch(text)
    if found is None:
        raise ValueError("there is no such page")
    return PageCursor(float(found[1]), found[2])


def _select_from_cursor(since: float, after: PageCursor | None) -> Select[Any]:
    near = select(LEDGER_TABLE).where(LEDGER_TABLE.c.at >= since)
    if after is not None:
        near = near.where(tuple_(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id) < tuple(after))
    return near.order_by(LEDGER_TABLE.c.at.desc(), LEDGER_TABLE.c.id.desc())


def _encode_json(text: str) -> str:
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()
