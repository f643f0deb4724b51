"""Errors in responses with status 200: the client gets them byte for byte, and the ledger records a failure."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from clara_proxy.proxy.http import relay
from clara_proxy.proxy.protocols.api_errors import has_error
from clara_proxy.proxy.protocols.sse import MAX_EVENT_BYTES, UsageTap
from clara_proxy.proxy.stores.errors import ThrottledLogger
from clara_proxy.tests import protocol_bodies
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    EVENT_STREAM_HEAD,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.proxy.protocols import messages_upstream, responses_upstream
from clara_proxy.tests.running import Proxy, tool_chat

Json = dict[str, Any]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
LOGIN_PAGE = b"<!doctype html><title>Sign in</title>"
MESSAGES_REPLY = messages_upstream.build_reply([messages_upstream.text("the disk is full")])
RESPONSES_REPLY: Json = {
    "id": "resp_1", "object": "response", "status": "completed", "error": None, "model": "gpt-4o",
    "output": [responses_upstream.message("the disk is full")], "usage": responses_upstream.USAGE,
}  # fmt: skip


def encode_error_event(event: Json) -> bytes:
    """Encode an event, with an event name if it has a type."""
    name = b"event: " + str(event["type"]).encode() + b"\n" if "type" in event else b""
    return name + sse_event(event)


REPLIES: dict[str, Json] = {CHAT: completion(), RESPONSES: RESPONSES_REPLY, MESSAGES: MESSAGES_REPLY}
STREAMS: dict[str, list[bytes]] = {
    CHAT: [
        sse_event(completion_chunk("the disk")),
        sse_event(completion_chunk(" is full", choices=[{"delta": {}, "finish_reason": "stop"}])),
        DONE_EVENT,
    ],
    RESPONSES: list(responses_upstream.encode_events(responses_upstream.iter_events(RESPONSES_REPLY))),
    MESSAGES: list(map(messages_upstream.encode_event, messages_upstream.iter_events(MESSAGES_REPLY))),
}
ERRORS: dict[str, list[Json]] = {  # the error events of each protocol
    CHAT: [
        {"error": {"code": 502, "message": "overloaded"}},
        {"error": "overloaded"},
        {"id": "c-1", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]},
    ],
    RESPONSES: [
        {"type": "error", "code": "server_error", "message": "overloaded", "param": None, "sequence_number": 9},
        {
            "type": "response.failed",
            "response": {**RESPONSES_REPLY, "status": "failed", "error": {"code": "server_error"}},
        },
    ],
    MESSAGES: [{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}],
}
CONVERTERS: dict[str, Callable[[Json], Json]] = {
    CHAT: protocol_bodies.as_chat,
    RESPONSES: protocol_bodies.as_responses,
    MESSAGES: protocol_bodies.as_messages,
}
every_path = pytest.mark.parametrize("path", list(REPLIES))
# With tools the reply goes through a filter for hidden calls; without tools it is passed on.
with_and_without_tools = pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "none"])


def build_request(path: str, tools: list[Json], *, stream: bool) -> Json:
    body = CONVERTERS[path](tool_chat(tools=tools))
    fields = {name: value for name, value in body.items() if name != "tools" or value}
    usage = {"stream_options": {"include_usage": True}} if path == CHAT and stream else {}
    return {**fields, "stream": stream, **usage, **({"max_tokens": 99} if path == MESSAGES else {})}


@every_path
@with_and_without_tools
@pytest.mark.parametrize("stream", [False, True])
def test_complete_reply_is_recorded_as_ok(
    proxy: Proxy, upstream: FaultyUpstream, path: str, tools: list[Json], stream: bool
) -> None:
    if stream:
        upstream.stream_events(*STREAMS[path])
    else:
        upstream.respond_with(http_response(orjson.dumps(REPLIES[path])))
    response = proxy.post(build_request(path, tools, stream=stream), path)
    assert response.content == (b"".join(STREAMS[path]) if stream else orjson.dumps(REPLIES[path]))
    row = proxy.wait_for_row(response)
    assert (row.outcome, row.status) == ("ok", 200)
    assert row.saved_tokens > 1000


@pytest.mark.parametrize(("path", "error"), [(path, error) for path, errors in ERRORS.items() for error in errors])
@with_and_without_tools
@pytest.mark.parametrize("has_end", [False, True])
def test_error_event_is_recorded_as_an_upstream_error(
    proxy: Proxy, upstream: FaultyUpstream, path: str, error: Json, tools: list[Json], has_end: bool
) -> None:
    events = [*STREAMS[path][:-2], encode_error_event(error), *(STREAMS[path][-1:] if has_end else [])]
    upstream.stream_events(*events)
    response = proxy.post(build_request(path, tools, stream=True), path)
    assert response.content == b"".join(events)
    row = proxy.wait_for_row(response)
    assert (row.outcome, row.status, row.saved_cost) == ("upstream_error", 200, None)


@every_path
@with_and_without_tools
def test_stream_without_an_end_is_recorded_as_an_upstream_error(
    proxy: Proxy, upstream: FaultyUpstream, path: str, tools: list[Json]
) -> None:
    for events in (STREAMS[path][:-2], []):
        upstream.stream_events(*events)
        response = proxy.post(build_request(path, tools, stream=True), path)
        assert response.content == b"".join(events)
        assert proxy.wait_for_row(response).outcome == "upstream_error"


@every_path
@with_and_without_tools
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (LOGIN_PAGE, "text/html"),
        (LOGIN_PAGE, "application/json"),
        (b"", "application/json"),
        (b"", "text/plain"),
        (b'{"error": {"message": "overloaded"}}', "application/json"),
        (b"[]", "application/json"),
    ],
)
def test_response_that_is_not_a_reply_is_recorded_as_an_upstream_error(
    proxy: Proxy,
    upstream: FaultyUpstream,
    path: str,
    tools: list[Json],
    *,
    stream: bool,
    content: bytes,
    content_type: str,
) -> None:
    upstream.respond_with(http_response(content, content_type=content_type))
    response = proxy.post(build_request(path, tools, stream=stream), path)
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["content-type"] == content_type
    row = proxy.wait_for_row(response)
    assert (row.outcome, row.status, row.saved_cost) == ("upstream_error", 200, None)


def test_a_web_page_instead_of_replies_is_logged_once(
    proxy: Proxy, upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_invalid_reply_log", ThrottledLogger(relay.log, interval=3600.0))
    upstream.respond_with(http_response(LOGIN_PAGE, content_type="text/html"))
    for path in (CHAT, MESSAGES):
        assert proxy.wait_for_row(proxy.post(build_request(path, [], stream=False), path)).outcome == "upstream_error"
    upstream.respond_with(http_response(LOGIN_PAGE, status="502 Bad Gateway", content_type="text/html"))
    assert proxy.post(build_request(CHAT, [], stream=False)).status_code == 502
    lines = [line for line in caplog.messages if "not JSON" in line]
    assert len(lines) == 1
    assert "Sign in" not in lines[0]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(LOGIN_PAGE, "text/html"), (b"[]", "application/json")],
)
def test_later_round_without_a_stream_ends_the_stream_with_an_error(
    proxy: Proxy, upstream: FaultyUpstream, content: bytes, content_type: str
) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "clara_expand", "arguments": "{}"}}
    choices = [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]
    events = [
        sse_event(completion_chunk("Let me look.")),
        sse_event(completion_chunk("", choices=choices)),
        DONE_EVENT,
    ]

    async def script(connection: Connection) -> None:
        if len(upstream.requests) == 1:
            await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, events), b"0\r\n\r\n")
        else:
            await connection.send(http_response(content, content_type=content_type))

    upstream.script = script
    response = proxy.post(build_request(CHAT, TOOLS, stream=True), CHAT)
    assert response.text.endswith("\n\n")
    chunks = [orjson.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
    assert chunks[0]["choices"][0]["delta"]["content"] == "Let me look."
    assert "status 200" in chunks[-1]["error"]["message"]
    assert len(upstream.requests) == 2
    assert proxy.wait_for_row(response).outcome == "upstream_error"


# UsageTap


def feed_tap(*pieces: bytes) -> UsageTap:
    """Return a tap that has read a whole stream."""
    tap = UsageTap(strip=False)
    for piece in pieces:
        tap.feed(piece)
    tap.flush()
    return tap


@pytest.mark.parametrize("path", list(STREAMS))
@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("blanks", [False, True])
def test_end_of_a_stream_is_found_whatever_its_pieces(path: str, size: int, blanks: bool) -> None:
    stream = b"".join(STREAMS[path])
    stream = stream.replace(b'":', b'" : ') if blanks else stream
    # Of the two events at the end of these protocols, the first is enough.
    short_lengths = [] if path == RESPONSES else [stream.rindex(b"event:" if path == MESSAGES else b"data:")]
    for length in (len(stream), *short_lengths):
        tap = feed_tap(*(stream[start : min(length, start + size)] for start in range(0, length, size)))
        assert not tap.has_failed
    assert feed_tap(STREAMS[path][0]).has_failed


def test_last_event_above_the_size_limit_ends_the_stream() -> None:
    response = {**RESPONSES_REPLY, "instructions": "x" * 3 * MAX_EVENT_BYTES}
    event = sse_event({"type": "response.completed", "response": response})
    tap = feed_tap(*(event[start : start + 65536] for start in range(0, len(event), 65536)))
    assert not tap.has_failed


@pytest.mark.parametrize("text", ['"finish_reason":"stop"', '{"error": {"message": "x"}}', "data: [DONE]"])
def test_text_about_an_end_or_an_error_is_neither(text: str) -> None:
    event = sse_event(completion_chunk(text))
    assert feed_tap(event).has_failed
    assert not feed_tap(event + DONE_EVENT).has_failed


@pytest.mark.parametrize("body", [{}, {"error": None}, {"type": "message"}, {"choices": None}, {"response": {}}])
def test_body_without_an_error_has_none(body: Json) -> None:
    assert not has_error(body)
