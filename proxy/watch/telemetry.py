"""OpenTelemetry: a span a request, and the GenAI metrics, made of ledger rows and sent by OTLP over HTTP.

Needs the extra `[otel]` and `CLARA_OTEL`; where it goes is said by OpenTelemetry's own variables, which its exporters
read. Names are those of OpenTelemetry's GenAI conventions; token figures are the billed ones. A client's `traceparent`
goes up to the upstream as it came; a row knows nothing of it, so spans here are roots, and `clara.request.id` is the
client's `x-clara-request-id`. The invariant: no content, no key, and no label that a client chose but the model.
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
# As the conventions want them.
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))


class Telemetry:
    """Hears rows and hands them to OpenTelemetry, whose own threads send them."""

    def __init__(self, spans: SpanProcessor, metrics: MetricReader) -> None:
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before ours.
        ours = Resource.create({"service.name": "clara-proxy", "service.version": version("clara-proxy")})
        resource = ours.merge(OTELResourceDetector().detect())
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
        """Make a row's span, and measure what its bill says."""
        what = classify_operation(row)
        model = self._models.get_row_label(row)
        self._export_span(row, what, model)
        if what is not None:
            self._record_metrics(row, what, model)

    def close(self) -> None:
        """Send what has not been sent; waits for it, at most as long as the exporters' own timeouts."""
        self._traces.shutdown()
        self._meters.shutdown()

    def _export_span(self, row: Row, what: Operation | None, model: str) -> None:
        start = round(row.at * 1e6) * 1000  # nanoseconds; a float of today is exact to a fraction of a microsecond
        span = self._tracer.start_span(
            f"{what.name} {model}" if what is not None else f"clara {row.protocol}",
            context=Context(),
            kind=SpanKind.CLIENT if what is not None and what.provider != CLARA_PROVIDER else SpanKind.INTERNAL,
            attributes=build_attributes(row, what),
            start_time=start,
        )
        if classify_error(row) is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(start + int(row.latency_ms * 1e6))

    def _record_metrics(self, row: Row, what: Operation, model: str) -> None:
        labels = {"gen_ai.operation.name": what.name, "gen_ai.provider.name": what.provider}
        labels["gen_ai.request.model"] = model
        for kind, tokens in (("input", row.billed_input), ("output", row.billed_output)):
            if tokens is not None:
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind})
        self._duration.record(row.latency_ms / 1000, {**labels, **_build_error_label(row)})


def create_telemetry() -> Telemetry:
    """Return telemetry that goes where `OTEL_EXPORTER_OTLP_ENDPOINT` says, http://localhost:4318 by default."""
    return Telemetry(BatchSpanProcessor(OTLPSpanExporter()), PeriodicExportingMetricReader(OTLPMetricExporter()))


def _build_error_label(row: Row) -> Mapping[str, str]:
    kind = classify_error(row)
    return {} if kind is None else {"error.type": kind}
