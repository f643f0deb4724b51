"""What rows add up to: the one definition of every figure, for the rows themselves and for what is kept of each day.

Statements only, nothing is executed. The invariant: the figures of days, and of the rows of the days that a span begins
and ends within, add up to those of all its rows.

Two figures say what the money leaves out. `unpriced` requests were answered by a provider, and nobody knows what they
cost. `unpriced_savings` are those of which nobody knows what they saved in money: these, those whose bill without us
cannot be told, and what `/v1/compress` has shortened, for its bill comes to somebody else. A request that was answered
here is in neither: originals fetched back, lists of models and counted tokens save nothing, and what the local CLaRa
answers (its own endpoints, the model `clara`, mode `latent`) no provider bills, so that no money is claimed for it,
however many tokens it did not have to read.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

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

from .ledger_dialect import SECONDS_PER_DAY, Dialect, Expression, Upsert
from .ledger_row import COUNTED_OUTCOMES
from .ledger_schema import DAILY_TABLE, LEDGER_TABLE, TOTAL_COLUMNS

TotalValue = str | int | float | None
Total = dict[str, TotalValue]

GROUPINGS = (
    *("all", "model", "day", "mode", "tool", "kind", "tag", "project", "session", "user", "key", "protocol", "outcome"),
)
TOOL_TOTAL_COLUMNS = (
    "requests",
    "received",
    "sent",
    "saved",
    "would_save",
)  # what can be told of a tool, or a kind of content
MAX_LABEL_CHARS = 200  # characters of a label that tell groups apart

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
GATEWAY_PROTOCOL = "compress"  # the protocol of what somebody else sends on, and pays for
# Sums of dollars, and the figure that counts the requests which are missing from each.
DOLLAR_SUMS = {"cost_without": "unpriced_savings", "cost": "unpriced", "saved_cost": "unpriced_savings"}
_AVERAGE_COLUMNS = ("latency_ms", "overhead_ms")


def list_daily_groupings() -> tuple[str, ...]:
    """Name the groupings that are kept by the day; the others are added up from the rows."""
    return ("all", *_LABEL_COLUMNS, "tag", *_PASSAGE_GROUPINGS)


def build_totals_query(dialect: Dialect, by: str, since: float, until: float | None) -> Select[Any]:
    """Return the statement for the totals of a span, in Unix seconds; of averages it gives the sums.

    Raises ValueError for a grouping that does not exist.
    """
    at = LEDGER_TABLE.c.at
    span = at >= since if until is None else (at >= since) & (at < until)
    names = TOOL_TOTAL_COLUMNS if by in _PASSAGE_GROUPINGS else TOTAL_COLUMNS
    if by not in {*list_daily_groupings(), "day"}:
        parts = [_select_row_sums(dialect, by, span)]
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
    every = union_all(*parts).subquery()
    order = every.c.group if by == "day" else func.sum(every.c.received).desc()
    sums = (func.sum(every.c[name]).label(name) for name in names)
    return select(every.c.group, *sums).group_by(every.c.group).order_by(order, every.c.group)


def parse_total(by: str, row: Mapping[Any, Any]) -> Total:
    """Make a total of what the database answers: plain numbers, averages, dates."""
    # SQLAlchemy's names are of a kind of text of its own, which JSON writers refuse.
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
    """Return a sum of dollars (of `MONEY`); None where nothing is known but of requests that cost nothing anyway."""
    figure = total.get(name)
    if not isinstance(figure, int | float):
        return None
    # A sum of nought beside requests without a price is that of requests which never cost any: counting tokens, say.
    if figure == 0 and name == "saved_cost":
        ends = [end for end in ("cost_without", "cost") if end in total]
        return None if any(read_dollars(total, end) is None for end in ends) else 0.0
    return None if figure == 0 and total.get(DOLLAR_SUMS[name]) else float(figure)


def compute_drifts(total: Mapping[str, TotalValue]) -> Total:
    """Return by how much of our count the provider's differs: nought where they agree, None where nothing is billed.

    `drift` is that of models whose own vocabulary counted, `drift_estimated` that of the others.
    """
    sums = {end: (total.get(f"drift_billed{end}"), total.get(f"drift_sent{end}")) for end in ("", "_estimated")}
    return {
        f"drift{end}": billed / sent - 1 if isinstance(billed, int) and isinstance(sent, int) and sent else None
        for end, (billed, sent) in sums.items()
    }


def build_rollup_statements(dialect: Dialect, rows: ColumnElement[bool]) -> list[str]:
    """Return the statements that add `rows` to the totals of their days: `fresh` or `span` of the dialect.

    As text, because they run with every transaction. They run in this order, and each takes groups in theirs, so that
    writers do not block one another in a circle.
    """
    parts = (_select_by_passage(dialect, rows), _select_by_tag(dialect, rows), _select_by_label(dialect, rows))
    return [dialect.compile_statement(_build_upsert(dialect, part)) for part in parts]


def build_day_queries(dialect: Dialect, day: int) -> list[Select[Any]]:
    """Return the selects of what `ledger_daily` should hold of a day, in its columns."""
    rows = (LEDGER_TABLE.c.at >= float(day * SECONDS_PER_DAY)) & (
        LEDGER_TABLE.c.at < float((day + 1) * SECONDS_PER_DAY)
    )
    return [part(dialect, rows) for part in (_select_by_passage, _select_by_tag, _select_by_label)]


def _build_upsert(dialect: Dialect, rows: Select[Any]) -> Upsert:
    keys = ["by", "day", "group"]
    insert = dialect.build_upsert(DAILY_TABLE).from_select([*keys, *TOTAL_COLUMNS], rows.order_by(*keys))
    new = insert.excluded
    added = {
        name: func.coalesce(DAILY_TABLE.c[name] + new[name], DAILY_TABLE.c[name], new[name]) for name in TOTAL_COLUMNS
    }
    return insert.on_conflict_do_update(index_elements=keys, set_=added)


def _select_by_label(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    """Return figures by day of everything that a row has exactly one label of."""
    # In two steps: rows that have all labels in common are added up once, and not once for each kind of label.
    labels = {kind: _truncate_label(LEDGER_TABLE.c[name]).label(f"of_{kind}") for kind, name in _LABEL_COLUMNS.items()}
    keyed = (dialect.compute_day(LEDGER_TABLE.c.at).label("day"), *labels.values())
    figures = (figure.label(name) for name, figure in _build_total_columns(LEDGER_TABLE).items())
    alike = select(*keyed, *figures).where(where).group_by(*keyed).subquery()
    kinds = union_all(*(select(literal(kind, Text).label("by")) for kind in ("all", *_LABEL_COLUMNS))).subquery()
    label = case({kind: alike.c[f"of_{kind}"] for kind in _LABEL_COLUMNS}, value=kinds.c.by, else_="all").label("group")
    keys: list[Expression] = [kinds.c.by, alike.c.day, label]
    sums = (func.sum(alike.c[name]).label(name) for name in TOTAL_COLUMNS)
    return select(*keys, *sums).select_from(alike).join(kinds, true()).group_by(*keys)


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


def _select_by_passage(dialect: Dialect, where: ColumnElement[bool]) -> Select[Any]:
    rows = _select_passages(dialect, where, _PASSAGE_GROUPINGS)
    known = _build_tool_columns(rows)
    keys = (rows.c.by, rows.c.day, rows.c.group)
    every = (known.get(name, null()).label(name) for name in TOTAL_COLUMNS)
    return select(*keys, *every).group_by(*keys)


def _select_daily_totals(rows: Subquery) -> Select[Any]:
    keys = (rows.c.by, rows.c.day, rows.c.group)
    return select(*keys, *(figure.label(name) for name, figure in _build_total_columns(rows).items())).group_by(*keys)


def _select_stored_days(by: str, first: int, last: int | None) -> Select[Any]:
    """Return what is kept of whole days."""
    group = DAILY_TABLE.c.day if by == "day" else DAILY_TABLE.c.group
    names = TOOL_TOTAL_COLUMNS if by in _PASSAGE_GROUPINGS else TOTAL_COLUMNS
    found = select(group.label("group"), *(DAILY_TABLE.c[name] for name in names))
    found = found.where(DAILY_TABLE.c.by == ("all" if by == "day" else by), DAILY_TABLE.c.day >= first)
    return found if last is None else found.where(DAILY_TABLE.c.day < last)


def _select_row_sums(dialect: Dialect, by: str, where: ColumnElement[bool]) -> Select[Any]:
    """Return what rows add up to, by group."""
    if by in _PASSAGE_GROUPINGS:
        rows = _select_passages(dialect, where, (by,))
        figures = _build_tool_columns(rows)
    else:
        source, group = _select_group(dialect, by)
        rows = select(group.label("group"), *LEDGER_TABLE.c).select_from(source).where(where).subquery()
        figures = _build_total_columns(rows)
    return select(rows.c.group, *(figure.label(name) for name, figure in figures.items())).group_by(rows.c.group)


def _select_group(dialect: Dialect, by: str) -> tuple[FromClause, Expression]:
    """Return the rows to add up and what to group them by."""
    kind, colon, name = by.partition(":")
    source, key, value = dialect.expand_tags(LEDGER_TABLE.c.tags)
    if kind == "tag" and name:
        return LEDGER_TABLE, _truncate_label(func.coalesce(select(value).where(key == name).scalar_subquery(), ""))
    if colon or by not in GROUPINGS:
        raise ValueError(f"totals by {by!r} are not kept: say one of {', '.join(GROUPINGS)} or tag:NAME")
    if by == "tag":
        return LEDGER_TABLE.join(source, true()), _truncate_label(key + "=" + value)
    if by == "all":
        return LEDGER_TABLE, literal("all", Text)
    return LEDGER_TABLE, dialect.compute_day(LEDGER_TABLE.c.at) if by == "day" else _truncate_label(
        LEDGER_TABLE.c[_LABEL_COLUMNS.get(by, by)]
    )


def _truncate_label(text: Expression) -> Expression:
    # Not cut if it is short: SQLite would end it at a NUL.
    return case((func.length(text) > MAX_LABEL_CHARS, func.substr(text, 1, MAX_LABEL_CHARS)), else_=text).label("group")


def _build_total_columns(rows: Subquery | Table) -> dict[str, Expression]:
    of = rows.c
    counted = of.outcome.in_(COUNTED_OUTCOMES)
    own = of.shadow_of != ""  # asked by ourselves: its bill counts, and it is nobody's request
    theirs = counted & ~own
    here = of.outcome == "served"
    sold_elsewhere = (of.protocol == GATEWAY_PROTOCOL) & (of.tokens_received != of.tokens_sent)
    billed = of.billed_input.is_not(None) & of.outcome.in_(("ok", "cancelled")) & (of.tokens_sent > 0)
    return {
        "requests": func.count().filter(~own),
        "failures": func.count().filter(~counted, ~own),
        "received": _sum_where(of.tokens_received, theirs),
        "sent": _sum_where(of.tokens_sent, theirs),
        "saved": _sum_where(of.saved_tokens, theirs),
        "would_save": _sum_where(of.tokens_received - of.would_send, theirs),
        "fetched_back": _sum_where(of.fetched_back_tokens),
        "billed_input": func.sum(of.billed_input),
        "billed_output": func.sum(of.billed_output),
        "reasoning": func.sum(of.billed_reasoning),
        "cache_read": func.sum(of.billed_cache_read),
        "cache_write": func.sum(of.billed_cache_write),
        "cost": func.sum(of.cost),
        "saved_cost": func.sum(of.saved_cost),
        "unpriced": func.count().filter(theirs, of.cost.is_(None)),
        "unpriced_savings": func.count().filter(theirs, of.saved_cost.is_(None), or_(~here, sold_elsewhere)),
        "estimated": func.count().filter(of.tokens_estimated, ~own),
        "compressor_tokens": _sum_where(of.compressor_tokens),
        "compressor_seconds": _sum_where(of.compressor_seconds),
        "gpu_seconds": _sum_where(of.gpu_seconds),
        "latency_ms": _sum_where(of.latency_ms, ~own),
        "overhead_ms": _sum_where(of.overhead_ms, ~own),
        "shadows": func.count().filter(own),
        "cost_without": func.sum(of.cost_without),
        "drift_sent": _sum_where(of.tokens_sent, billed & ~of.tokens_estimated),
        "drift_billed": _sum_where(of.billed_input, billed & ~of.tokens_estimated),
        "drift_sent_estimated": _sum_where(of.tokens_sent, billed & of.tokens_estimated),
        "drift_billed_estimated": _sum_where(of.billed_input, billed & of.tokens_estimated),
    }


def _select_passages(dialect: Dialect, where: ColumnElement[bool], by: Sequence[str]) -> Subquery:
    """Return a row for each passage of the rows that count, and for each thing that it is grouped by."""
    source, labels, before, after = dialect.expand_passages(LEDGER_TABLE.c.passages)
    grouped = union_all(*(select(literal(one, Text).label("by")) for one in by)).subquery()
    observed = LEDGER_TABLE.c.would_send.is_not(None)
    columns = (
        LEDGER_TABLE.c.id,
        grouped.c.by,
        dialect.compute_day(LEDGER_TABLE.c.at).label("day"),
        _truncate_label(case({name: labels[name] for name in by}, value=grouped.c.by)),
        before.label("before"),
        case((observed, before), else_=after).label("sent"),
        case((observed, before - after), else_=0).label("would_save"),
    )
    rows = select(*columns).select_from(LEDGER_TABLE).join(source, true()).join(grouped, true())
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


def _sum_where(column: Expression, where: ColumnElement[bool] | None = None) -> Expression:
    total = func.sum(column)
    return func.coalesce(total if where is None else total.filter(where), 0)
