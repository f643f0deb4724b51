"""Models of other providers through litellm: plain, streamed and rejected; clients' received_bytes are never sent."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from clara_proxy.config.server_settings import LitellmModel
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import services
from clara_proxy.tests import running
from clara_proxy.tests.faulty import (
    EVENT_STREAM_HEAD,
    USAGE,
    Connection,
    FaultyUpstream,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.proxy.test_faults import events, leave
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

PROVIDER_KEY = "sk-provider-0000111122"


@pytest.fixture(scope="module")
def routed(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    model = LitellmModel(
        name="own-model", litellm="openai/some-model", api_key=PROVIDER_KEY, api_base=f"{_upstream.url}/provider"
    )
    nowhere = "http://127.0.0.1:9/v1"
    folder = tmp_path_factory.mktemp("routed")
    options: dict[str, Any] = {"litellm_providers": "anthropic", "models": (model,), "read_timeout": 5}
    with running.run_proxy(_upstream.url, folder, upstream_base_url=nowhere, **options) as proxy:
        yield proxy


def own_model_chat(**more: Any) -> dict[str, Any]:
    return short_chat(**{"model": "own-model", **more})


def received_bytes(upstream: FaultyUpstream) -> bytes:
    return (
        b" ".join(value for _, value in upstream.last_request.headers)
        + upstream.last_request.body
        + upstream.last_request.request_line
    )


def test_a_chat_is_answered(routed: Proxy, upstream: FaultyUpstream) -> None:
    answer = routed.post(own_model_chat(temperature=0.5, user="u"), x_api_key=CLIENT_KEY, cookie="s=1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["message"]["content"] == "the disk is full"
    assert upstream.last_request.request_line == b"POST /provider/chat/completions HTTP/1.1"
    assert upstream.last_request.header_values("authorization") == [f"Bearer {PROVIDER_KEY}".encode()]
    assert upstream.last_request.json["model"] == "some-model"
    assert upstream.last_request.json["temperature"] == 0.5
    assert CLIENT_KEY.encode() not in received_bytes(upstream)
    assert not upstream.last_request.header_values("cookie")
    row = routed.wait_for_row(answer)
    assert (row.model, row.outcome, row.billed_input, row.billed_output) == ("own-model", "ok", 40, 5)


def test_a_chat_is_compressed(routed: Proxy, upstream: FaultyUpstream) -> None:
    answer = routed.post({**tool_chat(), "model": "own-model"})
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert len(upstream.last_request.json["messages"][2]["content"]) < len(LOG_TEXT) / 2
    assert upstream.last_request.json["messages"][2]["tool_call_id"] == "c1"


def test_a_chat_is_streamed(routed: Proxy, upstream: FaultyUpstream) -> None:
    answer = routed.post(own_model_chat(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "x-clara-request-id" in answer.headers
    assert answer.content.endswith(b"data: [DONE]\n\n")
    chunks = events(answer.content.removesuffix(b"data: [DONE]\n\n"))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "the disk is full"
    assert not [chunk for chunk in chunks if chunk.get("usage")]
    assert upstream.last_request.json["stream_options"] == {"include_usage": True}
    assert CLIENT_KEY.encode() not in received_bytes(upstream)
    row = routed.wait_for_row(answer)
    assert (row.outcome, row.streamed, row.billed_input) == ("ok", True, 40)


def test_a_client_gets_the_requested_usage_of_a_stream(routed: Proxy, upstream: FaultyUpstream) -> None:
    new_client: Any = openai.OpenAI(base_url=f"{routed.url}/v1", api_key=CLIENT_KEY)
    with new_client as client:
        request = own_model_chat(stream=True, stream_options={"include_usage": True})
        chunks = list(client.chat.completions.create(**request))
    assert [chunk.usage.prompt_tokens for chunk in chunks if chunk.usage] == [40]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *(("400 Bad Request", 400), ("401 Unauthorized", 401), ("404 Not Found", 404), ("429 Too Many Requests", 429)),
        *(("500 Internal Server Error", 500), ("503 Service Unavailable", 503)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_providers_error_keeps_its_status(
    routed: Proxy, upstream: FaultyUpstream, status: str, expected: int, stream: bool
) -> None:
    upstream.respond_with(http_response(orjson.dumps({"error": {"message": "not today", "code": "c"}}), status=status))
    answer = routed.post(own_model_chat(stream=stream))
    assert answer.status_code == expected
    assert "not today" in answer.json()["error"]["message"]
    assert len(upstream.requests) == 1
    row = routed.wait_for_row(answer)
    assert (row.outcome, row.status, row.cost) == ("upstream_error", expected, None)


def test_a_disconnected_provider_is_an_error_in_the_stream(routed: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(sse_event(completion_chunk("hello")), ending=Connection.reset)
    answer = routed.post(own_model_chat(stream=True))
    assert answer.status_code == 200
    chunks = events(answer.content)
    assert chunks[0]["choices"][0]["delta"]["content"] == "hello"
    assert "error" in chunks[-1]
    assert routed.wait_for_row(answer).outcome == "upstream_error"


def test_an_unreachable_provider_is_a_server_error(routed: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: Connection) -> None:
        connection.reset()

    upstream.script = script
    answer = routed.post(own_model_chat())
    assert answer.status_code >= 500
    assert answer.json()["error"]["message"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "field", ["mock_response", "api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider", "fallbacks"]
)
@pytest.mark.parametrize("model", ["own-model", "anthropic/claude-sonnet-4-5"])
def test_fields_that_steer_litellm_are_rejected(
    routed: Proxy, upstream: FaultyUpstream, field: str, model: str
) -> None:
    for stream in (False, True):
        answer = routed.post(own_model_chat(model=model, stream=stream, **{field: "http://127.0.0.1:9"}))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
        assert answer.json()["error"]["code"] == "unsupported_field"
        assert routed.wait_for_row(answer).outcome == "rejected"
    assert not upstream.requests


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_cache_key", "session-1"),
        ("prompt_cache_retention", "24h"),
        ("safety_identifier", "user-1"),
        ("reasoning", {"effort": "high"}),
        ("usage", {"include": True}),
    ],
)
def test_hints_for_other_providers_are_dropped(
    routed: Proxy, upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture, field: str, value: Any
) -> None:
    caplog.set_level(logging.INFO)
    for stream in (False, True):
        assert routed.post(own_model_chat(stream=stream, **{field: value})).status_code == 200
        assert field not in upstream.last_request.json
    assert f"not forwarded: {field}" in caplog.text


PREFIXED_MODELS = ["deepseek/deepseek-chat", "anthropic/claude-sonnet-4-5", "openrouter/auto", "mistral/large"]


@pytest.mark.parametrize("model", PREFIXED_MODELS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_an_aggregator_gets_its_own_prefixed_models(
    proxy: Proxy, upstream: FaultyUpstream, model: str, path: str
) -> None:
    body = short_chat(model=model, input="hi", max_tokens=9)
    assert proxy.post(body, path).status_code == 200
    assert upstream.last_request.json["model"] == model


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "https://api.openai.com/v1/"])
def test_prefixes_count_for_the_default_upstream_or_if_configured(url: str) -> None:
    default_prefixes = Settings().litellm_providers
    assert services.list_litellm_prefixes(Settings(upstream_base_url=url)) == default_prefixes
    aggregator = "https://openrouter.ai/api/v1"
    assert services.list_litellm_prefixes(Settings(upstream_base_url=aggregator)) == ()
    configured = Settings(upstream_base_url=aggregator, litellm_providers=("groq",))
    assert services.list_litellm_prefixes(configured) == ("groq",)


def test_a_provider_without_a_key_does_not_get_the_clients_key(
    routed: Proxy, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", upstream.url)
    answer = routed.post(own_model_chat(model="anthropic/claude-sonnet-4-5"), x_api_key=CLIENT_KEY)
    assert answer.status_code == 401
    assert CLIENT_KEY not in answer.text
    assert not [
        request
        for request in upstream.requests
        if CLIENT_KEY.encode() in b"".join(value for _, value in request.headers)
    ]


def test_other_models_go_to_the_upstream(routed: Proxy, upstream: FaultyUpstream) -> None:
    assert routed.post(own_model_chat(model="gpt-4o")).json()["error"]["code"] == "upstream_unreachable"
    assert routed.post(own_model_chat(model="some/anthropic/x")).json()["error"]["code"] == "upstream_unreachable"
    assert not upstream.requests


def test_a_disconnected_client_cancels_the_providers_request(routed: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))))
    leave(routed, "leaves litellm", orjson.dumps(own_model_chat(stream=True)), after=b"hello")
    assert upstream.client_left.wait(TIMEOUT)
    assert routed.wait_for_row("leaves litellm").outcome == "cancelled"
    upstream.reset()
    upstream.respond_then_hang()
    leave(routed, "waits for litellm", orjson.dumps(own_model_chat()))
    assert upstream.client_left.wait(TIMEOUT)
    assert routed.wait_for_row("waits for litellm").outcome == "cancelled"


def test_tool_calls_are_returned(routed: Proxy, upstream: FaultyUpstream) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":"é"}'}}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "some-model", "usage": USAGE}
    upstream.respond_with(
        http_response(orjson.dumps({**reply, "choices": [{**choice, "finish_reason": "tool_calls"}]}))
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    answer = routed.post(own_model_chat(tools=tools, tool_choice="auto", n=1, seed=7))
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"] == call["function"]
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert upstream.last_request.json["tools"][:-1] == tools


PRICED = LitellmModel(name="fast", litellm="openai/gpt-4o", api_key=PROVIDER_KEY)


@pytest.fixture(scope="module")
def fast(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with two configured names: for a priced model, and for a model with a small window."""
    base = f"{_upstream.url}/provider"
    small = LitellmModel(name="small", litellm="openai/gpt-3.5-turbo", api_key=PROVIDER_KEY, api_base=base)
    models = (PRICED.model_copy(update={"api_base": base}), small)
    with running.run_proxy(
        _upstream.url, tmp_path_factory.mktemp("fast"), models=models, litellm_providers=""
    ) as proxy:
        yield proxy


