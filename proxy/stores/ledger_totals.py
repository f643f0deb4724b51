"""What rows add up to: the one definition of every figure, for the rows themselves and for what is kept of each day.

Statements only, nothing is executed. The invariant: the figures of days, and of the rows of the days that a span begins
and ends within, add up to those of all its rows.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Subquery,
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

from .accounting import COUNTED
from .ledger_dialect import DAY, Dialect, Expression, Upsert
from .ledger_schema import DAILY, FIGURES, TABLE

Figure = str | int | float | None
Total = dict[str, Figure]

GROUPS = ("all", "model", "day", "mode", "tool", "tag", "project", "session", "user")
OF_TOOLS = ("requests", "received", "sent", "saved", "would_save")  # what can be told of a tool
LABEL = 200  # characters of a label that tell groups apart

_COLUMNS = {"model": "model", "mode": "mode_used", "project": "project", "user": "user"}
_AVERAGES = ("latency_ms", "overhead_ms")


def kept() -> tuple[str, ...]:
    """Name the groupings that are kept by the day; the others are added up from the rows."""
    return ("all", *_COLUMNS, "tag", "tool")


def statement(dialect: Dialect, by: str, since: float, until: float | None) -> Select[Any]:
    """Return the statement for the totals of a span, in Unix seconds; of averages it gives the sums.

    Raises ValueError for a grouping that does not exist.
    """
    at = TABLE.c.at
    span = at >= since if until is None else (at >= since) & (at < until)
    names = OF_TOOLS if by == "tool" else FIGURES
    if by not in {*kept(), "day"}:
        parts = [_added(dialect, by, span)]
    else:
        edges: list[tuple[float, float]]
        first, last = -int(-since // DAY), None if until is None else int(until // DAY)
        edges = [(since, first * DAY)] if since < first * DAY else []
        if last is not None and until is not None:
            edges = [(since, until)] if last <= first else [*edges, (last * DAY, until)]
        parts = [_added(dialect, by, or_(*((at >= start) & (at < end) for start, end in edges)))] if edges else []
        if last is None or last > first:
            parts.append(_of_days(by, first, last))
    every = union_all(*parts).subquery()
    order = every.c.group if by == "day" else func.sum(every.c.received).desc()
    sums = (func.sum(every.c[name]).label(name) for name in names)
    return select(every.c.group, *sums).group_by(every.c.group).order_by(order, every.c.group)


def told(by: str, row: Mapping[Any, Any]) -> Total:
    """Make a total of what the database answers: plain numbers, averages, dates."""
    # SQLAlchemy's names are of a kind of text of its own, which JSON writers refuse.
    total: Total = {str(name): int(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    for name in _AVERAGES:
        if name in total:
            total[name] = row[name] / int(row["requests"])
    if by == "day":
        total["group"] = (date(1970, 1, 1) + timedelta(days=row["group"])).isoformat()
    return total


def rollups(dialect: Dialect, rows: ColumnElement[bool]) -> list[str]:
    """Return the statements that add `rows` to the totals of their days: `fresh` or `span` of the dialect.

    As text, because they run with every transaction. They run in this order, and each takes groups in theirs, so that
    writers do not block one another in a circle.
    """
    parts = (_of_tools(dialect, rows), _of_tags(dialect, rows), _of_labels(dialect, rows))
    return [dialect.text(_upsert(dialect, part)) for part in parts]


def of_day(dialect: Dialect, day: int) -> list[Select[Any]]:
    """Return the selects of what `ledger_daily` should hold of a day, in its columns."""
    rows = (TABLE.c.at >= float(day * DAY)) & (TABLE.c.at < float((day + 1) * DAY))
    return [part(dialect, rows) for part in (_of_tools, _of_tags, _of_labels)]


def _upsert(dialect: Dialect, rows: Select[Any]) -> Upsert:
    keys = ["by", "day", "group"]
    insert = dialect.upsert(DAILY).from_select([*keys, *FIGURES], rows.order_by(*keys))
    new = insert.excluded
    added = {name: func.coalesce(DAILY.c[name] + new[name], DAILY.c[name], new[name]) for name in FIGURES}
    return insert.on_conflict_do_update(index_elements=keys, set_=added)


def _of_labels(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    """Return figures by day of everything that a row has exactly one label of."""
    kinds = union_all(*(select(literal(kind, Text).label("by")) for kind in ("all", *_COLUMNS))).subquery()
    label = case({kind: TABLE.c[name] for kind, name in _COLUMNS.items()}, value=kinds.c.by, else_="all")
    keyed = (kinds.c.by, dialect.day(TABLE.c.at).label("day"), _label(label))
    return _daily(select(*keyed, *TABLE.c).select_from(TABLE).join(kinds, true()).where(where).subquery())


def _of_tags(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    source, key, value = dialect.tags(TABLE.c.tags)
    keyed = (literal("tag", Text).label("by"), dialect.day(TABLE.c.at).label("day"), _label(key + "=" + value))
    return _daily(select(*keyed, *TABLE.c).select_from(TABLE).join(source, true()).where(where).subquery())


def _of_tools(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    rows = _passages(dialect, where)
    known = _tool_figures(rows)
    keys = (literal("tool", Text).label("by"), rows.c.day, rows.c.group)
    every = (known.get(name, null()).label(name) for name in FIGURES)
    return select(*keys, *every).group_by(rows.c.day, rows.c.group)


def _daily(rows: Subquery) -> Select[Any]:
    keys = (rows.c.by, rows.c.day, rows.c.group)
    return select(*keys, *(figure.label(name) for name, figure in _figures(rows).items())).group_by(*keys)


def _of_days(by: str, first: int, last: int | None) -> Select[Any]:
    """Return what is kept of whole days."""
    group = DAILY.c.day if by == "day" else DAILY.c.group
    names = OF_TOOLS if by == "tool" else FIGURES
    found = select(group.label("group"), *(DAILY.c[name] for name in names))
    found = found.where(DAILY.c.by == ("all" if by == "day" else by), DAILY.c.day >= first)
    return found if last is None else found.where(DAILY.c.day < last)


def _added(dialect: Dialect, by: str, where: ColumnElement[bool]) -> Select[Any]:
    """Return what rows add up to, by group."""
    if by == "tool":
        rows = _passages(dialect, where)
        figures = _tool_figures(rows)
    else:
        source, group = _group(dialect, by)
        rows = select(group.label("group"), *TABLE.c).select_from(source).where(where).subquery()
        figures = _figures(rows)
    return select(rows.c.group, *(figure.label(name) for name, figure in figures.items())).group_by(rows.c.group)


def _group(dialect: Dialect, by: str) -> tuple[FromClause, Expression]:
    """Return the rows to add up and what to group them by."""
    kind, colon, name = by.partition(":")
    source, key, value = dialect.tags(TABLE.c.tags)
    if kind == "tag" and name:
        return TABLE, _label(func.coalesce(select(value).where(key == name).scalar_subquery(), ""))
    if colon or by not in GROUPS:
        raise ValueError(f"totals by {by!r} are not kept: say one of {', '.join(GROUPS)} or tag:NAME")
    if by == "tag":
        return TABLE.join(source, true()), _label(key + "=" + value)
    if by == "all":
        return TABLE, literal("all", Text)
    return TABLE, dialect.day(TABLE.c.at) if by == "day" else _label(TABLE.c[_COLUMNS.get(by, by)])


def _label(text: Expression) -> Expression:
    # Not cut if it is short: SQLite would end it at a NUL.
    return case((func.length(text) > LABEL, func.substr(text, 1, LABEL)), else_=text).label("group")


def _figures(rows: Subquery) -> dict[str, Expression]:
    of = rows.c
    counted = of.outcome.in_(COUNTED)
    return {
        "requests": func.count(),
        "failures": func.count().filter(~counted),
        "received": _sum(of.tokens_received, counted),
        "sent": _sum(of.tokens_sent, counted),
        "saved": _sum(of.saved_tokens, counted),
        "would_save": _sum(of.tokens_received - of.would_send, counted),
        "fetched_back": _sum(of.fetched_back_tokens),
        "billed_input": func.sum(of.billed_input),
        "billed_output": func.sum(of.billed_output),
        "reasoning": func.sum(of.billed_reasoning),
        "cache_read": func.sum(of.billed_cache_read),
        "cache_write": func.sum(of.billed_cache_write),
        "cost": func.sum(of.cost),
        "saved_cost": func.sum(of.saved_cost),
        "unpriced": func.count().filter(counted, of.cost.is_(None)),
        "unpriced_savings": func.count().filter(counted, of.saved_cost.is_(None)),
        "estimated": func.count().filter(of.tokens_estimated),
        "compressor_tokens": _sum(of.compressor_tokens),
        "compressor_seconds": _sum(of.compressor_seconds),
        "gpu_seconds": _sum(of.gpu_seconds),
        "latency_ms": func.sum(of.latency_ms),
        "overhead_ms": func.sum(of.overhead_ms),
    }


def _passages(dialect: Dialect, where: ColumnElement[bool]) -> Subquery:
    """Return a row for each passage of the rows that count."""
    source, tool, before, after = dialect.passages(TABLE.c.passages)
    observed = TABLE.c.would_send.is_not(None)
    columns = (
        TABLE.c.id,
        dialect.day(TABLE.c.at).label("day"),
        _label(tool),
        before.label("before"),
        case((observed, before), else_=after).label("sent"),
        case((observed, before - after), else_=0).label("would_save"),
    )
    rows = select(*columns).select_from(TABLE).join(source, true())
    return rows.where(TABLE.c.outcome.in_(COUNTED), where).subquery()


def _tool_figures(rows: Subquery) -> dict[str, Expression]:
    received, sent = func.sum(rows.c.before), func.sum(rows.c.sent)
    return {
        "requests": func.count(distinct(rows.c.id)),
        "received": received,
        "sent": sent,
        "saved": received - sent,
        "would_save": func.sum(rows.c.would_save),
    }


def _sum(column: Expression, where: ColumnElement[bool] | None = None) -> Expression:
    total = func.sum(column)
    return func.coalesce(total if where is None else total.filter(where), 0)
