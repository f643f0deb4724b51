"""Prometheus metrics: counters since the start, made of ledger rows, and gauges read on each scrape.

The ledger calls `Metrics.record_row` with every row it writes, so metrics and ledger agree. Counters start at 0 with
the process, as Prometheus expects; the ledger holds the history. The processes of one proxy add theirs up. Invariant: a
label takes a bounded number of values whatever clients send, and no label identifies a person.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import cast

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...compression.clara.async_engine import ClaraBackend
from ..stores.ledger import Ledger
from ..stores.ledger_row import Row
from .label_names import LabelLimiter, ModelLabels
from .metric_totals import MetricTotals
from .row_metrics import HELP, METRIC_PREFIX, compute_amounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_REASONS = 50  # distinct skip reasons
BATCH_ROWS = 64
_LOST_ROWS, _WAITING_ROWS = "ledger_lost_rows", "ledger_waiting_rows"
_REQUEST_LABELS = ("model", "protocol", "mode", "outcome")
_AMOUNT_LABELS = ("model", "mode")


class Metrics(Collector):
    """Adds up ledger rows and renders the metrics page. Call everything but `collect` on the event loop.

    Rows are counted in batches of `BATCH_ROWS`: cheaper than one at a time within each request.
    """

    def __init__(self, ledger: Ledger, clara: ClaraBackend | None = None) -> None:
        self._ledger, self._clara = ledger, clara
        self._models, self._reasons = ModelLabels(), LabelLimiter(MAX_REASONS)
        self._totals = MetricTotals()
        self._pending_rows: list[Row] = []
        self.read_store_states: Callable[[], Mapping[str, bool]] = dict
        self.read_other_totals: Callable[[], Iterable[bytes]] = tuple  # of the proxy's other processes, encoded
        self.refusals: Counter[str] = Counter()  # refused connections and requests of the server, by reason
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._process = ProcessCollector(registry=None)

    def record_row(self, row: Row) -> None:
        """Queue a row for counting. Does not raise for a consistent row."""
        self._pending_rows.append(row)
        if len(self._pending_rows) >= BATCH_ROWS:
            self._count_pending()

    async def render_page(self) -> bytes:
        """Return the Prometheus page, of type `CONTENT_TYPE`, with every row recorded so far."""
        self._ledger.build_rows()
        self._count_pending()
        return await asyncio.to_thread(generate_latest, self._registry)  # long pages would block the loop

    def encode_totals(self) -> bytes:
        """Return the totals of this process for `read_other_totals` of another one."""
        self._ledger.build_rows()
        self._count_pending()
        return self._build_own_totals().encode()

    def continue_from(self, totals: bytes) -> None:
        """Continue from the encoded counters of a process that has ended."""
        self._totals.add_encoded(totals)
        self._totals.gauges.clear()

    def _build_own_totals(self) -> MetricTotals:
        gauges = {_LOST_ROWS: float(self._ledger.lost_rows), _WAITING_ROWS: float(self._ledger.waiting_rows)}
        gauges |= {metric.name: metric.samples[0].value for metric in self._process.collect()}
        refusals = Counter(dict(self._totals.refusals))
        refusals.update(dict(self.refusals))
        return replace(self._totals, gauges=gauges, refusals=refusals)

    def _sum_totals(self) -> MetricTotals:
        """Return the totals of all processes of the proxy."""
        own = self._build_own_totals()
        others = list(self.read_other_totals())
        if not others:
            return own
        total = MetricTotals()
        for encoded in (own.encode(), *others):
            total.add_encoded(encoded)
        return total

    def _count_pending(self) -> None:
        pending, self._pending_rows = self._pending_rows, []
        for row in pending:
            self._add_row(row)

    def _add_row(self, row: Row) -> None:
        model, mode = self._models.get_row_label(row), row.mode_used
        amounts = compute_amounts(row)
        self._totals.add_amounts((model, mode), list(amounts.values()))
        if row.shadow_of:
            return
        self._totals.requests[model, row.protocol, mode, row.outcome] += 1
        self._totals.duration.add_value(model, row.latency_ms / 1000)
        self._totals.overhead.add_value(mode, row.overhead_ms / 1000)
        if row.skipped != "{}":
            for reason, passages in cast("dict[str, int]", orjson.loads(row.skipped)).items():
                self._totals.skipped_passages[self._reasons.get_label(reason),] += passages

    def collect(self) -> Iterator[Metric]:
        """Yield all counters and histograms, and the state of the ledger and of CLaRa; never loads the model."""
        totals = self._sum_totals()
        yield _build_counter("requests", "Requests, by outcome.", _REQUEST_LABELS, totals.requests)
        amounts = list(totals.amounts.items())
        for index, (name, text) in enumerate(HELP.items()):
            yield _build_counter(name, text, _AMOUNT_LABELS, {labels: sums[index] for labels, sums in amounts})
        text = "Unchanged passages and whole requests, by skip reason; docs/steering.md lists the reasons."
        yield _build_counter("left_alone_passages", text, ("reason",), totals.skipped_passages)
        text = "Connections and requests refused before they were read, by reason."
        refusals: dict[tuple[str, ...], float] = {(reason,): count for reason, count in totals.refusals.items()}
        yield _build_counter("refused_connections", text, ("reason",), refusals)
        yield totals.duration.build_metric()
        yield totals.overhead.build_metric()
        yield from _collect_ledger(self._ledger, totals.gauges)
        stores = GaugeMetricFamily(METRIC_PREFIX + "store_up", "1 while the store works, else 0.", labels=["store"])
        for store, is_up in self.read_store_states().items():
            stores.add_metric([store], float(is_up))
        yield stores
        yield from _collect_process(self._process, totals.gauges)
        if self._clara is not None:
            yield from _collect_clara(self._clara)


def _build_counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(METRIC_PREFIX + name, text, labels=labels)
    for label_values, value in list(values.items()):
        family.add_metric(label_values, value)
    return family


def _build_gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(METRIC_PREFIX + name, text, value)


def _collect_ledger(ledger: Ledger, gauges: Mapping[str, float]) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        METRIC_PREFIX + "build_info", "Always 1; the label holds the version of clara-proxy.", labels=["version"]
    )
    build.add_metric([version("clara-proxy")], 1)
    yield build
    yield _build_counter(
        "ledger_lost_rows",
        "Ledger rows of this proxy that could not be stored.",
        (),
        {(): gauges[_LOST_ROWS]},
    )
    text = "Ledger rows lost before this process started, by all processes that used this ledger, killed ones included."
    yield _build_gauge("ledger_lost_before_rows", text, ledger.previously_lost_rows)
    yield _build_gauge("ledger_waiting_rows", "Ledger rows that wait to be stored.", gauges[_WAITING_ROWS])


def _collect_process(process: ProcessCollector, sums: Mapping[str, float]) -> Iterator[Metric]:
    """Yield the metrics of the operating system, for all processes together; the start time is that of this one."""
    for metric in process.collect():
        if not metric.name.endswith("start_time_seconds"):
            metric.samples = [metric.samples[0]._replace(value=sums[metric.name])]
        yield metric


def _collect_clara(clara: ClaraBackend) -> Iterator[Metric]:
    status = clara.worker.status()
    yield _build_gauge("model_loaded", "1 while the CLaRa model is in memory, else 0.", status.loaded)
    yield _build_gauge("model_waiting_jobs", "Jobs that wait for the CLaRa model.", status.waiting)
    yield _build_gauge("model_running_jobs", "Jobs that the CLaRa model is processing.", status.running)
    yield _build_counter("model_busy_seconds", "Seconds of work by the CLaRa model.", (), {(): status.busy_seconds})
