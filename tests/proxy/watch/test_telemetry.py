"""Spans and GenAI metrics of ledger rows, in memory and received by an OTLP collector."""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from clara_proxy.config.settings import load_settings
from clara_proxy.config.settings_errors import SettingsError
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.proxy.watch.label_names import MAX_MODELS, OTHER_LABEL
from clara_proxy.proxy.watch.telemetry import Telemetry
from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import CLIENT_KEY, short_chat, tool_chat

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class InMemory:
    """Telemetry with exporters in memory."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.telemetry = Telemetry(SimpleSpanProcessor(self._spans), self._metrics)

    def spans(self, *rows: Row) -> tuple[ReadableSpan, ...]:
        for row in rows:
            self.telemetry.record_row(row)
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[HistogramDataPoint]:
        data = self._metrics.get_metrics_data()
        metrics = (
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
        points = [point for metric in metrics if metric.name == name for point in metric.data.data_points]
        return [point for point in points if isinstance(point, HistogramDataPoint)]


@pytest.fixture
def memory() -> Iterator[InMemory]:
    memory = InMemory()
    yield memory
    memory.telemetry.close()


def chat(**values: Any) -> Row:
    defaults: dict[str, Any] = {
        "id": "req_1",
        "at": 1_700_000_000.25,
        "protocol": "chat",
        "model": "gpt-4o",
        "status": 200,
    }
    fields: dict[str, Any] = defaults | {"path": "/v1/chat/completions", "latency_ms": 1500.0} | values
    row = Row(**fields)
    return apply_bill(row, Usage(510, 20), None)


def test_request_is_a_span_of_its_duration(memory: InMemory) -> None:
    (span,) = memory.spans(chat(streamed=True))
    assert (span.name, span.kind, span.parent) == ("chat gpt-4o", SpanKind.CLIENT, None)
    assert span.start_time == 1_700_000_000_250_000_000
    assert span.end_time == span.start_time + 1_500_000_000
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.input_tokens"] == 510
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.status.status_code is StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "clara-proxy"


def test_failed_request_has_an_error_status(memory: InMemory) -> None:
    (span,) = memory.spans(chat(outcome="upstream_error", status=503))
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "503"
    (point,) = memory.points("gen_ai.client.operation.duration")
    assert dict(point.attributes or {})["error.type"] == "503"


def test_request_without_a_model_is_an_internal_span(memory: InMemory) -> None:
    (span,) = memory.spans(Row(id="r", at=1.0, protocol="retrieve", path="/v1/retrieve", fetched_back_tokens=7))
    assert (span.name, span.kind) == ("clara retrieve", SpanKind.INTERNAL)
    assert not [name for name in span.attributes or {} if name.startswith("gen_ai.")]
    assert memory.points("gen_ai.client.operation.duration") == []


def test_metrics_contain_the_billed_tokens(memory: InMemory) -> None:
    memory.spans(chat(id="a"), chat(id="b"), apply_bill(chat(id="c"), None, None))
    points = memory.points("gen_ai.client.token.usage")
    assert {dict(point.attributes or {})["gen_ai.token.type"]: (point.count, point.sum) for point in points} == {
        "input": (2, 1020),
        "output": (2, 40),
    }
    assert list(points[0].explicit_bounds)[:3] == [1, 4, 16]
    (duration,) = memory.points("gen_ai.client.operation.duration")
    assert (duration.count, duration.sum, duration.explicit_bounds[0]) == (3, 4.5, 0.01)


def test_invented_model_names_create_limited_series(memory: InMemory) -> None:
    spans = memory.spans(*(chat(id=str(number), model=f"m{number}") for number in range(2 * MAX_MODELS)))
    assert len({span.name for span in spans}) == MAX_MODELS + 1
    labels = {
        str(dict(point.attributes or {})["gen_ai.request.model"])
        for point in memory.points("gen_ai.client.token.usage")
    }
    assert len(labels) == MAX_MODELS + 1
    assert OTHER_LABEL in labels


def test_service_name_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-7")
    memory = InMemory()
    (span,) = memory.spans(chat())
    memory.telemetry.close()
    assert span.resource.attributes["service.name"] == "gateway-7"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyUpstream]:
    """A receiver of OTLP over HTTP that accepts everything."""
    with faulty.run_upstream() as receiver:
        receiver.respond_with(http_response(b"", content_type="application/x-protobuf"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def test_collector_receives_spans_and_metrics_only(
    upstream: FaultyUpstream, collector: FaultyUpstream, tmp_path: Path
) -> None:
    with running.run_proxy(upstream.url, tmp_path, otel=True) as proxy:
        answers = [proxy.post(tool_chat(), x_clara_session="canary-label"), proxy.post(short_chat(stream=True))]
        rows = [proxy.wait_for_row(answer) for answer in answers]
    # The end of the block closes the proxy, which exports everything pending.
    spans = list(_spans(collector))
    attributes = [{resource.key: resource.value for resource in span.attributes} for span in spans]
    assert [resource["clara.request.id"].string_value for resource in attributes] == [row.id for row in rows]
    assert [resource["clara.tokens.saved"].int_value for resource in attributes] == [row.saved_tokens for row in rows]
    assert [resource["gen_ai.usage.input_tokens"].int_value for resource in attributes] == [40, 40]
    assert {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"} <= _metrics(collector)
    bodies = b"".join(_body(request) for request in collector.requests)
    for canary in (CLIENT_KEY, "canary-label", "disk full", "why did it fail"):
        assert canary.encode() not in bodies


def test_trace_headers_of_the_client_are_forwarded(
    upstream: FaultyUpstream, collector: FaultyUpstream, tmp_path: Path
) -> None:
    with running.run_proxy(upstream.url, tmp_path, otel=True) as proxy:
        proxy.post(tool_chat(), traceparent=TRACEPARENT, tracestate="a=b")
    assert upstream.last_request.header_values("traceparent") == [TRACEPARENT.encode()]
    assert upstream.last_request.header_values("tracestate") == [b"a=b"]


def test_missing_collector_does_not_affect_requests(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # no collector listens there
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with running.run_proxy(upstream.url, tmp_path, otel=True) as proxy:
        assert proxy.post(short_chat()).status_code == 200


def test_missing_extra_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "opentelemetry.exporter.otlp.proto"
    monkeypatch.delitem(sys.modules, f"{package}.http")
    monkeypatch.setitem(sys.modules, package, None)  # makes the import fail
    with pytest.raises(SettingsError, match=r"CLARA_OTEL.*clara-proxy\[otel\]"):
        load_settings(otel=True)
    assert load_settings(otel=False).otel is False


def test_telemetry_is_off_by_default(upstream: FaultyUpstream, collector: FaultyUpstream, tmp_path: Path) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        assert proxy.post(short_chat()).status_code == 200
    assert collector.requests == []


def _body(request: faulty.ReceivedRequest) -> bytes:
    return (
        zlib.decompress(request.body, zlib.MAX_WBITS | 32)
        if request.header_values("content-encoding")
        else request.body
    )


def _spans(collector: FaultyUpstream) -> Iterator[Any]:
    for request in collector.requests:
        if request.request_line.startswith(b"POST /v1/traces "):
            export = ExportTraceServiceRequest.FromString(_body(request))
            yield from (
                span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans
            )


def _metrics(collector: FaultyUpstream) -> set[str]:
    names: set[str] = set()
    for request in collector.requests:
        if request.request_line.startswith(b"POST /v1/metrics "):
            export = ExportMetricsServiceRequest.FromString(_body(request))
            names |= {
                m.name
                for resource in export.resource_metrics
                for scope in resource.scope_metrics
                for m in scope.metrics
            }
    return names
