"""The totals of the ledger: statements that add rows up, and those that read the stored totals of whole days.

This module builds statements and executes none; `ledger_columns` defines the totals. The invariant: the stored totals
of whole days, plus the rows of the incomplete days at both ends of a period, equal the sum over all rows of the period.

Two totals count what the sums of dollars leave out. `unpriced` requests were answered by a provider at an unknown cost.
`unpriced_savings` counts these, the requests whose cost without the proxy is unknown, and the passages compressed by
`/v1/compress`, which another gateway pays for. Requests answered by the proxy itself are in neither: fetched originals,
model lists and token counts save nothing, and no provider bills the answers of the local CLaRa.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    Table,
    Text,
    case,
    distinct,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
)

from .ledger_columns import DOLLAR_SUMS, TOTAL_NAMES, TOTALS
from .ledger_dialect import SECONDS_PER_DAY, Dialect, Expression, NewRowPassages, Upsert
from .ledger_row import COUNTED_OUTCOMES, Row, merge_passages
from .ledger_schema import DAILY_TABLE, LEDGER_TABLE

TotalValue = str | int | float | None
Total = dict[str, TotalValue]

GROUPINGS = (
    *("all", "model", "day", "mode", "tool", "kind", "tag", "project", "session", "user", "key", "protocol", "outcome"),
)
TOOL_TOTAL_COLUMNS = ("requests", "received", "sent", "saved", "would_save")  # the totals of passages
MAX_LABEL_CHARS = 200  # characters by which groups are distinguished

_LABEL_COLUMNS = {
    "model": "model",
    "mode": "mode_used",
    "project": "project",
    "user": "user",
    "key": "key",
    "protocol": "protocol",
    "outcome": "outcome",
}
_PASSAGE_GROUPINGS = ("tool", "kind")
_DRIFT_SUFFIXES = ("", "_estimated")
_AVERAGE_COLUMNS = tuple(total.name for total in TOTALS if total.is_average)
_new_row_statements: dict[type[Dialect], "NewRowStatements"] = {}


class NewRowStatements(NamedTuple):
    """Statements that add newly inserted rows to the totals of their days, in this order.

    The parameter of `by_passage` is that of `new_row_passages` of the dialect, and of the others the ids.
    """

    by_passage: str
    others: Sequence[str]


def list_daily_groupings() -> tuple[str, ...]:
    """Return the groupings whose totals are stored by day; the others are computed from the rows."""
    return ("all", *_LABEL_COLUMNS, "tag", *_PASSAGE_GROUPINGS)


def build_totals_query(dialect: Dialect, by: str, since: float, until: float | None) -> Select[Any]:
    """Return the statement for the totals of a period in Unix seconds; averages come as sums.

    Raises ValueError for an unknown grouping.
    """
    at = LEDGER_TABLE.c.at
    period = at >= since if until is None else (at >= since) & (at < until)
    names = TOOL_TOTAL_COLUMNS if by in _PASSAGE_GROUPINGS else TOTAL_NAMES
    if by not in {*list_daily_groupings(), "day"}:
        parts = [_select_row_sums(dialect, by, period)]
    else:
        edges: list[tuple[float, float]]
        first, last = -int(-since // SECONDS_PER_DAY), None if until is None else int(until // SECONDS_PER_DAY)
        edges = [(since, first * SECONDS_PER_DAY)] if since < first * SECONDS_PER_DAY else []
        if last is not None and until is not None:
            edges = [(since, until)] if last <= first else [*edges, (last * SECONDS_PER_DAY, until)]
        parts = (
            [_select_row_sums(dialect, by, or_(*((at >= start) & (at < end) for start, end in edges)))] if edges else []
        )
        if last is None or last > first:
            parts.append(_select_stored_days(by, first, last))
    combined = union_all(*parts).subquery()
    order = combined.c.group if by == "day" else func.sum(combined.c.received).desc()
    sums = (func.sum(combined.c[name]).label(name) for name in names)
    return select(combined.c.group, *sums).group_by(combined.c.group).order_by(order, combined.c.group)


def parse_total(by: str, row: Mapping[Any, Any]) -> Total:
    """Convert a row of `build_totals_query` to plain numbers, averages and dates."""
    # The names are a subclass of str, which orjson refuses.
    total: Total = {str(name): int(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    if by not in _PASSAGE_GROUPINGS:
        requests = int(row["requests"])
        total |= {name: row[name] / requests if requests else None for name in _AVERAGE_COLUMNS}
        total |= compute_drifts(total)
        total |= {name: read_dollars(total, name) for name in DOLLAR_SUMS}
    if by == "day":
        total["group"] = (date(1970, 1, 1) + timedelta(days=row["group"])).isoformat()
    return total


def read_dollars(total: Mapping[str, TotalValue], name: str) -> float | None:
    """Return a sum of dollars (see `DOLLAR_SUMS`), or None if it is unknown.

    It is unknown, too, if it only adds up requests that are always free of charge, such as token counts.
    """
    amount = total.get(name)
    if not isinstance(amount, int | float):
        return None
    if amount == 0 and name == "saved_cost":
        operands = [operand for operand in ("cost_without", "cost") if operand in total]
        return None if any(read_dollars(total, operand) is None for operand in operands) else 0.0
    return None if amount == 0 and total.get(DOLLAR_SUMS[name]) else float(amount)


def compute_drifts(total: Mapping[str, TotalValue]) -> Total:
    """Return the relative difference between the provider's token count and ours; None if nothing was billed.

    `drift` covers models counted with their own vocabulary, `drift_estimated` the others.
    """
    sums = {
        suffix: (total.get(f"drift_billed{suffix}"), total.get(f"drift_sent{suffix}")) for suffix in _DRIFT_SUFFIXES
    }
    return {
        f"drift{suffix}": billed / sent - 1 if isinstance(billed, int) and isinstance(sent, int) and sent else None
        for suffix, (billed, sent) in sums.items()
    }


def build_rollup_statements(dialect: Dialect, rows: ColumnElement[bool]) -> list[str]:
    """Return statements that add `rows` (a filter of the dialect) to the totals of their days.

    They are compiled to text because they run in every transaction. All writers run them in this order, and each
    statement locks its groups in the order of their keys, so that writers cannot deadlock.
    """
    parts = (_select_by_passage(dialect, rows), _select_by_tag(dialect, rows), _select_by_label(dialect, rows))
    return [dialect.compile_statement(_build_upsert(dialect, part)) for part in parts]


def get_new_row_statements(dialect: Dialect) -> NewRowStatements:
    """Return the statements that add newly inserted rows to the totals; they are compiled once for each dialect."""
    if type(dialect) not in _new_row_statements:
        by_passage = _select_by_passage(dialect, true(), dialect.new_row_passages)
        _new_row_statements[type(dialect)] = NewRowStatements(
            dialect.compile_statement(_build_upsert(dialect, by_passage)),
            build_rollup_statements(dialect, dialect.new_row_filter)[1:],
        )
    return _new_row_statements[type(dialect)]


async def merge_row_passages(rows: Sequence[Row]) -> dict[str, str]:
    """Return the merged passages of the rows that have any, by id. Other tasks have their turn between long ones."""
    merged: dict[str, str] = {}
    for row in rows:
        if row.passages != "[]":
            merged[row.id] = merged_passages = merge_passages(row.passages)
            if merged_passages is not row.passages:
                await asyncio.sleep(0)
    return merged


def encode_new_row_passages(merged: Mapping[str, str], new_ids: Sequence[str]) -> str:
    """Return the parameter of `NewRowStatements.by_passage`."""
    return orjson.dumps([{"id": row_id, "passages": merged[row_id]} for row_id in new_ids if row_id in merged]).decode()


def build_day_queries(dialect: Dialect, day: int) -> list[Select[Any]]:
    """Return queries for the expected rows of `ledger_daily` for a day, in its columns."""
    rows = (LEDGER_TABLE.c.at >= float(day * SECONDS_PER_DAY)) & (
        LEDGER_TABLE.c.at < float((day + 1) * SECONDS_PER_DAY)
    )
    return [part(dialect, rows) for part in (_select_by_passage, _select_by_tag, _select_by_label)]


def _build_upsert(dialect: Dialect, rows: Select[Any]) -> Upsert:
    keys = ["by", "day", "group"]
    insert = dialect.build_upsert(DAILY_TABLE).from_select([*keys, *TOTAL_NAMES], rows.order_by(*keys))
    new = insert.excluded
    sums = {
        name: func.coalesce(DAILY_TABLE.c[name] + new[name], DAILY_TABLE.c[name], new[name]) for name in TOTAL_NAMES
    }
    return insert.on_conflict_do_update(index_elements=keys, set_=sums)


def _select_by_label(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    """Select totals by day for all groupings with exactly one label a row."""
    # In two steps: rows with equal labels are added up once, and not once for each grouping.
    labels = {kind: _truncate_label(LEDGER_TABLE.c[name]).label(f"of_{kind}") for kind, name in _LABEL_COLUMNS.items()}
    keyed = (dialect.compute_day(LEDGER_TABLE.c.at).label("day"), *labels.values())
    totals = (total.label(name) for name, total in _build_total_columns(LEDGER_TABLE).items())
    combinations = select(*keyed, *totals).where(where).group_by(*keyed).subquery()
    kinds = union_all(*(select(literal(kind, Text).label("by")) for kind in ("all", *_LABEL_COLUMNS))).subquery()
    label = case({kind: combinations.c[f"of_{kind}"] for kind in _LABEL_COLUMNS}, value=kinds.c.by, else_="all").label(
        "group"
    )
    keys: list[Expression] = [kinds.c.by, combinations.c.day, label]
    sums = (func.sum(combinations.c[name]).label(name) for name in TOTAL_NAMES)
    return select(*keys, *sums).select_from(combinations).join(kinds, true()).group_by(*keys)


def _select_by_tag(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    source, key, value = dialect.expand_tags(LEDGER_TABLE.c.tags)
    keyed = (
        literal("tag", Text).label("by"),
        dialect.compute_day(LEDGER_TABLE.c.at).label("day"),
        _truncate_label(key + "=" + value),
    )
    return _select_daily_totals(
        select(*keyed, *LEDGER_TABLE.c).select_from(LEDGER_TABLE).join(source, true()).where(where).subquery()
    )


def _select_by_passage(
    dialect: Dialect, where: ColumnElement[bool], new_rows: NewRowPassages | None = None
) -> Select[Any]:
    rows = _select_passages(dialect, where, _PASSAGE_GROUPINGS, new_rows)
    totals = _build_tool_columns(rows)
    keys = (rows.c.by, rows.c.day, rows.c.group)
    columns = (totals.get(name, null()).label(name) for name in TOTAL_NAMES)
    return select(*keys, *columns).group_by(*keys)


def _select_daily_totals(rows: Subquery) -> Select[Any]:
    keys = (rows.c.by, rows.c.day, rows.c.group)
    return select(*keys, *(total.label(name) for name, total in _build_total_columns(rows).items())).group_by(*keys)


def _select_stored_days(by: str, first: int, last: int | None) -> Select[Any]:
    """Select the stored totals of whole days."""
    group = DAILY_TABLE.c.day if by == "day" else DAILY_TABLE.c.group
    names = TOOL_TOTAL_COLUMNS if by in _PASSAGE_GROUPINGS else TOTAL_NAMES
    query = select(group.label("group"), *(DAILY_TABLE.c[name] for name in names))
    query = query.where(DAILY_TABLE.c.by == ("all" if by == "day" else by), DAILY_TABLE.c.day >= first)
    return query if last is None else query.where(DAILY_TABLE.c.day < last)


def _select_row_sums(dialect: Dialect, by: str, where: ColumnElement[bool]) -> Select[Any]:
    """Select the totals of rows by group."""
    if by in _PASSAGE_GROUPINGS:
        rows = _select_passages(dialect, where, (by,))
        totals = _build_tool_columns(rows)
    else:
        source, group = _select_group(dialect, by)
        rows = select(group.label("group"), *LEDGER_TABLE.c).select_from(source).where(where).subquery()
        totals = _build_total_columns(rows)
    return select(rows.c.group, *(total.label(name) for name, total in totals.items())).group_by(rows.c.group)


def _select_group(dialect: Dialect, by: str) -> tuple[FromClause, Expression]:
    """Return the rows to add up, and the expression to group them by."""
    kind, colon, name = by.partition(":")
    source, key, value = dialect.expand_tags(LEDGER_TABLE.c.tags)
    if kind == "tag" and name:
        return LEDGER_TABLE, _truncate_label(func.coalesce(select(value).where(key == name).scalar_subquery(), ""))
    if colon or by not in GROUPINGS:
        raise ValueError(f"unknown grouping {by!r}; use one of {', '.join(GROUPINGS)} or tag:NAME")
    if by == "tag":
        return LEDGER_TABLE.join(source, true()), _truncate_label(key + "=" + value)
    if by == "all":
        return LEDGER_TABLE, literal("all", Text)
    return LEDGER_TABLE, dialect.compute_day(LEDGER_TABLE.c.at) if by == "day" else _truncate_label(
        LEDGER_TABLE.c[_LABEL_COLUMNS.get(by, by)]
    )


def _truncate_label(text: Expression) -> Expression:
    # Only long texts are cut, because substr() of SQLite also cuts at a NUL.
    return case((func.length(text) > MAX_LABEL_CHARS, func.substr(text, 1, MAX_LABEL_CHARS)), else_=text).label("group")


def _build_total_columns(rows: Subquery | Table) -> dict[str, Expression]:
    return {total.name: total.build_sum(rows.c) for total in TOTALS}


def _select_passages(
    dialect: Dialect, where: ColumnElement[bool], by: Sequence[str], new_rows: NewRowPassages | None = None
) -> Subquery:
    """Select a row for each passage of the counted requests and for each grouping.

    The passages of `new_rows` stand for those in the table.
    """
    table: FromClause = LEDGER_TABLE
    passages: Expression = LEDGER_TABLE.c.passages
    if new_rows is not None:
        table, passages = new_rows.source.join(LEDGER_TABLE, LEDGER_TABLE.c.id == new_rows.id), new_rows.passages
    source, labels, before, after = dialect.expand_passages(passages)
    groupings = union_all(*(select(literal(name, Text).label("by")) for name in by)).subquery()
    observed = LEDGER_TABLE.c.would_send.is_not(None)
    columns = (
        LEDGER_TABLE.c.id,
        groupings.c.by,
        dialect.compute_day(LEDGER_TABLE.c.at).label("day"),
        _truncate_label(case({name: labels[name] for name in by}, value=groupings.c.by)),
        before.label("before"),
        case((observed, before), else_=after).label("sent"),
        case((observed, before - after), else_=0).label("would_save"),
    )
    rows = select(*columns).select_from(table).join(source, true()).join(groupings, true())
    return rows.where(LEDGER_TABLE.c.outcome.in_(COUNTED_OUTCOMES), LEDGER_TABLE.c.shadow_of == "", where).subquery()


def _build_tool_columns(rows: Subquery) -> dict[str, Expression]:
    received, sent = func.sum(rows.c.before), func.sum(rows.c.sent)
    return {
        "requests": func.count(distinct(rows.c.id)),
        "received": received,
        "sent": sent,
        "saved": received - sent,
        "would_save": func.sum(rows.c.would_save),
    }
