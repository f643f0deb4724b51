"""The counts behind the metrics of one process, as values that can be written, read, and added up over processes."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from typing import Any, NamedTuple

import orjson
from prometheus_client.core import HistogramMetricFamily, Metric

from .row_metrics import DURATION, METRIC_PREFIX, OVERHEAD, Histogram

Labels = tuple[str, ...]


class BucketCounts(NamedTuple):
    """One label of a histogram: the number of values in each bucket (the last has no bound), and their sum."""

    buckets: list[int]
    total: list[float]


class LabelledHistogram:
    """A histogram with one label."""

    def __init__(self, histogram: Histogram, label: str) -> None:
        self._histogram, self._label = histogram, label
        self.values: dict[str, BucketCounts] = {}

    def add_value(self, label: str, value: float) -> None:
        """Count a value, in seconds."""
        values = self._get_counts(label)
        values.buckets[bisect_left(self._histogram.bounds, value)] += 1
        values.total[0] += value

    def add_counts(self, counts: dict[str, tuple[list[int], list[float]]]) -> None:
        """Add the counts of another process."""
        for label, (buckets, total) in counts.items():
            values = self._get_counts(label)
            values.buckets[:] = map(add, values.buckets, buckets)
            values.total[0] += total[0]

    def _get_counts(self, label: str) -> BucketCounts:
        values = self.values.get(label)
        if values is None:
            values = self.values[label] = BucketCounts([0] * (len(self._histogram.bounds) + 1), [0.0])
        return values

    def build_metric(self) -> Metric:
        """Return the histogram with cumulative buckets, as prometheus_client expects it."""
        family = HistogramMetricFamily(METRIC_PREFIX + self._histogram.name, self._histogram.help, labels=[self._label])
        bounds = [*map(str, self._histogram.bounds), "+Inf"]
        for label, (buckets, total) in list(self.values.items()):
            family.add_metric([label], list(zip(bounds, accumulate(list(buckets)), strict=True)), total[0])
        return family


@dataclass(slots=True)
class MetricTotals:
    """The counts of a process. `amounts` has a list of the amounts of `row_metrics.HELP`, in order, by labels.

    `gauges` are values that add up over processes, by name.
    """

    requests: Counter[Labels] = field(default_factory=Counter[Labels])
    amounts: dict[Labels, list[float]] = field(default_factory=dict[Labels, list[float]])
    skipped_passages: Counter[Labels] = field(default_factory=Counter[Labels])
    refusals: Counter[str] = field(default_factory=Counter[str])
    duration: LabelledHistogram = field(default_factory=lambda: LabelledHistogram(DURATION, "model"))
    overhead: LabelledHistogram = field(default_factory=lambda: LabelledHistogram(OVERHEAD, "mode"))
    gauges: dict[str, float] = field(default_factory=dict[str, float])

    def add_amounts(self, labels: Labels, amounts: list[float]) -> None:
        """Add the amounts of a row."""
        sums = self.amounts.get(labels)
        self.amounts[labels] = amounts if sums is None else list(map(add, sums, amounts))

    def encode(self) -> bytes:
        """Return the totals as JSON, for `add_encoded`."""
        return orjson.dumps({
            "requests": list(self.requests.items()),
            "amounts": list(self.amounts.items()),
            "skipped_passages": list(self.skipped_passages.items()),
            "refusals": self.refusals,
            "duration": self.duration.values,
            "overhead": self.overhead.values,
            "gauges": self.gauges,
        }, default=tuple)  # fmt: skip

    def add_encoded(self, text: bytes) -> None:
        """Add the totals that another process has encoded.

        Raises:
            ValueError: the text is not valid JSON.
        """
        fields: dict[str, Any] = orjson.loads(text)
        for labels, count in fields["requests"]:
            self.requests[tuple(labels)] += count
        for labels, amounts in fields["amounts"]:
            self.add_amounts(tuple(labels), amounts)
        for labels, count in fields["skipped_passages"]:
            self.skipped_passages[tuple(labels)] += count
        self.refusals.update(fields["refusals"])
        self.duration.add_counts(fields["duration"])
        self.overhead.add_counts(fields["overhead"])
        for name, value in fields["gauges"].items():
            self.gauges[name] = self.gauges.get(name, 0.0) + value
