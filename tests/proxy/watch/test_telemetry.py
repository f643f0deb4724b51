"""Spans and GenAI metrics made of rows: in memory, and as a collector receives them over HTTP."""

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

from clara_proxy.config.settings import SettingsError, load_settings
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
    """Telemetry that goes nowhere."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.telemetry = Telemetry(SimpleSpanProcessor(self._spans), self._metrics)

    def spans(self, *rows: Row) -> tuple[ReadableSpan, ...]:
        for row in rows:
            self.telemetry.record_row(row)
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[HistogramDataPoint]:
        data = self._metrics.get_metrics_data()
        found = (
            metric
            for one in (data.resource_metrics if data else ())
            for scope in one.scope_metrics
            for metric in scope.metrics
        )
        points = [point for metric in found if metric.name == name for point in metric.data.data_points]
        return [point for point in points if isinstance(point, HistogramDataPoint)]


@pytest.fixture
def memory() -> Iterator[InMemory]:
    made = InMemory()
    yield made
    made.telemetry.close()


def chat(**known: Any) -> Row:
    fresh: dict[str, Any] = {
        "id": "req_1",
        "at": 1_700_000_000.25,
        "protocol": "chat",
        "model": "gpt-4o",
        "status": 200,
    }
    given: dict[str, Any] = fresh | {"path": "/v1/chat/completions", "latency_ms": 1500.0} | known
    row = Row(**given)
    return apply_bill(row, Usage(510, 20), None)


def test_a_request_is_a_span_that_lasted_as_long(memory: InMemory) -> None:
    (span,) = memory.spans(chat(streamed=True))
    assert (span.name, span.kind, span.parent) == ("chat gpt-4o", SpanKind.CLIENT, None)
    assert span.start_time == 1_700_000_000_250_000_000
    assert span.end_time == span.start_time + 1_500_000_000
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.input_tokens"] == 510
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.status.status_code is StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "clara-proxy"


def test_an_error_is_one(memory: InMemory) -> None:
    (span,) = memory.spans(chat(outcome="upstream_error", status=503))
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "503"
    (point,) = memory.points("gen_ai.client.operation.duration")
    assert dict(point.attributes or {})["error.type"] == "503"


def test_what_asks_no_model_is_a_span_and_no_operation(memory: InMemory) -> None:
    (span,) = memory.spans(Row(id="r", at=1.0, protocol="retrieve", path="/v1/retrieve", fetched_back_tokens=7))
    assert (span.name, span.kind) == ("clara retrieve", SpanKind.INTERNAL)
    assert not [name for name in span.attributes or {} if name.startswith("gen_ai.")]
    assert memory.points("gen_ai.client.operation.duration") == []


def test_metrics_carry_the_billed_tokens(memory: InMemory) -> None:
    memory.spans(chat(id="a"), chat(id="b"), apply_bill(chat(id="c"), None, None))
    points = memory.points("gen_ai.client.token.usage")
    assert {dict(point.attributes or {})["gen_ai.token.type"]: (point.count, point.sum) for point in points} == {
        "input": (2, 1020),
        "output": (2, 40),
    }
    assert list(points[0].explicit_bounds)[:3] == [1, 4, 16]
    (duration,) = memory.points("gen_ai.client.operation.duration")
    assert (duration.count, duration.sum, duration.explicit_bounds[0]) == (3, 4.5, 0.01)


def test_made_up_models_make_no_series_without_end(memory: InMemory) -> None:
    spans = memory.spans(*(chat(id=str(number), model=f"m{number}") for number in range(2 * MAX_MODELS)))
    assert len({span.name for span in spans}) == MAX_MODELS + 1
    labels = {
        str(dict(point.attributes or {})["gen_ai.request.model"])
        for point in memory.points("gen_ai.client.token.usage")
    }
    assert len(labels) == MAX_MODELS + 1
    assert OTHER_LABEL in labels


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-7")
    memory = InMemory()
    (span,) = memory.spans(chat())
    memory.telemetry.close()
    assert span.resource.attributes["service.name"] == "gateway-7"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyUpstream]:
    """A receiver of OTLP over HTTP that takes whatever comes."""
    with faulty.run_upstream() as receiver:
        receiver.respond_with(http_response(b"", content_type="application/x-protobuf"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def test_a_collector_receives_spans_and_metrics_and_no_content(
    upstream: FaultyUpstream, collector: FaultyUpstream, tmp_path: Path
) -> None:
    with running.run_proxy(upstream.url, tmp_path, otel=True) as proxy:
        answers = [proxy.post(tool_chat(), x_clara_session="canary-label"), proxy.post(short_chat(stream=True))]
        rows = [proxy.wait_for_row(answer) for answer in answers]
    # Leaving the block has closed the proxy, which sends what is unsent.
    spans = list(_spans(collector))
    told = [{one.key: one.value for one in span.attributes} for span in spans]
    assert [one["clara.request.id"].string_value for one in told] == [row.id for row in rows]
    assert [one["clara.tokens.saved"].int_value for one in told] == [row.saved_tokens for row in rows]
    assert [one["gen_ai.usage.input_tokens"].int_value for one in told] == [40, 40]
    assert {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"} <= _metrics(collector)
    bodies = b"".join(_body(heard) for heard in collector.requests)
    for canary in (CLIENT_KEY, "canary-label", "disk full", "why did it fail"):
        assert canary.encode() not in bodies


def test_a_clients_trace_goes_up_as_it_came(
    upstream: FaultyUpstream, collector: FaultyUpstream, tmp_path: Path
) -> None:
    with running.run_proxy(upstream.url, tmp_path, otel=True) as proxy:
        proxy.post(tool_chat(), traceparent=TRACEPARENT, tracestate="a=b")
    assert upstream.last_request.header_values("traceparent") == [TRACEPARENT.encode()]
    assert upstream.last_request.header_values("tracestate") == [b"a=b"]


def test_without_a_collector_requests_are_answered(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with running.run_proxy(upstream.url, tmp_path, otel=True) as proxy:
        assert proxy.post(short_chat()).status_code == 200


def test_wanting_it_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "opentelemetry.exporter.otlp.proto"
    monkeypatch.delitem(sys.modules, f"{package}.http")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(SettingsError, match=r"CLARA_OTEL.*clara-proxy\[otel\]"):
        load_settings(otel=True)
    assert load_settings(otel=False).otel is False


def test_it_is_off_unless_it_is_asked_for(upstream: FaultyUpstream, collector: FaultyUpstream, tmp_path: Path) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        assert proxy.post(short_chat()).status_code == 200
    assert collector.requests == []


def _body(heard: faulty.ReceivedRequest) -> bytes:
    return zlib.decompress(heard.body, zlib.MAX_WBITS | 32) if heard.header_values("content-encoding") else heard.body


def _spans(collector: FaultyUpstream) -> Iterator[Any]:
    for heard in collector.requests:
        if heard.request_line.startswith(b"POST /v1/traces "):
            request = ExportTraceServiceRequest.FromString(_body(heard))
            yield from (span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans)


def _metrics(collector: FaultyUpstream) -> set[str]:
    names: set[str] = set()
    for heard in collector.requests:
        if heard.request_line.startswith(b"POST /v1/metrics "):
            request = ExportMetricsServiceRequest.FromString(_body(heard))
            names |= {m.name for one in request.resource_metrics for scope in one.scope_metrics for m in scope.metrics}
    return names
