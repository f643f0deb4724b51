"""What a ledger row adds to the metrics. Pure, and without state.

The counters are derived from the totals of the ledger (`stores/ledger_columns`). The invariant: no amount is negative,
because counters must only grow; a total that may be negative is therefore two counters.
"""

from itertools import chain
from typing import Any, NamedTuple, cast

from ..stores.ledger_columns import TOTALS, Metric, TotalColumn
from ..stores.ledger_row import Row

METRIC_PREFIX = "clara_"


class _Counter(NamedTuple):
    """One counter: the conditions of its total as a bit mask, and the positions of its amount in a row."""

    name: str
    conditions: int
    column: int | None  # None: rows are counted
    subtrahend: int | None
    sign: int


_METERED = [
    (total, metric, sign)
    for total in TOTALS
    for metric, sign in ((total.metric, 1), (total.negative_metric, -1))
    if metric is not None
]
_CONDITION_BITS = {
    condition.matches: 1 << bit
    for bit, condition in enumerate(dict.fromkeys(chain.from_iterable(total.conditions for total, _, _ in _METERED)))
}


def _build_counter(total: TotalColumn, metric: Metric, sign: int) -> _Counter:
    column, subtrahend = [*map(Row._fields.index, total.amount), None, None][:2]
    conditions = sum(_CONDITION_BITS[condition.matches] for condition in total.conditions)
    return _Counter(metric.name, conditions, column, subtrahend, sign)


_COUNTERS = [_build_counter(*metered) for metered in _METERED]
# The name of each counter, without `METRIC_PREFIX` and `_total`, and its help text.
HELP: dict[str, str] = {metric.name: metric.help for _, metric, _ in _METERED}


class Histogram(NamedTuple):
    """A distribution: its name without `METRIC_PREFIX`, its help, and the upper bounds of its buckets in seconds."""

    name: str
    help: str
    bounds: tuple[float, ...]


DURATION = Histogram(
    "request_duration_seconds",
    "Time from the arrival of a request to the end of its answer.",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
)
OVERHEAD = Histogram(
    "overhead_duration_seconds",
    "Time in the proxy before a request was forwarded.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


def compute_amounts(row: Row) -> dict[str, float]:
    """Return the increments of a row for each counter of `HELP`."""
    matching = sum([bit for matches, bit in _CONDITION_BITS.items() if matches(row)])
    amounts = dict.fromkeys(HELP, 0.0)
    values = cast("tuple[Any, ...]", row)
    for name, conditions, column, subtrahend, sign in _COUNTERS:
        if matching & conditions != conditions:
            continue
        amount = 1 if column is None else values[column]
        if subtrahend is not None:
            amount = 0 if values[subtrahend] is None else amount - values[subtrahend]
        if amount and amount * sign > 0:
            amounts[name] = amount * sign
    return amounts
