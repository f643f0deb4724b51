"""Exports ledger rows to OpenTelemetry: one span per request, and the GenAI metrics, as OTLP over HTTP.

Needs the extra `[otel]` and `CLARA_OTEL`. The exporters read OpenTelemetry's own `OTEL_*` variables, the endpoint among
them. Names follow OpenTelemetry's GenAI conventions; token counts are the billed ones. A client's `traceparent` is
forwarded unchanged but is no part of a ledger row, so the spans are roots; `clara.request.id` is the client's
`x-clara-request-id`. Invariant: exports hold no content, no key, and of the labels that clients choose only the model.
"""

from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from ..stores.ledger_row import Row
from .genai_attributes import CLARA_PROVIDER, Operation, build_attributes, classify_error, classify_operation
from .label_names import ModelLabels

INSTRUMENTATION_NAME = "clara_proxy"
# As the GenAI conventions recommend: tokens, and seconds.
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))


class Telemetry:
    """Turns ledger rows into spans and metrics; OpenTelemetry's threads export them."""

    def __init__(self, spans: SpanProcessor, metrics: MetricReader) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence over these.
        defaults = Resource.create({"service.name": "clara-proxy", "service.version": version("clara-proxy")})
        resource = defaults.merge(OTELResourceDetector().detect())
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(spans)
        self._tracer = self._traces.get_tracer(INSTRUMENTATION_NAME)
        self._meters = MeterProvider([metrics], resource, shutdown_on_exit=False)
        meter = self._meters.get_meter(INSTRUMENTATION_NAME)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._models = ModelLabels()

    def record_row(self, row: Row) -> None:
        """Export a row's span, its duration and its billed tokens."""
        operation = classify_operation(row)
        model = self._models.get_row_label(row)
        self._export_span(row, operation, model)
        if operation is not None:
            self._record_metrics(row, operation, model)

    def close(self) -> None:
        """Export everything pending; waits up to the exporters' own timeouts."""
        self._traces.shutdown()
        self._meters.shutdown()

    def _export_span(self, row: Row, operation: Operation | None, model: str) -> None:
        start = round(row.at * 1e6) * 1000  # nanoseconds; today's timestamps are exact to less than a microsecond
        is_remote = operation is not None and operation.provider != CLARA_PROVIDER
        span = self._tracer.start_span(
            f"{operation.name} {model}" if operation is not None else f"clara {row.protocol}",
            context=Context(),
            kind=SpanKind.CLIENT if is_remote else SpanKind.INTERNAL,
            attributes=build_attributes(row, operation),
            start_time=start,
        )
        if classify_error(row) is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(start + int(row.latency_ms * 1e6))

    def _record_metrics(self, row: Row, operation: Operation, model: str) -> None:
        labels = {"gen_ai.operation.name": operation.name, "gen_ai.provider.name": operation.provider}
        labels["gen_ai.request.model"] = model
        for kind, tokens in (("input", row.billed_input), ("output", row.billed_output)):
            if tokens is not None:
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind})
        self._duration.record(row.latency_ms / 1000, {**labels, **_build_error_label(row)})


def create_telemetry() -> Telemetry:
    """Return telemetry that exports to `OTEL_EXPORTER_OTLP_ENDPOINT`, by default http://localhost:4318."""
    return Telemetry(BatchSpanProcessor(OTLPSpanExporter()), PeriodicExportingMetricReader(OTLPMetricExporter()))


def _build_error_label(row: Row) -> Mapping[str, str]:
    kind = classify_error(row)
    return {} if kind is None else {"error.type": kind}
