"""Prometheus metrics of this process: what its ledger rows add up to since it began, and how things are right now.

Not a second set of books: all that counts is heard from the ledger (`hear`), so the two cannot disagree; gauges alone
are read when somebody asks. A new process begins at nought, which Prometheus knows how to take; history is the
ledger's. The invariant: whatever clients send, a label takes a bounded number of values, and none names a person.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from operator import add
from typing import NamedTuple, cast

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ...compression.clara.async_engine import LocalClara
from ..stores.ledger import Ledger
from ..stores.ledger_row import Row
from .label_names import LabelLimiter, ModelLabels
from .row_metrics import DURATION, HELP, METRIC_PREFIX, OVERHEAD, Histogram, compute_amounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_REASONS = 50
BATCH_ROWS = 64  # rows
_REQUEST_LABELS = ("model", "protocol", "mode", "outcome")
_AMOUNT_LABELS = ("model", "mode")


class _BucketCounts(NamedTuple):
    """Values of a histogram under one label: how many in each bucket (the last one has no bound), and their sum."""

    buckets: list[int]
    total: list[float]


class LabelledHistogram:
    """One histogram, by one label."""

    def __init__(self, what: Histogram, label: str) -> None:
        self._histogram, self._label = what, label
        self._values: dict[str, _BucketCounts] = {}

    def add_value(self, label: str, value: float) -> None:
        """Count a value, in seconds."""
        values = self._values.get(label)
        if values is None:
            values = self._values[label] = _BucketCounts([0] * (len(self._histogram.bounds) + 1), [0.0])
        values.buckets[bisect_left(self._histogram.bounds, value)] += 1
        values.total[0] += value

    def build_metric(self) -> Metric:
        """Return what was counted, as prometheus_client writes it: each bucket with those below it."""
        family = HistogramMetricFamily(METRIC_PREFIX + self._histogram.name, self._histogram.help, labels=[self._label])
        bounds = [*map(str, self._histogram.bounds), "+Inf"]
        for label, (buckets, total) in list(self._values.items()):
            taken = list(buckets)
            below = [sum(taken[: at + 1]) for at in range(len(taken))]
            family.add_metric([label], list(zip(bounds, below, strict=True)), total[0])
        return family


class Metrics(Collector):
    """Hears rows, and says what they add up to. Everything but `collect` belongs on the event loop.

    Rows are counted some at a time, which is cheaper than each among the work for its request.
    """

    def __init__(self, ledger: Ledger, clara: LocalClara | None = None) -> None:
        self._ledger, self._clara = ledger, clara
        self._models, self._reasons = ModelLabels(), LabelLimiter(MAX_REASONS)
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._amounts: dict[tuple[str, ...], list[float]] = {}
        self._skipped_passages: Counter[tuple[str, ...]] = Counter()
        self._duration, self._overhead = LabelledHistogram(DURATION, "model"), LabelledHistogram(OVERHEAD, "mode")
        self._pending_rows: list[Row] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def record_row(self, row: Row) -> None:
        """Take a row. Never raises for one that adds up."""
        self._pending_rows.append(row)
        if len(self._pending_rows) >= BATCH_ROWS:
            self._count_pending()

    async def render_page(self) -> bytes:
        """Return the page that Prometheus reads, of the type `CONTENT_TYPE`, with every row heard so far."""
        self._count_pending()
        return await asyncio.to_thread(generate_latest, self._registry)  # it may be a long one

    def _count_pending(self) -> None:
        heard, self._pending_rows = self._pending_rows, []
        for row in heard:
            self._add_row(row)

    def _add_row(self, row: Row) -> None:
        model, mode = self._models.get_row_label(row), row.mode_used
        added = compute_amounts(row)
        sums = self._amounts.get((model, mode))
        self._amounts[model, mode] = list(added) if sums is None else list(map(add, sums, added))
        if added.shadow_requests:
            return
        self._requests[model, row.protocol, mode, row.outcome] += 1
        self._duration.add_value(model, row.latency_ms / 1000)
        self._overhead.add_value(mode, row.overhead_ms / 1000)
        if row.skipped != "{}":
            for reason, passages in cast("dict[str, int]", orjson.loads(row.skipped)).items():
                self._skipped_passages[self._reasons.get_label(reason),] += passages

    def collect(self) -> Iterator[Metric]:
        """Yield everything that was counted, and how the ledger and CLaRa are now; never loads the model."""
        yield _build_counter("requests", "Requests, whatever became of them.", _REQUEST_LABELS, self._requests)
        taken = list(self._amounts.items())
        for at, (name, meaning) in enumerate(HELP.items()):
            yield _build_counter(name, meaning, _AMOUNT_LABELS, {labels: sums[at] for labels, sums in taken})
        meaning = "Passages that were left as they were, and whole requests, by reason (docs/steering.md)."
        yield _build_counter("left_alone_passages", meaning, ("reason",), self._skipped_passages)
        yield self._duration.build_metric()
        yield self._overhead.build_metric()
        yield from _collect_ledger(self._ledger)
        if self._clara is not None:
            yield from _collect_clara(self._clara)


def _build_counter(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(METRIC_PREFIX + name, meaning, labels=labels)
    for its_labels, value in list(values.items()):
        family.add_metric(its_labels, value)
    return family


def _build_gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(METRIC_PREFIX + name, meaning, value)


def _collect_ledger(ledger: Ledger) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        METRIC_PREFIX + "build_info", "Always 1; the label says which version runs.", labels=["version"]
    )
    build.add_metric([version("clara-proxy")], 1)
    yield build
    yield _build_counter(
        "ledger_lost_rows", "Rows of this process that are stored nowhere.", (), {(): ledger.lost_rows}
    )
    meaning = "Rows lost before this process began by all that wrote to this ledger, killed ones included."
    yield _build_gauge("ledger_lost_before_rows", meaning, ledger.previously_lost_rows)


def _collect_clara(clara: LocalClara) -> Iterator[Metric]:
    now = clara.worker.status()
    yield _build_gauge("model_loaded", "1 while CLaRa is in memory, else 0.", now.loaded)
    yield _build_gauge("model_waiting_jobs", "Jobs that wait for CLaRa.", now.waiting)
    yield _build_gauge("model_running_jobs", "Jobs that CLaRa works on.", now.running)
    yield _build_counter("model_busy_seconds", "Seconds that CLaRa has worked.", (), {(): now.busy_seconds})
