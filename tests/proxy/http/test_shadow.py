"""Shadow checks with a running proxy: repeated requests, comparisons and costs."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.proxy.http.shadow import BodyRecorder, ReplyContent, compare_contents
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.reports import agreement as shadows
from clara_proxy.proxy.reports import render
from clara_proxy.proxy.reports.agreement import Agreement, compute_share, format_agreement
from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.protocol_bodies import as_messages, as_responses
from clara_proxy.tests.proxy.protocols.chat_upstream import WEATHER_TOOL as TOOL
from clara_proxy.tests.proxy.protocols.chat_upstream import Json, call
from clara_proxy.tests.proxy.protocols.chat_upstream import run_model as plays
from clara_proxy.tests.running import CLIENT_KEY, TIMEOUT, Proxy, run_proxy, short_chat, tool_chat

LABEL = "x-clara-session"


def wait_for_shadow(proxy: Proxy, label: str) -> tuple[Row, Row]:
    """Wait for the rows of the request with this label and of its shadow check, and return both."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        rows = [row for row in proxy.read_rows() if row.session == label]
        if len(rows) == 2:
            shadow, own = sorted(rows, key=lambda row: not row.shadow_of)
            return own, shadow
        time.sleep(0.02)
    raise AssertionError("the shadow check is missing from the ledger")


def answer_normally(request: Json) -> Json:
    """Answer the same for compressed and uncompressed requests."""
    return {"content": "The disk was full.", "tool_calls": [call("weather", {"city": "Köln"}, "call_1")]}


def answer_differently(request: Json) -> Json:
    """Answer differently if the request is compressed."""
    if "left out" in str(request["messages"]):
        return {"content": "The reason was lost.", "tool_calls": [call("weather", {"city": "Ulm"}, "call_1")]}
    return answer_normally(request)


def get_agreement(row: Row) -> dict[str, float]:
    return dict(orjson.loads(row.agreement))


@pytest.mark.parametrize("stream", [False, True])
def test_the_uncompressed_request_is_sent_again_and_compared(
    upstream: FaultyUpstream, tmp_path: Path, stream: bool
) -> None:
    plays(upstream, answer_normally)
    body = tool_chat(tools=[TOOL], stream=stream, store=True)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        assert proxy.post(body, x_clara_session="s", x_clara_project="p", idempotency_key="k").status_code == 200
        own, shadow = wait_for_shadow(proxy, "s")
    assert upstream.last_request.header_values("idempotency-key") == [b"k-shadow"]  # not the reply to the first
    assert shadow.shadow_of == own.id
    assert own.saved_tokens > 0
    assert (shadow.tokens_received, shadow.tokens_sent, shadow.saved_tokens) == (own.tokens_received,) * 2 + (0,)
    assert get_agreement(shadow) == {"tools": 1.0, "arguments": 1.0, "text": 1.0}
    assert shadow.project == "p"
    request = upstream.last_request
    assert request.json == {**body, "store": False} | ({"stream_options": {"include_usage": True}} if stream else {})
    assert request.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]
    assert not [name for name, _ in request.headers if name.lower().startswith(b"x-clara")]
    assert shadow.billed_input == 40
    assert shadow.cost is not None
    assert shadow.cost > 0


def test_deeply_nested_arguments_do_not_affect_the_client(upstream: FaultyUpstream, tmp_path: Path) -> None:
    deep = "[" * 300 + "]" * 300
    plays(
        upstream,
        lambda _: {
            "content": None,
            "tool_calls": [{**call("weather", {}, "call_1"), "function": {"name": "weather", "arguments": deep}}],
        },
    )
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        answer = proxy.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        own, shadow = wait_for_shadow(proxy, "s")
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == deep
    assert (own.outcome, shadow.outcome) == ("ok", "ok")
    assert get_agreement(shadow)["arguments"] == 1


async def test_a_response_too_long_to_compare_is_not_kept() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    recorder = BodyRecorder(send)
    for _ in range(40):
        await recorder({"body": b"x" * 2**20})
    assert recorder.body is None
    assert len(sent) == 40
    assert not recorder._chunks  # pyright: ignore[reportPrivateUsage]


def test_a_different_answer_is_recorded(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, answer_differently)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        proxy.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        _, shadow = wait_for_shadow(proxy, "s")
    assert get_agreement(shadow)["tools"] == 1
    assert get_agreement(shadow)["arguments"] == 0
    assert 0 < get_agreement(shadow)["text"] < 0.6


def test_uncompressed_requests_are_not_checked(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, answer_normally)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        proxy.post(short_chat(), x_clara_session="short")
        proxy.post(tool_chat(), x_clara_session="off", x_clara_mode="off")
        proxy.post(tool_chat(), x_clara_session="observed", x_clara_mode="observe")
        proxy.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        wait_for_shadow(proxy, "s")
    assert len(upstream.requests) == 5


def test_checks_are_off_by_default(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, answer_normally)
    with run_proxy(upstream.url, tmp_path) as proxy:
        for number in range(20):
            proxy.wait_for_row(proxy.post(tool_chat(), x_clara_session=str(number)))
    assert len(upstream.requests) == 20


