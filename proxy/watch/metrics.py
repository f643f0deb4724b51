"""Prometheus metrics of this process: counters since its start, made of ledger rows, and gauges read on each scrape.

The ledger calls `Metrics.record_row` with every row it writes, so metrics and ledger agree. Counters start at 0 with
the process, as Prometheus expects; the ledger holds the history. Invariant: a label takes a bounded number of values
whatever clients send, and no label identifies a person.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from itertools import accumulate
from operator import add
from typing import NamedTuple, cast

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ...compression.clara.async_engine import ClaraBackend
from ..stores.ledger import Ledger
from ..stores.ledger_row import Row
from .label_names import LabelLimiter, ModelLabels
from .row_metrics import DURATION, HELP, METRIC_PREFIX, OVERHEAD, Histogram, compute_amounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_REASONS = 50  # distinct skip reasons
BATCH_ROWS = 64
_REQUEST_LABELS = ("model", "protocol", "mode", "outcome")
_AMOUNT_LABELS = ("model", "mode")


class _BucketCounts(NamedTuple):
    """One label of a histogram: the number of values in each bucket (the last has no bound), and their sum."""

    buckets: list[int]
    total: list[float]


class LabelledHistogram:
    """A histogram with one label."""

    def __init__(self, histogram: Histogram, label: str) -> None:
        self._histogram, self._label = histogram, label
        self._values: dict[str, _BucketCounts] = {}

    def add_value(self, label: str, value: float) -> None:
        """Count a value, in seconds."""
        values = self._values.get(label)
        if values is None:
            values = self._values[label] = _BucketCounts([0] * (len(self._histogram.bounds) + 1), [0.0])
        values.buckets[bisect_left(self._histogram.bounds, value)] += 1
        values.total[0] += value

    def build_metric(self) -> Metric:
        """Return the histogram with cumulative buckets, as prometheus_client expects it."""
        family = HistogramMetricFamily(METRIC_PREFIX + self._histogram.name, self._histogram.help, labels=[self._label])
        bounds = [*map(str, self._histogram.bounds), "+Inf"]
        for label, (buckets, total) in list(self._values.items()):
            family.add_metric([label], list(zip(bounds, accumulate(list(buckets)), strict=True)), total[0])
        return family


class Metrics(Collector):
    """Adds up ledger rows and renders the metrics page. Call everything but `collect` on the event loop.

    Rows are counted in batches of `BATCH_ROWS`: cheaper than one at a time within each request.
    """

    def __init__(self, ledger: Ledger, clara: ClaraBackend | None = None) -> None:
        self._ledger, self._clara = ledger, clara
        self._models, self._reasons = ModelLabels(), LabelLimiter(MAX_REASONS)
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._amounts: dict[tuple[str, ...], list[float]] = {}
        self._skipped_passages: Counter[tuple[str, ...]] = Counter()
        self._duration, self._overhead = LabelledHistogram(DURATION, "model"), LabelledHistogram(OVERHEAD, "mode")
        self._pending_rows: list[Row] = []
        self.read_store_states: Callable[[], Mapping[str, bool]] = dict
        self.refusals: Counter[str] = Counter()  # refused connections and requests of the server, by reason
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def record_row(self, row: Row) -> None:
        """Queue a row for counting. Does not raise for a consistent row."""
        self._pending_rows.append(row)
        if len(self._pending_rows) >= BATCH_ROWS:
            self._count_pending()

    async def render_page(self) -> bytes:
        """Return the Prometheus page, of type `CONTENT_TYPE`, with every row recorded so far."""
        self._count_pending()
        return await asyncio.to_thread(generate_latest, self._registry)  # long pages would block the loop

    def _count_pending(self) -> None:
        pending, self._pending_rows = self._pending_rows, []
        for row in pending:
            self._add_row(row)

    def _add_row(self, row: Row) -> None:
        model, mode = self._models.get_row_label(row), row.mode_used
        amounts = compute_amounts(row)
        sums = self._amounts.get((model, mode))
        self._amounts[model, mode] = list(amounts.values()) if sums is None else list(map(add, sums, amounts.values()))
        if row.shadow_of:
            return
        self._requests[model, row.protocol, mode, row.outcome] += 1
        self._duration.add_value(model, row.latency_ms / 1000)
        self._overhead.add_value(mode, row.overhead_ms / 1000)
        if row.skipped != "{}":
            for reason, passages in cast("dict[str, int]", orjson.loads(row.skipped)).items():
                self._skipped_passages[self._reasons.get_label(reason),] += passages

    def collect(self) -> Iterator[Metric]:
        """Yield all counters and histograms, and the state of the ledger and of CLaRa; never loads the model."""
        yield _build_counter("requests", "Requests, by outcome.", _REQUEST_LABELS, self._requests)
        amounts = list(self._amounts.items())
        for index, (name, text) in enumerate(HELP.items()):
            yield _build_counter(name, text, _AMOUNT_LABELS, {labels: sums[index] for labels, sums in amounts})
        text = "Unchanged passages and whole requests, by skip reason; docs/steering.md lists the reasons."
        yield _build_counter("left_alone_passages", text, ("reason",), self._skipped_passages)
        text = "Connections and requests refused before they were read, by reason."
        refusals: dict[tuple[str, ...], float] = {(reason,): count for reason, count in list(self.refusals.items())}
        yield _build_counter("refused_connections", text, ("reason",), refusals)
        yield self._duration.build_metric()
        yield self._overhead.build_metric()
        yield from _collect_ledger(self._ledger)
        stores = GaugeMetricFamily(METRIC_PREFIX + "store_up", "1 while the store works, else 0.", labels=["store"])
        for store, is_up in self.read_store_states().items():
            stores.add_metric([store], float(is_up))
        yield stores
        if self._clara is not None:
            yield from _collect_clara(self._clara)


def _build_counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(METRIC_PREFIX + name, text, labels=labels)
    for label_values, value in list(values.items()):
        family.add_metric(label_values, value)
    return family


def _build_gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(METRIC_PREFIX + name, text, value)


def _collect_ledger(ledger: Ledger) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        METRIC_PREFIX + "build_info", "Always 1; the label holds the version of clara-proxy.", labels=["version"]
    )
    build.add_metric([version("clara-proxy")], 1)
    yield build
    yield _build_counter(
        "ledger_lost_rows", "Ledger rows of this process that could not be stored.", (), {(): ledger.lost_rows}
    )
    text = "Ledger rows lost before this process started, by all processes that used this ledger, killed ones included."
    yield _build_gauge("ledger_lost_before_rows", text, ledger.previously_lost_rows)
    yield _build_gauge("ledger_waiting_rows", "Ledger rows that wait to be stored.", ledger.waiting_rows)


def _collect_clara(clara: ClaraBackend) -> Iterator[Metric]:
    status = clara.worker.status()
    yield _build_gauge("model_loaded", "1 while the CLaRa model is in memory, else 0.", status.loaded)
    yield _build_gauge("model_waiting_jobs", "Jobs that wait for the CLaRa model.", status.waiting)
    yield _build_gauge("model_running_jobs", "Jobs that the CLaRa model is processing.", status.running)
    yield _build_counter("model_busy_seconds", "Seconds of work by the CLaRa model.", (), {(): status.busy_seconds})