@pytest.mark.parametrize("stream", [False, True])
def test_a_configured_name_has_the_price_and_vocabulary_of_its_model(
    fast: Proxy, upstream: FaultyUpstream, stream: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    renamed, plain = (
        fast.wait_for_row(fast.post(tool_chat(model=model, tools=tools, stream=stream))) for model in ("fast", "gpt-4o")
    )
    assert (renamed.model, plain.model) == ("fast", "gpt-4o")
    assert renamed.cost == plain.cost
    assert renamed.cost
    assert renamed.saved_cost == plain.saved_cost
    assert renamed.saved_cost
    assert not renamed.tokens_estimated
    assert (renamed.tokens_received, renamed.tokens_sent) == (plain.tokens_received, plain.tokens_sent)


def test_a_configured_name_has_the_window_of_its_model(fast: Proxy, upstream: FaultyUpstream) -> None:
    """History is compressed once it fills three quarters of the window: of 16,000 tokens, not of 128,000."""
    read = {"id": "r1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a.py"}'}}
    messages = [
        {"role": "user", "content": "why did it fail?"},
        {"role": "assistant", "content": None, "tool_calls": [read]},
        {"role": "tool", "tool_call_id": "r1", "content": LOG_TEXT},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": " ".join(f"note {number}" for number in range(6_000))},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "and now?"},
    ]
    sent: dict[str, int] = {}
    for model in ("fast", "gpt-4o", "small", "gpt-3.5-turbo"):
        fast.post({"model": model, "messages": messages}, x_clara_roles="tool")
        sent[model] = len(upstream.last_request.json["messages"][2]["content"])
    assert sent["fast"] == sent["gpt-4o"] == len(LOG_TEXT)
    assert sent["small"] == sent["gpt-3.5-turbo"] < len(LOG_TEXT) / 2


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens"])
def test_a_configured_name_is_rejected_outside_chat_completions(
    fast: Proxy, upstream: FaultyUpstream, path: str
) -> None:
    body = {"model": "fast", "input": "hi", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    answer = fast.post(body, path)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert "fast" in error["message"]
    assert "/v1/chat/completions" in error["message"]
    assert answer.json().get("type") == ("error" if "messages" in path else None)
    assert fast.wait_for_row(answer).outcome == "rejected"
    assert not upstream.requests
    assert fast.post({**body, "model": "anthropic/claude-x"}, path).status_code == 200  # the upstream decides


def test_a_prefixed_model_is_rejected_by_a_providers_own_upstream(tmp_path: Path) -> None:
    provider_urls = {name: Settings.model_fields[name].default for name in ("upstream_base_url", "anthropic_base_url")}
    body = {"model": "groq/llama-3", "input": "hi", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    with running.run_proxy("http://127.0.0.1:9", tmp_path, **provider_urls) as proxy:
        errors = [proxy.post(body, path).json()["error"] for path in ("/v1/responses", "/v1/messages")]
    assert all("groq/llama-3 is served through litellm" in error["message"] for error in errors)


def test_a_prefixed_model_is_forwarded_to_a_gateway(routed: Proxy, upstream: FaultyUpstream) -> None:
    """A gateway with Anthropic's API may serve a model of another provider."""
    body = {"model": "anthropic/claude-x", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    assert routed.post(body, "/v1/messages").status_code == 200
    assert upstream.last_request.request_line == b"POST /v1/messages HTTP/1.1"
