"""What a ledger row adds to the metrics. Pure, and without state.

The counters are derived from the totals of the ledger (`stores/ledger_columns`). The invariant: no amount is negative,
because counters must only grow; a total that may be negative is therefore two counters.
"""

from typing import NamedTuple

from ..stores.ledger_columns import TOTALS
from ..stores.ledger_row import Row

METRIC_PREFIX = "clara_"

_METRICS = [
    (total, metric, sign)
    for total in TOTALS
    for metric, sign in ((total.metric, 1), (total.negative_metric, -1))
    if metric is not None
]
# The name of each counter, without `METRIC_PREFIX` and `_total`, and its help text.
HELP: dict[str, str] = {metric.name: metric.help for _, metric, _ in _METRICS}


class Histogram(NamedTuple):
    """A distribution: its name without `METRIC_PREFIX`, its help text, and the upper bounds of its buckets in seconds."""

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
    """Return what a row adds to each counter of `HELP`."""
    return {metric.name: max(0, sign * total.measure_row(row)) for total, metric, sign in _METRICS}
