"""Pages of ledger rows, newest first, with filters. Read-only.

Filters become parameters, never SQL. The invariant: consecutive pages contain every matching row exactly once. One page
scans at most `MAX_SCANNED_ROWS`, however rare matching rows are, and then returns the cursor of the next page.
"""

import re
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from .ledger import Ledger
from .ledger_columns import COMPARABLE, SHADOW_CHECK
from .ledger_row import Row
from .ledger_schema import LEDGER_TABLE

MAX_SCANNED_ROWS = 20_000  # per page
MAX_FILTER_CHARS = 200  # no label is longer
MAX_PAGE_ROWS = 200

_CURSOR_PATTERN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)~([A-Za-z0-9_.:-]{1,80})")


class PageCursor(NamedTuple):
    """The end of a page: the time (Unix seconds) and the id of its last row."""

    at: float
    id: str

    def __str__(self) -> str:
        """Return the text that `parse_cursor` reads."""
        return f"{self.at!r}~{self.id}"


@dataclass(frozen=True, slots=True)
class RowFilters:
    """Conditions on rows; an empty text is no condition.

    `tool` and `kind` belong to a passage; `reason` is a skip reason; `label` is a user, session, key or request id.
    """

    model: str = ""
    mode: str = ""
    project: str = ""
    outcome: str = ""
    tool: str = ""
    kind: str = ""
    reason: str = ""
    label: str = ""

    def build_conditions(self, columns: ReadOnlyColumnCollection[str, Any]) -> list[ColumnElement[bool]]:
        """Return the filters as conditions on these columns."""
        exact = (
            (columns.model, self.model),
            (columns.mode_used, self.mode),
            (columns.project, self.project),
            (columns.outcome, self.outcome),
        )
        conditions: list[ColumnElement[bool]] = [column == value for column, value in exact if value]
        contained = (
            (columns.passages, f'"tool":{_encode_json(self.tool)}', self.tool),
            (columns.passages, f'"kind":{_encode_json(self.kind)}', self.kind),
            (columns.skipped, f"{_encode_json(self.reason)}:", self.reason),
        )
        # LIKE has wildcards, and ignores case in SQLite.
        conditions += [func.replace(column, text, "") != column for column, text, value in contained if value]
        if self.label:
            labels = (columns.user, columns.session, columns.key, columns.id)
            conditions.append(or_(*(column == self.label for column in labels)))
        return conditions

    @property
    def is_valid(self) -> bool:
        """True if a row could contain every filter."""
        texts = [str(getattr(self, field.name)) for field in fields(self)]
        return all(len(text) <= MAX_FILTER_CHARS and "\0" not in text for text in texts)


class RowPage(NamedTuple):
    """Rows, newest first, and the cursor of the next page if there may be more rows."""

    rows: list[Row]
    next_cursor: PageCursor | None
    is_full: bool


async def read_page(
    ledger: Ledger, filters: RowFilters, since: float, *, cursor: PageCursor | None = None, limit: int = 50
) -> RowPage:
    """Return at most `limit` matching rows from `since` (Unix seconds) on, behind `cursor`.

    `is_full` is False if the page ended at `MAX_SCANNED_ROWS` or at the last row.
    """
    limit = min(limit, MAX_PAGE_ROWS)
    newest_first = _select_from_cursor(since, cursor)
    window = newest_first.limit(MAX_SCANNED_ROWS).subquery()
    order = (window.c.at.desc(), window.c.id.desc())
    async with ledger.engine.connect() as connection:
        query = select(window).where(*filters.build_conditions(window.c)).order_by(*order).limit(limit)
        rows = [Row(*row) for row in await connection.execute(query)]
        if len(rows) == limit:
            return RowPage(rows, PageCursor(rows[-1].at, rows[-1].id), is_full=True)
        keys = newest_first.with_only_columns(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id)
        end = (await connection.execute(keys.offset(MAX_SCANNED_ROWS - 1).limit(1))).first()
    return RowPage(rows, None if end is None else PageCursor(*end), is_full=False)


async def find_row(ledger: Ledger, row_id: str) -> Row | None:
    """Return the stored row with this id, or None."""
    async with ledger.engine.connect() as connection:
        values = (await connection.execute(select(LEDGER_TABLE).where(LEDGER_TABLE.c.id == row_id))).first()
    return None if values is None else Row(*values)


async def sum_shadow_bills(ledger: Ledger, since: float) -> tuple[int, ...]:
    """Return the input tokens of shadow checks from `since` (Unix seconds) on; the ledger's totals include them.

    The sums are: our count of comparable checks, their billed input, all billed input, cache reads and cache writes.
    """
    columns = LEDGER_TABLE.c
    is_comparable = COMPARABLE.where(columns)
    sums = (
        func.sum(columns.tokens_sent).filter(is_comparable),
        func.sum(columns.billed_input).filter(is_comparable),
        *(func.sum(column) for column in (columns.billed_input, columns.billed_cache_read, columns.billed_cache_write)),
    )
    async with ledger.engine.connect() as connection:
        result = await connection.execute(select(*sums).where(SHADOW_CHECK.where(columns), columns.at >= since))
        return tuple(int(tokens or 0) for tokens in result.one())


def parse_cursor(text: str) -> PageCursor:
    """Parse the text of a cursor. Raises ValueError if it is invalid."""
    match = _CURSOR_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("there is no such page")
    return PageCursor(float(match[1]), match[2])


def _select_from_cursor(since: float, cursor: PageCursor | None) -> Select[Any]:
    query = select(LEDGER_TABLE).where(LEDGER_TABLE.c.at >= since)
    if cursor is not None:
        query = query.where(tuple_(LEDGER_TABLE.c.at, LEDGER_TABLE.c.id) < tuple(cursor))
    return query.order_by(LEDGER_TABLE.c.at.desc(), LEDGER_TABLE.c.id.desc())


def _encode_json(text: str) -> str:
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()
