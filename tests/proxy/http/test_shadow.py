"""Shadow checks against a really running proxy: what is asked again, what is compared, and what it costs."""

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


def shadowed(made: Proxy, label: str) -> tuple[Row, Row]:
    """Return the rows of a request with this label and of its shadow, as soon as both are there."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        rows = [row for row in made.read_rows() if row.session == label]
        if len(rows) == 2:
            shadow, own = sorted(rows, key=lambda row: not row.shadow_of)
            return own, shadow
        time.sleep(0.02)
    raise AssertionError("there is no shadow in the ledger")


def sensible(request: Json) -> Json:
    """Call for weather where the whole log says that the disk is full and it is seen, whatever was left out."""
    return {"content": "The disk was full.", "tool_calls": [call("weather", {"city": "Köln"}, "call_1")]}


def confused(request: Json) -> Json:
    """Say something else where something was left out."""
    if "left out" in str(request["messages"]):
        return {"content": "The reason was lost.", "tool_calls": [call("weather", {"city": "Ulm"}, "call_1")]}
    return sensible(request)


def found(row: Row) -> dict[str, float]:
    return dict(orjson.loads(row.agreement))


@pytest.mark.parametrize("stream", [False, True])
def test_the_whole_request_is_asked_once_more_and_compared(
    upstream: FaultyUpstream, tmp_path: Path, stream: bool
) -> None:
    plays(upstream, sensible)
    body = tool_chat(tools=[TOOL], stream=stream, store=True)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        assert made.post(body, x_clara_session="s", x_clara_project="p").status_code == 200
        own, shadow = shadowed(made, "s")
    assert shadow.shadow_of == own.id
    assert own.saved_tokens > 0
    assert (shadow.tokens_received, shadow.tokens_sent, shadow.saved_tokens) == (own.tokens_received,) * 2 + (0,)
    assert found(shadow) == {"tools": 1.0, "arguments": 1.0, "text": 1.0}
    assert shadow.project == "p"
    asked = upstream.last_request
    assert asked.json == {**body, "store": False} | ({"stream_options": {"include_usage": True}} if stream else {})
    assert asked.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]
    assert not [name for name, _ in asked.headers if name.lower().startswith(b"x-clara")]
    assert shadow.billed_input == 40
    assert shadow.cost is not None
    assert shadow.cost > 0


def test_arguments_nested_too_deeply_to_be_written_cost_the_client_nothing(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    deep = "[" * 300 + "]" * 300
    plays(
        upstream,
        lambda _: {
            "content": None,
            "tool_calls": [{**call("weather", {}, "call_1"), "function": {"name": "weather", "arguments": deep}}],
        },
    )
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        answer = made.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        own, shadow = shadowed(made, "s")
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == deep
    assert (own.outcome, shadow.outcome) == ("ok", "ok")
    assert found(shadow)["arguments"] == 1


async def test_an_answer_too_long_to_be_compared_is_not_kept() -> None:
    passed: list[Any] = []

    async def send(message: Any) -> None:
        passed.append(message)

    copied = BodyRecorder(send)
    for _ in range(40):
        await copied({"body": b"x" * 2**20})
    assert copied.body is None
    assert len(passed) == 40
    assert not copied._chunks  # pyright: ignore[reportPrivateUsage]


def test_another_answer_is_told(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, confused)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        made.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        _, shadow = shadowed(made, "s")
    assert found(shadow)["tools"] == 1
    assert found(shadow)["arguments"] == 0
    assert 0 < found(shadow)["text"] < 0.6


def test_what_was_not_shortened_is_not_asked_again(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, sensible)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        made.post(short_chat(), x_clara_session="short")
        made.post(tool_chat(), x_clara_session="off", x_clara_mode="off")
        made.post(tool_chat(), x_clara_session="observed", x_clara_mode="observe")
        made.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        shadowed(made, "s")
    assert len(upstream.requests) == 5


def test_nothing_is_asked_again_unless_wanted(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, sensible)
    with run_proxy(upstream.url, tmp_path) as made:
        for at in range(20):
            made.wait_for_row(made.post(tool_chat(), x_clara_session=str(at)))
    assert len(upstream.requests) == 20


def test_a_shadow_that_fails_costs_the_client_nothing(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async def script(wire: Any) -> None:
        if len(upstream.requests) == 1:
            plays(upstream, sensible)
            answers, upstream.script = upstream.script, script
            await answers(wire)
        else:
            wire.reset()

    upstream.script = script
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        assert made.post(tool_chat(), x_clara_session="s").json()["choices"][0]["message"]["content"]
        _, shadow = shadowed(made, "s")
    assert (shadow.outcome, found(shadow)) == ("failed", {})


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
    ("path", "say", "answer"), [("/v1/responses", as_responses, RESPONSE), ("/v1/messages", as_messages, MESSAGE)]
)
def test_every_protocol_has_its_shadows(
    upstream: FaultyUpstream, tmp_path: Path, path: str, say: Callable[[Json], Json], answer: Json
) -> None:
    upstream.respond_with(http_response(orjson.dumps(answer)))
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        made.post(say(tool_chat()), path, x_clara_session="s", x_clara_retrieve="none")
        _, shadow = shadowed(made, "s")
    assert found(shadow) == {"tools": 1.0, "arguments": 1.0, "text": 1.0}
    assert shadow.billed_input == 40
    assert TOOL_NAME not in upstream.last_request.body.decode()


def test_answers_are_compared_by_what_they_say() -> None:
    one = ReplyContent("The disk is full.", [("ls", '{"a":1}')])
    assert compare_contents(one, one) == {"tools": 1, "arguments": 1, "text": 1}
    assert compare_contents(one, ReplyContent("the DISK is full", [("ls", '{"a":2}')])) == {
        "tools": 1,
        "arguments": 0,
        "text": 1,
    }
    assert compare_contents(one, ReplyContent("", [])) == {"tools": 0, "arguments": 0, "text": 0}
    assert compare_contents(ReplyContent("", []), ReplyContent(" ", [])) == {}
    assert compare_contents(ReplyContent("yes", []), ReplyContent("no", [])) == {"text": 0}


@pytest.mark.parametrize(
    ("same", "asked", "low", "high"),
    [(0, 0, 0.0, 1.0), (10, 10, 0.722, 1.0), (0, 10, 0.0, 0.278), (8, 10, 0.490, 0.943), (950, 1000, 0.935, 0.962)],
)
def test_a_share_is_told_with_what_it_may_be(same: int, asked: int, low: float, high: float) -> None:
    made = compute_share(same, asked)
    assert made.low == pytest.approx(low, abs=5e-4)
    assert made.high == pytest.approx(high, abs=5e-4)


async def _agreement(folder: Path, rows: list[Row]) -> Agreement | None:
    ledger = Ledger(ledger_url(folder))
    await ledger.start()
    try:
        for row in rows:
            ledger.write(row)
        await ledger.flush()
        return await shadows.read_agreement(ledger, 10.0, 100.0)
    finally:
        await ledger.stop()


def test_what_the_checks_have_found_is_added_up(tmp_path: Path) -> None:
    def row(at: float, **agreement: float) -> Row:
        return Row(str(at), at, shadow_of="x", agreement=orjson.dumps(agreement).decode(), cost=0.25)

    rows = [row(9, text=0), row(10, tools=1, arguments=0, text=0.5), row(20, text=1.0), row(30), row(100, text=0)]
    found = asyncio.run(_agreement(tmp_path, [*rows, Row("other", 15.0)]))
    assert found is not None
    assert found[:3] == (3, 1, 0.75)
    assert (found.tools, found.arguments, found.text) == (compute_share(1, 1), compute_share(0, 1), 0.75)
    said = format_agreement(found)
    assert said.startswith("Shadow checks: 3, 1 without an answer, for $0.7500: the same tools in 1 of 1 (21% to 100%)")
    assert asyncio.run(_agreement(tmp_path / "none", [])) is None


def test_what_checks_cost_is_unknown_where_no_price_is_and_never_nought(tmp_path: Path) -> None:
    rows = [Row(str(at), at, shadow_of="x", agreement='{"text":1}') for at in (10.0, 11.0)]
    found = asyncio.run(_agreement(tmp_path, rows))
    assert found is not None
    assert found.cost is None
    assert format_agreement(found).startswith("Shadow checks: 2, at a price that is not known: texts alike")
    found = asyncio.run(_agreement(tmp_path, [rows[0]._replace(id="priced", cost=0.25)]))
    assert found is not None
    assert (found.cost, found.unpriced) == (0.25, 2)
    assert format_agreement(found).startswith("Shadow checks: 3, for $0.2500 without 2 whose price is not known: ")


def test_a_report_tells_of_them(upstream: FaultyUpstream, tmp_path: Path) -> None:
    plays(upstream, sensible)
    with run_proxy(upstream.url, tmp_path, shadow_rate=1) as made:
        made.post(tool_chat(tools=[TOOL]), x_clara_session="s")
        shadowed(made, "s")
        told_ = httpx.get(f"{made.url}/v1/savings").json()["shadow"]
        page = asyncio.run(render.build_report(ledger_url(tmp_path), "1d", "model", "md"))
        assert "Shadow checks: 1, for $0.0" in page
    assert told_["checks"] == 1
    assert told_["arguments"] == {"same": 1, "asked": 1, "low": compute_share(1, 1).low, "high": 1.0}
