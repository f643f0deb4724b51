"""What the columns of the ledger add up to: the only list of the totals, and of the metrics made of them. Pure.

A total exists in two forms that must agree: as a sum in SQL for reports (`build_sum`), and as the amount that one row
adds to a counter (`watch/row_metrics`). Both are derived from the same entry of `TOTALS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_type_hints

from sqlalchemy import BigInteger, Boolean, ColumnElement, Double, Text, and_, func, or_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from .ledger_row import COUNTED_OUTCOMES, GATEWAY_PROTOCOL, Row

Columns = ReadOnlyColumnCollection[str, Any]
SqlType = type[BigInteger] | type[Boolean] | type[Double[Any]] | type[Text]


class ColumnInfo(NamedTuple):
    """The SQL type of a column, whether it may be NULL, and its description."""

    sql_type: SqlType
    is_nullable: bool
    help: str


@dataclass(frozen=True)
class Condition:
    """A condition on a row, for the database and for a row in memory."""

    where: Callable[[Columns], ColumnElement[bool]]
    matches: Callable[[Row], bool]


class Metric(NamedTuple):
    """A Prometheus counter: its name without the prefix `clara_` and the suffix `_total`, and its help text."""

    name: str
    help: str


class TotalColumn(NamedTuple):
    """One total: the sum of an amount over the rows that meet all conditions.

    `amount` names a column, or two columns whose difference is added up; without it rows are counted. A total that
    `may_be_unknown` stays None if the amount is unknown in every row. `unknown_count` names the total that counts the
    rows in which it is. An average is stored as a sum and divided by the requests when it is read. A metric
    never decreases: negative amounts go to `negative_metric`.
    """

    name: str
    amount: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    metric: Metric | None = None
    negative_metric: Metric | None = None
    may_be_unknown: bool = False
    unknown_count: str = ""
    is_average: bool = False

    @property
    def sql_type(self) -> SqlType:
        """The SQL type of the sum."""
        return LEDGER_COLUMNS[self.amount[0]].sql_type if self.amount else BigInteger

    def build_sum(self, columns: Columns) -> ColumnElement[Any]:
        """Return the total of rows with these columns, as SQL."""
        conditions = [condition.where(columns) for condition in self.conditions]
        if not self.amount:
            return func.count().filter(*conditions)
        amount = columns[self.amount[0]]
        for name in self.amount[1:]:
            amount = amount - columns[name]
        total = func.sum(amount).filter(*conditions) if conditions else func.sum(amount)
        return total if self.may_be_unknown else func.coalesce(total, 0)


def _describe_column(annotation: object) -> ColumnInfo:
    python_type, description = get_args(annotation)
    members = get_args(python_type)  # of `int | None`, or of a Literal of texts
    is_nullable = type(None) in members
    if members:
        python_type = members[0] if is_nullable else str
    return ColumnInfo(_SQL_TYPES[python_type], is_nullable, description)


_SQL_TYPES: dict[type, SqlType] = {bool: Boolean, int: BigInteger, float: Double, str: Text}
LEDGER_COLUMNS = {name: _describe_column(hint) for name, hint in get_type_hints(Row, include_extras=True).items()}

# Shadow checks are requests of the proxy itself: their bills count, their tokens and savings do not.
CLIENT_REQUEST = Condition(lambda columns: columns.shadow_of == "", lambda row: not row.shadow_of)
SHADOW_CHECK = Condition(lambda columns: columns.shadow_of != "", lambda row: bool(row.shadow_of))
COUNTED = Condition(
    lambda columns: columns.outcome.in_(COUNTED_OUTCOMES),
    lambda row: row.outcome in COUNTED_OUTCOMES,
)
FAILED = Condition(
    lambda columns: columns.outcome.not_in(COUNTED_OUTCOMES),
    lambda row: row.outcome not in COUNTED_OUTCOMES,
)
COST_UNKNOWN = Condition(lambda columns: columns.cost.is_(None), lambda row: row.cost is None)
SAVING_UNKNOWN = Condition(lambda columns: columns.saved_cost.is_(None), lambda row: row.saved_cost is None)
# A provider was asked, or another gateway pays for the request that was compressed here.
BILLED_SOMEWHERE = Condition(
    lambda columns: or_(
        columns.outcome != "served",
        and_(columns.protocol == GATEWAY_PROTOCOL, columns.tokens_received != columns.tokens_sent),
    ),
    lambda row: (
        row.outcome != "served" or (row.protocol == GATEWAY_PROTOCOL and row.tokens_received != row.tokens_sent)
    ),
)
# The provider's count can be compared with ours: it read what was sent, once.
COMPARABLE = Condition(
    lambda columns: and_(
        columns.billed_input.is_not(None),
        columns.outcome.in_(("ok", "cancelled")),
        columns.tokens_sent > 0,
        columns.cleared_tokens == 0,
        columns.bill_parts.not_like('%"compaction"%'),
    ),
    lambda row: (
        row.billed_input is not None
        and row.outcome in {"ok", "cancelled"}
        and row.tokens_sent > 0
        and row.cleared_tokens == 0
        and '"compaction"' not in row.bill_parts
    ),
)
ESTIMATED = Condition(lambda columns: columns.tokens_estimated, lambda row: row.tokens_estimated)
EXACT = Condition(lambda columns: ~columns.tokens_estimated, lambda row: not row.tokens_estimated)

CACHE_MISSED = Condition(lambda columns: columns.cache_miss != "", lambda row: bool(row.cache_miss))
CACHE_MISSED_BY_PROXY = Condition(lambda columns: columns.cache_miss == "ours", lambda row: row.cache_miss == "ours")
USAGE_UNKNOWN = Condition(lambda columns: columns.unknown_usage != "{}", lambda row: row.unknown_usage != "{}")

# In the order of the columns of `ledger_daily`: new ones go to the end.
TOTALS = (
    TotalColumn("requests", conditions=(CLIENT_REQUEST,)),
    TotalColumn("failures", conditions=(CLIENT_REQUEST, FAILED)),
    TotalColumn(
        "received",
        ("tokens_received",),
        (CLIENT_REQUEST, COUNTED),
        Metric("received_tokens", "Context tokens of successful requests, as received."),
    ),
    TotalColumn(
        "sent",
        ("tokens_sent",),
        (CLIENT_REQUEST, COUNTED),
        Metric("sent_tokens", "Context tokens of successful requests, as forwarded."),
    ),
    TotalColumn(
        "saved",
        ("saved_tokens",),
        (CLIENT_REQUEST, COUNTED),
        Metric("saved_tokens", "Tokens not forwarded, of requests that became shorter."),
        Metric("added_tokens", "Tokens forwarded in addition (tool definitions, repeated questions)."),
    ),
    TotalColumn(
        "would_save",
        ("tokens_received", "would_send"),
        (CLIENT_REQUEST, COUNTED),
        Metric("would_save_tokens", "Tokens that requests in mode observe would have saved."),
    ),
    TotalColumn(
        "fetched_back",
        ("fetched_back_tokens",),
        metric=Metric("fetched_back_tokens", "Tokens of original text fetched back."),
    ),
    TotalColumn(
        "billed_input",
        ("billed_input",),
        metric=Metric("billed_input_tokens", "Prompt tokens billed, cached ones included."),
        may_be_unknown=True,
    ),
    TotalColumn(
        "billed_output",
        ("billed_output",),
        metric=Metric("billed_output_tokens", "Output tokens billed, reasoning included."),
        may_be_unknown=True,
    ),
    TotalColumn(
        "reasoning",
        ("billed_reasoning",),
        metric=Metric("billed_reasoning_tokens", "Reasoning tokens within the billed output."),
        may_be_unknown=True,
    ),
    TotalColumn(
        "cache_read",
        ("billed_cache_read",),
        metric=Metric("billed_cache_read_tokens", "Prompt tokens billed as read from the provider's cache."),
        may_be_unknown=True,
    ),
    TotalColumn(
        "cache_write",
        ("billed_cache_write",),
        metric=Metric("billed_cache_write_tokens", "Prompt tokens billed as written to the provider's cache."),
        may_be_unknown=True,
    ),
    TotalColumn(
        "cost",
        ("cost",),
        metric=Metric("cost_dollars", "Cost of requests in dollars, where it is known."),
        may_be_unknown=True,
        unknown_count="unpriced",
    ),
    TotalColumn(
        "saved_cost",
        ("saved_cost",),
        metric=Metric("saved_dollars", "Dollars saved, by requests that became cheaper."),
        negative_metric=Metric("overspent_dollars", "Dollars lost, by requests that became more expensive."),
        may_be_unknown=True,
        unknown_count="unpriced_savings",
    ),
    TotalColumn(
        "unpriced",
        conditions=(CLIENT_REQUEST, COUNTED, COST_UNKNOWN),
        metric=Metric("unpriced_requests", "Successful requests whose cost is unknown."),
    ),
    TotalColumn(
        "unpriced_savings",
        conditions=(CLIENT_REQUEST, COUNTED, SAVING_UNKNOWN, BILLED_SOMEWHERE),
        metric=Metric("unpriced_savings_requests", "Successful and billed requests with an unknown saving in dollars."),
    ),
    TotalColumn(
        "estimated",
        conditions=(CLIENT_REQUEST, ESTIMATED),
        metric=Metric("estimated_requests", "Requests counted with a substitute vocabulary."),
    ),
    TotalColumn(
        "compressor_tokens", ("compressor_tokens",), metric=Metric("compressor_tokens", "Tokens that compression took.")
    ),
    TotalColumn(
        "compressor_seconds",
        ("compressor_seconds",),
        metric=Metric("compressor_seconds", "Seconds that compression took."),
    ),
    TotalColumn(
        "gpu_seconds",
        ("gpu_seconds",),
        metric=Metric("gpu_seconds", "Seconds of an accelerator that compression took."),
    ),
    TotalColumn("latency_ms", ("latency_ms",), (CLIENT_REQUEST,), is_average=True),
    TotalColumn("overhead_ms", ("overhead_ms",), (CLIENT_REQUEST,), is_average=True),
    TotalColumn(
        "shadows",
        conditions=(SHADOW_CHECK,),
        metric=Metric("shadow_requests", "Shadow checks by the proxy itself; only their bill counts."),
    ),
    TotalColumn(
        "cost_without",
        ("cost_without",),
        metric=Metric("cost_without_dollars", "Cost of requests without the proxy in dollars, where it is known."),
        may_be_unknown=True,
        unknown_count="unpriced_savings",
    ),
    TotalColumn("drift_sent", ("tokens_sent",), (COMPARABLE, EXACT)),
    TotalColumn("drift_billed", ("billed_input",), (COMPARABLE, EXACT)),
    TotalColumn("drift_sent_estimated", ("tokens_sent",), (COMPARABLE, ESTIMATED)),
    TotalColumn("drift_billed_estimated", ("billed_input",), (COMPARABLE, ESTIMATED)),
    TotalColumn(
        "cache_misses",
        conditions=(CACHE_MISSED,),
        metric=Metric(
            "cache_miss_requests", "Requests for which the provider's cache held less than it was given before."
        ),
    ),
    TotalColumn(
        "cache_misses_ours",
        conditions=(CACHE_MISSED_BY_PROXY,),
        metric=Metric("cache_miss_ours_requests", "Cache misses after the proxy changed what it had forwarded before."),
    ),
    TotalColumn(
        "expand_tokens",
        ("expand_tokens",),
        metric=Metric("expand_tokens", "Tokens sent for the way back: the expand tool, its calls and further rounds."),
    ),
    TotalColumn(
        "expand_cost",
        ("expand_cost",),
        metric=Metric("expand_dollars", "Cost of the way back in dollars, where it is known."),
        may_be_unknown=True,
        unknown_count="unpriced",
    ),
    TotalColumn(
        "unknown_usages",
        conditions=(CLIENT_REQUEST, USAGE_UNKNOWN),
        metric=Metric("unknown_usage_requests", "Requests with amounts in their usage that the proxy does not know."),
    ),
)
TOTAL_NAMES = tuple(total.name for total in TOTALS)
# Sums of dollars, and the total that counts the requests which are missing from each.
DOLLAR_SUMS = {total.name: total.unknown_count for total in TOTALS if total.unknown_count}