def test_a_failed_check_does_not_affect_the_client(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async def script(connection: Any) -> None:
        if len(upstream.requests) == 1:
            plays(upstream, answer_normally)
            answers, upstream.script = upstream.script, script
            await answers(connection)
        else:
            connection.reset()

    upstream.script = script
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        assert proxy.post(tool_chat(), x_clara_session="s").json()["choices"][0]["message"]["content"]
        _, shadow = wait_for_shadow(proxy, "s")
    assert (shadow.outcome, get_agreement(shadow)) == ("failed", {})


RESPONSE: Json = {
    "id": "resp_1", "object": "response", "status": "completed",
    "output": [
        {"type": "function_call", "id": "fc_1", "call_id": "c9", "name": "weather", "arguments": '{"city":"Ulm"}'},
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "so it is"}]},
    ],
    "usage": {"input_tokens": 40, "output_tokens": 5, "total_tokens": 45},
}  # fmt: skip
MESSAGE: Json = {
    "id": "msg_1", "type": "message", "role": "assistant", "stop_reason": "end_turn",
    "content": [
        {"type": "text", "text": "so it is"}, {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": 1}},
    ],
    "usage": {"input_tokens": 40, "output_tokens": 5},
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "convert", "answer"), [("/v1/responses", as_responses, RESPONSE), ("/v1/messages", as_messages, MESSAGE)]
)
def test_checks_work_for_the_other_protocols(
    upstream: FaultyUpstream, tmp_path: Path, path: str, convert: Callable[[Json], Json], answer: Json
) -> None:
    upstream.respond_with(http_response(orjson.dumps(answer)))
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        proxy.post(convert(tool_chat()), path, x_clara_session="s", x_clara_retrieve="none")
        _, shadow = wait_for_shadow(proxy, "s")
    assert get_agreement(shadow) == {"tools": 1.0, "arguments": 1.0, "text": 1.0}
    assert shadow.billed_input == 40
    assert TOOL_NAME not in upstream.last_request.body.decode()


def test_replies_are_compared_by_content() -> None:
    reply = ReplyContent("The disk is full.", [("ls", '{"a":1}')])
    assert compare_contents(reply, reply) == {"tools": 1, "arguments": 1, "text": 1}
    assert compare_contents(reply, ReplyContent("the DISK is full", [("ls", '{"a":2}')])) == {
        "tools": 1,
        "arguments": 0,
        "text": 1,
    }
    assert compare_contents(reply, ReplyContent("", [])) == {"tools": 0, "arguments": 0, "text": 0}
    assert compare_contents(ReplyContent("", []), ReplyContent(" ", [])) == {}
    assert compare_contents(ReplyContent("yes", []), ReplyContent("no", [])) == {"text": 0}


@pytest.mark.parametrize(
    ("same", "count", "low", "high"),
    [(0, 0, 0.0, 1.0), (10, 10, 0.722, 1.0), (0, 10, 0.0, 0.278), (8, 10, 0.490, 0.943), (950, 1000, 0.935, 0.962)],
)
def test_a_share_has_a_confidence_interval(same: int, count: int, low: float, high: float) -> None:
    share = compute_share(same, count)
    assert share.low == pytest.approx(low, abs=5e-4)
    assert share.high == pytest.approx(high, abs=5e-4)


async def read_agreement(folder: Path, rows: list[Row]) -> Agreement | None:
    ledger = Ledger(ledger_url(folder))
    await ledger.start()
    try:
        for row in rows:
            ledger.write(row)
        await ledger.flush()
        return await shadows.read_agreement(ledger, 10.0, 100.0)
    finally:
        await ledger.stop()


def test_results_of_checks_are_added_up(tmp_path: Path) -> None:
    def row(time: float, **agreement: float) -> Row:
        return Row(str(time), time, shadow_of="x", agreement=orjson.dumps(agreement).decode(), cost=0.25)

    rows = [row(9, text=0), row(10, tools=1, arguments=0, text=0.5), row(20, text=1.0), row(30), row(100, text=0)]
    agreement = asyncio.run(read_agreement(tmp_path, [*rows, Row("other", 15.0)]))
    assert agreement is not None
    assert agreement[:3] == (3, 1, 0.75)
    assert (agreement.tools, agreement.arguments, agreement.text) == (compute_share(1, 1), compute_share(0, 1), 0.75)
    line = format_agreement(agreement)
    assert line.startswith("Shadow checks: 3, 1 without an answer, for $0.7500: the same tools in 1 of 1 (21% to 100%)")
    assert asyncio.run(read_agreement(tmp_path / "none", [])) is None


def test_the_cost_of_unpriced_checks_is_unknown_and_not_zero(tmp_path: Path) -> None:
    rows = [Row(str(time), time, shadow_of="x", agreement='{"text":1}') for time in (10.0, 11.0)]
    agreement = asyncio.run(read_agreement(tmp_path, rows))
    assert agreement is not None
    assert agreement.cost is None
    assert format_agreement(agreement).startswith("Shadow checks: 2, cost unknown: 100% of the text is the same")
    agreement = asyncio.run(read_agreement(tmp_path, [rows[0]._replace(id="priced", cost=0.25)]))
    assert agreement is not None
    assert (agreement.cost, agreement.unpriced) == (0.25, 2)
    assert format_agreement(agreement).startswith("Shadow checks: 3, for $0.2500 without 2 whose cost is unknown: ")


def test_a_report_contains_the_checks(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, answer_normally)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as proxy:
        proxy.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        wait_for_shadow(proxy, "s")
        shadow_totals = httpx.get(f"{proxy.url}/v1/savings").json()["shadow"]
        page = asyncio.run(render.build_report(ledger_url(tmp_path), "1d", "model", "md"))
        assert "Shadow checks: 1, for $0.0" in page
    assert shadow_totals["checks"] == 1
    assert shadow_totals["arguments"] == {"same": 1, "asked": 1, "low": compute_share(1, 1).low, "high": 1.0}
