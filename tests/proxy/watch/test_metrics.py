"""The Prometheus page: valid for any client input, bounded, and consistent with the ledger."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics  # pyright: ignore[reportUnknownVariableType]
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics  # pyright: ignore[reportUnknownVariableType]
from prometheus_client.parser import text_string_to_metric_families as read
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Sample

from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.config.prices import Price
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.demo import run
from clara_proxy.proxy.commands.demo.scripted_upstream import ScriptedUpstream
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import COUNTED_OUTCOMES, Outcome, Row, encode_labels
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.proxy.watch.label_names import MAX_MODELS, NONE_LABEL, OTHER_LABEL
from clara_proxy.proxy.watch.metrics import CONTENT_TYPE, MAX_REASONS, Metrics
from clara_proxy.proxy.watch.row_metrics import HELP, METRIC_PREFIX, compute_amounts
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.proxy.inprocess import whole_request_settings
from clara_proxy.tests.running import CLIENT_KEY, Proxy, short_chat, tool_chat

PRICE = Price(input=3e-6, output=9e-6, cache_read=3e-7, cache_write=4e-6)
OUTCOMES: tuple[Outcome, ...] = ("ok", "cancelled", "served", "rejected", "upstream_error", "failed")
MODES = ("off", "observe", "extract", "answer")
# The counters behind each column of the ledger's totals; the one after the minus is subtracted.
TOTALS = {
    "requests": "requests",
    "received": "received_tokens",
    "sent": "sent_tokens",
    "saved": "saved_tokens - added_tokens",
    "would_save": "would_save_tokens",
    "fetched_back": "fetched_back_tokens",
    "billed_input": "billed_input_tokens",
    "billed_output": "billed_output_tokens",
    "reasoning": "billed_reasoning_tokens",
    "cache_read": "billed_cache_read_tokens",
    "cache_write": "billed_cache_write_tokens",
    "cost": "cost_dollars",
    "cost_without": "cost_without_dollars",
    "shadows": "shadow_requests",
    "saved_cost": "saved_dollars - overspent_dollars",
    "unpriced": "unpriced_requests",
    "unpriced_savings": "unpriced_savings_requests",
    "estimated": "estimated_requests",
    "compressor_tokens": "compressor_tokens",
    "compressor_seconds": "compressor_seconds",
    "gpu_seconds": "gpu_seconds",
}


@st.composite
def rows(draw: st.DrawFn) -> Row:
    received = draw(st.integers(0, 10**6))
    mode = draw(st.sampled_from(MODES))
    sent = received if mode in {"off", "observe"} else draw(st.integers(0, 10**6))
    would = draw(st.none() | st.integers(0, received)) if mode == "observe" else None
    prompt, output = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**5))
    usage = Usage(prompt, output, draw(st.none() | st.integers(0, output)), draw(st.none() | st.integers(0, prompt)))
    latency = draw(st.floats(0, 1e6))
    row = Row(
        id=str(draw(st.uuids())),
        at=draw(st.floats(1.7e9, 1.8e9)),
        protocol=draw(st.sampled_from(["chat", "messages", "passthrough", "compress"])),
        model=draw(st.sampled_from(["gpt-4o", "gpt-5", "claude-x", ""])),
        mode_used=mode,
        streamed=draw(st.booleans()),
        outcome=draw(st.sampled_from(OUTCOMES)),
        tokens_received=received,
        tokens_sent=sent,
        tokens_estimated=draw(st.booleans()),
        would_send=would,
        compressor_seconds=draw(st.floats(0, 10)),
        compressor_tokens=draw(st.integers(0, 1000)),
        gpu_seconds=draw(st.floats(0, 10)),
        fetched_back_tokens=draw(st.integers(0, 1000)),
        latency_ms=latency,
        overhead_ms=draw(st.floats(0, latency)),
        shadow_of=draw(st.sampled_from(["", "", "req_1"])),
        skipped=encode_labels(draw(st.dictionaries(st.sampled_from(["late", "failed", "role"]), st.integers(1, 9)))),
    )
    bills = st.none() | st.just(usage)
    return apply_bill(row, draw(bills), draw(st.none() | st.just(PRICE)), draw(bills))


def create_metrics() -> Metrics:
    return Metrics(Ledger("sqlite://"))


def render(metrics: Metrics) -> bytes:
    return asyncio.run(metrics.render_page())


def parse_samples(page: bytes) -> list[Sample]:
    return [sample for family in read(page.decode()) for sample in family.samples]


def total(samples: Iterable[Sample], name: str, **labels: str) -> float:
    full_name = f"{METRIC_PREFIX}{name}_total"
    matches = (sample for sample in samples if sample.name == full_name)
    return sum(sample.value for sample in matches if labels.items() <= sample.labels.items())


def assert_agreement(samples: list[Sample], totals: dict[str, Any], **labels: str) -> None:
    """Assert that the counters equal a total of the ledger: integers exactly, sums of floats to a billionth."""
    for figure, counters in TOTALS.items():
        plus, _, minus = counters.partition(" - ")
        counted = total(samples, plus, **labels) - (total(samples, minus, **labels) if minus else 0.0)
        expected = totals[figure] or 0
        exact = isinstance(expected, int)
        assert counted == (expected if exact else pytest.approx(expected, rel=1e-9, abs=1e-12)), figure
    failed = sum(
        total(samples, "requests", outcome=outcome, **labels) for outcome in OUTCOMES if outcome not in COUNTED_OUTCOMES
    )
    assert failed == totals["failures"]


@given(entries=st.lists(rows(), max_size=12))
@settings(whole_request_settings, max_examples=15)
async def test_counters_equal_the_totals_of_the_ledger(entries: list[Row], tmp_path_factory: Any) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/l.sqlite3", flush_interval=60.0)
    metrics = Metrics(ledger)
    ledger.observers.append(metrics.record_row)
    await ledger.start()
    try:
        for row in entries:
            ledger.write(row)
        await ledger.flush()
        samples = parse_samples(await metrics.render_page())
        for overall in await ledger.read_totals():
            assert_agreement(samples, overall)
        for group in await ledger.read_totals("mode"):
            assert_agreement(samples, group, mode=str(group["group"]))
    finally:
        await ledger.stop()
    reasons: Counter[str] = Counter()
    for row in entries:
        if row.shadow_of:
            continue
        reasons.update(orjson.loads(row.skipped))
    assert {s.labels["reason"]: s.value for s in samples if s.name == "clara_left_alone_passages_total"} == dict(
        reasons
    )


@given(row=rows())
def test_counters_never_decrease(row: Row) -> None:
    assert min(compute_amounts(row).values()) >= 0


@given(entries=st.lists(rows(), min_size=1, max_size=12))
@settings(whole_request_settings)
def test_histograms_count_every_request_once(entries: list[Row]) -> None:
    metrics = create_metrics()
    for row in entries:
        metrics.record_row(row)
    entries = [row for row in entries if not row.shadow_of]
    samples = parse_samples(render(metrics))
    for name, values in (
        ("request_duration_seconds", [row.latency_ms / 1000 for row in entries]),
        ("overhead_duration_seconds", [row.overhead_ms / 1000 for row in entries]),
    ):
        family = [sample for sample in samples if sample.name.startswith(METRIC_PREFIX + name)]
        assert sum(sample.value for sample in family if sample.name.endswith("_count")) == len(entries)
        assert sum(s.value for s in family if s.name.endswith("_sum")) == pytest.approx(sum(values))
        bounds = {sample.labels["le"] for sample in family if sample.name.endswith("_bucket")}
        for bound in bounds:
            below = sum(s.value for s in family if s.name.endswith("_bucket") and s.labels["le"] == bound)
            assert below == sum(value <= float(bound) for value in values)


@settings(whole_request_settings, max_examples=50)
@given(
    model=st.text(st.characters(), max_size=30),
    reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_page_is_valid_for_any_model_name(model: str, reason: str) -> None:
    metrics = create_metrics()
    metrics.record_row(Row(id="1", at=1.0, model=model, mode_used="off", skipped=encode_labels({reason: 2})))
    samples = parse_samples(render(metrics))
    label = model.encode("utf-8", "replace").decode() or NONE_LABEL
    assert [s.labels["model"] for s in samples if s.name == "clara_requests_total"] == [label]
    assert [s.labels["reason"] for s in samples if s.name == "clara_left_alone_passages_total"] == [
        reason or NONE_LABEL
    ]


def test_page_is_valid_openmetrics() -> None:
    metrics = create_metrics()
    metrics.record_row(Row(id="1", at=1.0, model="m", mode_used="off"))
    registry = CollectorRegistry()
    registry.register(metrics)
    render(metrics)  # counts the pending rows
    page = openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    assert len(list(read_openmetrics(page))) > len(HELP)  # type: ignore[no-untyped-call]


def test_clients_cannot_create_unlimited_labels() -> None:
    metrics = create_metrics()
    for number in range(4 * MAX_MODELS):
        reasons = encode_labels({f"reason-{number}": 1})
        metrics.record_row(Row(id=str(number), at=1.0, model=f"m{number}", mode_used="off", skipped=reasons))
    samples = parse_samples(render(metrics))
    assert len({s.labels["model"] for s in samples if "model" in s.labels}) == MAX_MODELS + 1
    assert len({s.labels["reason"] for s in samples if "reason" in s.labels}) == MAX_REASONS + 1
    assert total(samples, "requests", model=OTHER_LABEL) == 3 * MAX_MODELS
    assert total(samples, "requests") == 4 * MAX_MODELS


@pytest.mark.parametrize("outcome", ["rejected", "upstream_error", "failed", "cancelled"])
def test_model_without_an_answer_gets_no_label(outcome: Outcome) -> None:
    metrics = create_metrics()
    for number in range(2 * MAX_MODELS):
        metrics.record_row(Row(id=str(number), at=1.0, model=f"made-up-{number}", mode_used="off", outcome=outcome))
    metrics.record_row(Row(id="real", at=1.0, model="gpt-4o", mode_used="off"))
    metrics.record_row(Row(id="real, and failing", at=1.0, model="gpt-4o", mode_used="off", outcome=outcome))
    samples = parse_samples(render(metrics))
    assert total(samples, "requests", model="gpt-4o") == 2
    assert {s.labels["model"] for s in samples if "model" in s.labels} == {"gpt-4o", OTHER_LABEL}


def test_labels_do_not_identify_clients() -> None:
    secret = "secret-label"
    metrics = create_metrics()
    labels = dict.fromkeys(("session", "user", "project", "key", "path", "id", "engine", "mode_asked"), secret)
    metrics.record_row(Row(at=1.0, model="m", mode_used="off", tags=f'{{"{secret}": "{secret}"}}', **labels))  # type: ignore[arg-type]
    page = render(metrics)
    assert secret.encode() not in page
    allowed = {"model", "mode", "protocol", "outcome", "reason", "le", "version"}
    assert {name for sample in parse_samples(page) for name in sample.labels} <= allowed


def test_every_metric_has_help_and_a_unit_in_its_name() -> None:
    assert all(name.endswith(("_tokens", "_dollars", "_seconds", "_requests")) for name in HELP)


def test_lost_rows_are_counted() -> None:
    ledger = Ledger("sqlite://", max_pending_rows=1)
    for number in range(3):
        ledger.write(Row(id=str(number), at=1.0))
    ledger.previously_lost_rows = 7
    samples = {sample.name: sample.value for sample in parse_samples(render(Metrics(ledger)))}
    assert (samples["clara_ledger_lost_rows_total"], samples["clara_ledger_lost_before_rows"]) == (2, 7)


def test_clara_status_is_read_without_loading_the_model(tmp_path: Path) -> None:
    clara = LocalClara(LocalModelConfig("/nowhere", None, None, "cpu", None, tmp_path), WorkerLimits())
    try:
        samples = {sample.name: sample.value for sample in parse_samples(render(Metrics(Ledger("sqlite://"), clara)))}
    finally:
        clara.close()
    assert (
        samples["clara_model_loaded"],
        samples["clara_model_waiting_jobs"],
        samples["clara_model_running_jobs"],
    ) == (
        0,
        0,
        0,
    )
    assert samples["clara_model_busy_seconds_total"] == 0


def test_page_of_a_running_proxy_agrees_with_its_ledger(upstream: FaultyUpstream, tmp_path: Path) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        for body in (tool_chat(), short_chat(), tool_chat(stream=True), short_chat(stream=True)):
            assert proxy.post(body).status_code == 200
        assert proxy.post(tool_chat(), x_clara_mode="observe").status_code == 200
        assert proxy.post(short_chat(), x_clara_mode="nonsense").status_code == 400
        upstream.respond_with(http_response(b'{"error": {"message": "no"}}', status="500 Internal Server Error"))
        assert proxy.post(short_chat(model="made-up")).status_code == 500
        totals = _get(proxy, "/v1/savings").json()["groups"][0]
        response = _get(proxy, "/metrics")
    assert response.headers["content-type"] == CONTENT_TYPE
    samples = parse_samples(response.content)
    assert_agreement(samples, totals)
    assert totals["requests"] == 7
    assert total(samples, "requests", outcome="upstream_error", model=OTHER_LABEL) == 1
    assert total(samples, "saved_tokens", model="gpt-4o", mode="extract") > 0
    assert total(samples, "would_save_tokens", mode="observe") > 0
    assert CLIENT_KEY not in response.text
    assert "disk full" not in response.text


def test_page_agrees_with_the_ledger_after_a_replay(tmp_path: Path) -> None:
    script = run.RecordedScript()
    upstream = ScriptedUpstream(script)
    conversation = next(iter(run.read_conversations()))
    with serve.run_in_thread(upstream) as upstream_url, running.run_proxy(upstream_url, tmp_path) as proxy:
        with OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY) as client:
            result = run.replay_conversation(client, conversation, script, upstream, max_turns=12)
        totals = _get(proxy, "/v1/savings").json()["groups"][0]
        samples = parse_samples(_get(proxy, "/metrics").content)
    assert_agreement(samples, totals)
    assert total(samples, "requests") == result.turns
    assert total(samples, "received_tokens") - total(samples, "sent_tokens") == totals["saved"] != 0


def _get(proxy: Proxy, path: str) -> httpx.Response:
    return httpx.get(proxy.url + path, headers={"authorization": f"Bearer {CLIENT_KEY}"})
