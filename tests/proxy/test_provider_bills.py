"""What providers bill today, streamed and plain: compaction, cleared tool results, tiers, lifetimes, server tools."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from clara_proxy.proxy.stores.ledger_row import Row, parse_json, parse_passages
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import LOG_TEXT, Proxy

Json = dict[str, Any]
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
SIGNED = {"type": "compaction", "content": "Résumé \u2028 of it all", "signature": "Eq\u00e9+/=\U0001f600", "x": 1e22}
streamed_and_plain = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def own_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with time enough to compress on a busy machine."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("bills"), deadline_ms=60_000) as proxy:
        yield proxy


class Client:
    """Sends requests whose reply has a given usage, and returns their rows."""

    def __init__(self, proxy: Proxy, upstream: FaultyUpstream) -> None:
        self.proxy, self.upstream = proxy, upstream

    def ask(self, protocol: str, body: Json, usage: Json, *, stream: bool, **fields: Any) -> Row:
        """Send a body; the reply has the usage and the fields, in whole or in the events of a stream."""
        reply = {**REPLIES[protocol], "model": body["model"], "usage": usage, **fields}
        if stream:
            self.upstream.stream_events(*split_events(protocol, reply))
        else:
            self.upstream.respond_with(http_response(json.dumps(reply).encode()))
        response = self.proxy.post({**body, "stream": stream}, PATHS[protocol])
        assert response.status_code == 200, response.text
        return self.proxy.wait_for_row(response)


REPLIES: dict[str, Json] = {
    "chat": {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    },
    "responses": {"id": "r", "object": "response", "status": "completed", "output": []},
    "messages": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
    },
}


def split_events(protocol: str, reply: Json) -> Iterator[bytes]:
    """Yield a reply as the events of a stream, each field where the provider has it."""
    if protocol == "chat":
        common = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
        delta = {"index": 0, "delta": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        yield encode({**common, "choices": [delta], "usage": None})
        yield encode({**common, "choices": [], "usage": reply["usage"]}) + b"data: [DONE]\n\n"
    elif protocol == "responses":
        yield encode({"type": "response.created", "response": {**reply, "usage": None, "output": []}})
        yield encode({"type": "response.completed", "response": reply})
    else:
        late = ("iterations", "server_tool_use")
        start = {name: value for name, value in reply["usage"].items() if name not in late} | {"output_tokens": 1}
        message: Json = {**reply, "content": [], "stop_reason": None, "usage": start}
        message.pop("context_management", None)
        yield encode({"type": "message_start", "message": message})
        yield encode({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        yield encode({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ok"}})
        yield encode({"type": "content_block_stop", "index": 0})
        final = {name: reply["usage"].get(name) for name in ("output_tokens", "input_tokens", *late)}
        managed = {"context_management": reply["context_management"]} if "context_management" in reply else {}
        yield encode({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": final, **managed})
        yield encode({"type": "message_stop"})


def encode(event: Json) -> bytes:
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + json.dumps(event).encode() + b"\n\n"


@pytest.fixture
def client(own_proxy: Proxy, upstream: FaultyUpstream) -> Client:
    return Client(own_proxy, upstream)


def body_of(protocol: str, outputs: int, model: str, *compaction: Json, **fields: Any) -> Json:
    """Return a request with long tool outputs, perhaps compacted, and a new question."""
    texts = [LOG_TEXT.replace("served", f"served by {number}") for number in range(outputs)]
    schema: Json = {"type": "object", "properties": {}}
    body: Json = {"model": model, **fields}
    if protocol == "messages":
        messages: list[Json] = [{"role": "user", "content": "why did it fail?"}]
        for number, text in enumerate(texts):
            call: Json = {"type": "tool_use", "id": f"t{number}", "name": "logs", "input": {}}
            result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": text}
            messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        messages.append({"role": "assistant", "content": [*compaction, {"type": "text", "text": "done"}]})
        messages.append({"role": "user", "content": "and now?"})
        tools: list[Json] = [{"name": "logs", "input_schema": schema}]
        return body | {"max_tokens": 9, "messages": messages, "tools": tools}
    if protocol == "responses":
        items: list[Json] = [{"role": "user", "content": "why did it fail?"}]
        for number, text in enumerate(texts):
            items.append({"type": "function_call", "call_id": f"c{number}", "name": "logs", "arguments": "{}"})
            items.append({"type": "function_call_output", "call_id": f"c{number}", "output": text})
        items += [*compaction, {"role": "assistant", "content": "done"}, {"role": "user", "content": "and now?"}]
        return body | {"input": items, "tools": [{"type": "function", "name": "logs", "parameters": schema}]}
    chat: list[Json] = [{"role": "user", "content": "why did it fail?"}]
    for number, text in enumerate(texts):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "logs", "arguments": "{}"}}
        chat.append({"role": "assistant", "content": None, "tool_calls": [call]})
        chat.append({"role": "tool", "tool_call_id": f"c{number}", "content": text})
    chat.append({"role": "user", "content": "and now?"})
    chat_tools: list[Json] = [{"type": "function", "function": {"name": "logs", "parameters": schema}}]
    return body | {"messages": chat, "tools": chat_tools}


def assert_dollars(value: float | None, expected: float) -> None:
    assert value is not None
    assert math.isclose(value, expected, abs_tol=5e-5), value


# what the provider no longer reads


@streamed_and_plain
def test_compacted_tool_results_are_not_savings(client: Client, *, stream: bool) -> None:
    body = body_of("messages", 2, "claude-opus-4-6", SIGNED, context_management={"edits": []})
    row = client.ask("messages", body, {"input_tokens": 60, "output_tokens": 5}, stream=stream)
    assert row.saved_tokens == -row.expand_tokens
    assert row.saved_cost is not None
    assert -1e-3 < row.saved_cost <= 0.0
    assert [passage.reason for passage in parse_passages(row.passages) or []][:2] == ["compacted"] * 2
    assert parse_json(row.skipped)["compacted"] == 2  # type: ignore[index]
    forwarded = client.upstream.last_request.json["messages"]
    assert forwarded == body["messages"]


@streamed_and_plain
def test_compacted_response_items_are_not_savings(client: Client, *, stream: bool) -> None:
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA\u00e9=="}
    body = body_of("responses", 2, "gpt-5.5", item)
    usage = {"input_tokens": 60, "output_tokens": 5, "total_tokens": 65}
    row = client.ask("responses", body, usage, stream=stream)
    assert (row.saved_cost or 0.0) <= 0.0
    assert row.tokens_received < 300
    assert parse_json(row.skipped)["compacted"] == 2  # type: ignore[index]
    assert client.upstream.last_request.json["input"] == body["input"]


def test_compactions_of_litellm_are_recognised(client: Client) -> None:
    body = body_of("chat", 2, "claude-opus-4-6")
    block = {"role": "assistant", "content": "done", "provider_specific_fields": {"compaction_blocks": [SIGNED]}}
    body["messages"][-1:] = [block, {"role": "user", "content": "and now?"}]
    body["messages"].insert(0, {"role": "system", "content": "instructions " * 200})
    row = client.ask("chat", body, openai_usage("chat", 260, 5), stream=False)
    assert parse_json(row.skipped)["compacted"] == 2  # type: ignore[index]
    assert 200 < row.tokens_received < 400
    assert client.upstream.last_request.json["messages"] == body["messages"]


def test_a_failed_compaction_hides_nothing(client: Client) -> None:
    body = body_of("messages", 2, "claude-opus-4-6", {"type": "compaction", "content": None})
    row = client.ask("messages", body, {"input_tokens": 4000, "output_tokens": 5}, stream=False)
    assert row.saved_tokens > 10_000


def test_what_follows_a_compaction_is_compressed_and_signed_blocks_stay(client: Client) -> None:
    body = body_of("messages", 1, "claude-opus-4-6", SIGNED)
    later = body_of("messages", 2, "claude-opus-4-6")["messages"][3:]
    body["messages"][-1:] = [{"role": "user", "content": "more"}, *later]
    row = client.ask("messages", body, {"input_tokens": 3000, "output_tokens": 5}, stream=False)
    forwarded = client.upstream.last_request.json["messages"]
    assert row.saved_tokens > 5_000
    assert forwarded[:4] == body["messages"][:4]
    assert forwarded[3]["content"][0] == SIGNED
    assert (row.saved_cost or 0.0) > 0.005


@streamed_and_plain
@pytest.mark.parametrize("uses", [None, 2, 1])
def test_cleared_tool_results_are_not_savings(client: Client, uses: int | None, *, stream: bool) -> None:
    edit: Json = {"type": "clear_tool_uses_20250919", "cleared_input_tokens": 11_000}
    edit |= {} if uses is None else {"cleared_tool_uses": uses}
    body = body_of("messages", 2, "claude-opus-4-6", context_management={"edits": [{"type": edit["type"]}]})
    row = client.ask(
        "messages",
        body,
        {"input_tokens": 300, "output_tokens": 5},
        stream=stream,
        context_management={"applied_edits": [edit]},
    )
    assert row.tokens_received - row.tokens_sent > 10_000
    assert row.cleared_tokens == 11_000
    assert row.saved_cost is not None
    assert row.saved_cost <= 0.0


def test_results_that_were_not_cleared_still_count(client: Client) -> None:
    body = body_of("messages", 2, "claude-opus-4-6")
    first = client.ask("messages", body, {"input_tokens": 900, "output_tokens": 5}, stream=False)
    whole = client.ask("messages", body, {"input_tokens": first.tokens_sent, "output_tokens": 5}, stream=False)
    cleared = (parse_passages(whole.passages) or [])[0].after
    edit = {"type": "clear_tool_uses_20250919", "cleared_input_tokens": cleared, "cleared_tool_uses": 1}
    usage = {"input_tokens": first.tokens_sent - cleared, "output_tokens": 5}
    row = client.ask("messages", body, usage, stream=False, context_management={"applied_edits": [edit]})
    assert row.saved_cost is not None
    assert whole.saved_cost is not None
    assert 0.4 < row.saved_cost / whole.saved_cost < 0.6


# the whole usage


@streamed_and_plain
def test_a_compaction_by_the_provider_is_billed(client: Client, *, stream: bool) -> None:
    compaction = {"type": "compaction", "input_tokens": 150_000, "output_tokens": 3_500}
    message = {"type": "message", "input_tokens": 900, "output_tokens": 20}
    usage = {"input_tokens": 900, "output_tokens": 20, "iterations": [compaction, message]}
    row = client.ask("messages", body_of("messages", 0, "claude-opus-4-6"), usage, stream=stream)
    assert_dollars(row.cost, 0.8425)
    assert (row.billed_input, row.billed_output) == (150_900, 3_520)


def test_savings_in_a_compaction_count_once(client: Client) -> None:
    usage = {
        "input_tokens": 90,
        "output_tokens": 20,
        "iterations": [{"type": "compaction", "input_tokens": 5_000, "output_tokens": 300}],
    }
    row = client.ask("messages", body_of("messages", 2, "claude-opus-4-6"), usage, stream=False)
    plain = client.ask(
        "messages",
        body_of("messages", 2, "claude-opus-4-6"),
        {"input_tokens": 5_000, "output_tokens": 20},
        stream=False,
    )
    tool = row.expand_tokens  # is in both prompts; without the proxy it is in none
    assert row.saved_cost == pytest.approx((plain.saved_cost or 0) - tool * 5e-6)
    assert row.without_input == (plain.without_input or 0) + 90 - tool


@streamed_and_plain
@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_writes_for_12_hours_cost_twice_as_much(client: Client, protocol: str, *, stream: bool) -> None:
    details = {
        "cached_tokens": 0,
        "cache_write_tokens": 10_000,
        "cache_write_tokens_details": {"ttl_12h_tokens": 10_000},
    }
    row = client.ask(
        protocol, body_of(protocol, 0, "gpt-5.6"), openai_usage(protocol, 10_000, 5, details), stream=stream
    )
    assert_dollars(row.cost, 0.1001)
    assert row.billed_cache_write_12h == 10_000


def openai_usage(protocol: str, prompt: int, output: int, details: Json | None = None, **more: Any) -> Json:
    first, second = ("prompt", "completion") if protocol == "chat" else ("input", "output")
    usage = {f"{first}_tokens": prompt, f"{second}_tokens": output, "total_tokens": prompt + output}
    return usage | ({f"{first}_tokens_details": details} if details else {}) | more


@streamed_and_plain
@pytest.mark.parametrize("protocol", ["chat", "responses"])
@pytest.mark.parametrize(
    ("tier", "dollars"),
    [
        ("priority", 0.1325),
        ("default", 0.053),
        ("flex", 0.0265),
        ("batch", 0.0265),
        ("fast", 0.1325),
        ("unheard", None),
    ],
)
def test_the_service_tier_decides_the_price(
    client: Client, protocol: str, tier: str, dollars: float | None, *, stream: bool
) -> None:
    usage = openai_usage(protocol, 10_000, 100)
    row = client.ask(protocol, body_of(protocol, 0, "gpt-5.5"), usage, stream=stream, service_tier=tier)
    assert row.cost == (None if dollars is None else pytest.approx(dollars))
    assert row.service_tier == tier


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("claude-opus-5-5", {"input_tokens": 1000, "output_tokens": 10, "inference_geo": "us"}, 1.1 * 0.0042),
        ("claude-opus-5-5", {"input_tokens": 1000, "output_tokens": 10, "speed": "fast"}, 0.0084),
        ("claude-opus-5-5", {"input_tokens": 1000, "output_tokens": 10, "service_tier": "batch"}, 0.0021),
        ("claude-opus-5-5", {"input_tokens": 0, "cache_read_input_tokens": 10_000, "output_tokens": 1}, 0.00202),
        (
            "claude-opus-5-5",
            {"input_tokens": 0, "output_tokens": 1, "server_tool_use": {"web_search_requests": 3}},
            0.03002,
        ),
        (
            "claude-opus-4-6",
            {
                "input_tokens": 100,
                "output_tokens": 10,
                "iterations": [
                    {"type": "message", "input_tokens": 100, "output_tokens": 10},
                    {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 1000, "output_tokens": 100},
                ],
            },
            0.00075 + 0.006,
        ),
        (
            "claude-opus-5-5",
            {
                "input_tokens": 1100,
                "output_tokens": 110,
                "iterations": [
                    {"type": "message", "input_tokens": 100, "output_tokens": 10},
                    {
                        "type": "fallback_message",
                        "model": "claude-opus-4-6",
                        "input_tokens": 1000,
                        "output_tokens": 100,
                    },
                ],
            },
            0.0006 + 0.0075,
        ),
        (
            "claude-opus-4-6",
            {
                "input_tokens": 9,
                "output_tokens": 9,
                "iterations": [{"type": "new", "input_tokens": 5, "output_tokens": 5}],
            },
            None,
        ),
    ],
)
def test_anthropic_extras_are_billed(client: Client, model: str, usage: Json, dollars: float | None) -> None:
    row = client.ask("messages", body_of("messages", 0, model), usage, stream=True)
    assert row.cost == (None if dollars is None else pytest.approx(dollars))
    assert (parse_json(row.unknown_usage) == {}) == (dollars is not None)


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("gpt-audio", openai_usage("chat", 1000, 100, {"audio_tokens": 400}), 600 * 2.5e-6 + 400 * 32e-6 + 100 * 1e-5),
        ("no-such-model", openai_usage("chat", 1000, 100, cost=0.0123, cost_details={}), 0.0123),
        (
            "gpt-5.5",
            openai_usage("chat", 1000, 100, cost=0.002, is_byok=True, cost_details={"upstream_inference_cost": 0.01}),
            0.012,
        ),
        ("grok-new", openai_usage("chat", 10, 1, cost_in_usd_ticks=37_756_000), 0.0037756),
        (
            "deepseek-chat",
            {"prompt_tokens": 1000, "completion_tokens": 0, "prompt_cache_hit_tokens": 900},
            1e2 * 2.8e-7 + 9e2 * 2.8e-8,
        ),
        ("gpt-5.5", openai_usage("chat", 300_000, 100), 300_000 * 1e-5 + 100 * 4.5e-5),
        ("gpt-5.6", openai_usage("chat", 100, 1, {"cache_write_tokens_details": {"ttl_9h_tokens": 50}}), None),
    ],
)
def test_openai_extras_are_billed(client: Client, model: str, usage: Json, dollars: float | None) -> None:
    row = client.ask("chat", body_of("chat", 0, model), usage, stream=False)
    assert row.cost == (None if dollars is None else pytest.approx(dollars))


def test_web_searches_of_a_response_are_billed(client: Client) -> None:
    output = [{"type": "web_search_call", "action": {"type": kind}} for kind in ("search", "open_page", "search")]
    usage = openai_usage("responses", 1000, 10)
    for stream in (False, True):
        row = client.ask("responses", body_of("responses", 0, "gpt-5.5"), usage, stream=stream, output=output)
        assert_dollars(row.cost, 0.0053 + 0.02)


def test_unknown_amounts_are_named(client: Client) -> None:
    usage = openai_usage("chat", 100, 1, {"hologram_tokens": 7, "cached_tokens": 0}, prompt_time=0.2, spare_tokens=0)
    row = client.ask("chat", body_of("chat", 0, "gpt-5.5"), usage, stream=False)
    assert parse_json(row.unknown_usage) == {"prompt_tokens_details.hologram_tokens": 1}


def test_a_provider_cheaper_than_its_list_price_saves_less(client: Client) -> None:
    usage = openai_usage("chat", 4_000, 5)
    listed = client.ask("chat", body_of("chat", 2, "gpt-5.5"), usage, stream=False)
    cheap = client.ask("chat", body_of("chat", 2, "gpt-5.5"), {**usage, "cost": (listed.cost or 0) / 2}, stream=False)
    assert cheap.saved_cost == pytest.approx((listed.saved_cost or 0) / 2)


def test_a_compaction_on_demand_is_billed(client: Client) -> None:
    usage = openai_usage("responses", 150_000, 3_500)
    reply: Json = {"id": "c", "object": "response.compaction", "output": [], "usage": usage}
    client.upstream.respond_with(http_response(json.dumps(reply).encode()))
    body = body_of("responses", 1, "gpt-5.5")
    response = client.proxy.post(body, "/v1/responses/compact")
    assert response.json() == reply
    assert client.upstream.last_request.json == body
    row = client.proxy.wait_for_row(response)
    assert_dollars(row.cost, 150_000 * 5e-6 + 3_500 * 30e-6)
    assert row.saved_cost == 0.0
