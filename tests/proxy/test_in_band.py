"""An upstream that fails and says 200: the client gets what it said, byte for byte, and the ledger knows better."""

from typing import Any

import orjson
import pytest

from clara_proxy.proxy.protocols.api_errors import has_error
from clara_proxy.proxy.protocols.sse import MAX_EVENT_BYTES, UsageTap
from clara_proxy.tests import protocol_bodies
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.proxy.protocols import messages_upstream, responder
from clara_proxy.tests.running import Proxy, tool_chat

Json = dict[str, Any]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
LOGIN = b"<!doctype html><title>Sign in</title>"
SAID = messages_upstream.message([messages_upstream.text("the disk is full")])
REPLY: Json = {
    "id": "resp_1", "object": "response", "status": "completed", "error": None, "model": "gpt-4o",
    "output": [responder.message("the disk is full")], "usage": responder.USAGE,
}  # fmt: skip


def named(said: Json) -> bytes:
    return b"event: " + str(said["type"]).encode() + b"\n" + sse_event(said)


WHOLE: dict[str, Json] = {CHAT: completion(), RESPONSES: REPLY, MESSAGES: SAID}
STREAMED: dict[str, list[bytes]] = {
    CHAT: [
        sse_event(completion_chunk("the disk")),
        sse_event(completion_chunk(" is full", choices=[{"delta": {}, "finish_reason": "stop"}])),
        DONE_EVENT,
    ],
    RESPONSES: list(responder.written(responder.events(REPLY))),
    MESSAGES: list(map(messages_upstream.written, messages_upstream.events(SAID))),
}
ERRORS: dict[str, list[Json]] = {  # what stands in a whole answer, or comes as an event
    CHAT: [
        {"error": {"code": 502, "message": "overloaded"}},
        {"error": "overloaded"},
        {"id": "c-1", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]},
    ],
    RESPONSES: [
        {"type": "error", "code": "server_error", "message": "overloaded", "param": None, "sequence_number": 9},
        {"type": "response.failed", "response": {**REPLY, "status": "failed", "error": {"code": "server_error"}}},
    ],
    MESSAGES: [{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}],
}
PATHS = pytest.mark.parametrize("path", list(WHOLE))
# With tools on offer the answer is read by who looks for calls of ours, without them it is only passed on.
OFFERS = pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "none"])


def body(path: str, tools: list[Json], *, stream: bool) -> Json:
    chat = tool_chat(tools=tools)
    asked = {
        CHAT: protocol_bodies.as_chat,
        RESPONSES: protocol_bodies.as_responses,
        MESSAGES: protocol_bodies.as_messages,
    }[path](chat)
    usage = {"stream_options": {"include_usage": True}} if path == CHAT and stream else {}
    more = {name: value for name, value in asked.items() if name != "tools" or value}
    return {**more, "stream": stream, **usage, **({"max_tokens": 99} if path == MESSAGES else {})}


@PATHS
@OFFERS
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_well_is_well(
    proxy: Proxy, upstream: FaultyUpstream, path: str, tools: list[Json], stream: bool
) -> None:
    if stream:
        upstream.stream_events(*STREAMED[path])
    else:
        upstream.respond_with(http_response(orjson.dumps(WHOLE[path])))
    answer = proxy.post(body(path, tools, stream=stream), path)
    assert answer.content == (b"".join(STREAMED[path]) if stream else orjson.dumps(WHOLE[path]))
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status) == ("ok", 200)
    assert row.saved_tokens > 1000


@pytest.mark.parametrize(("path", "error"), [(path, error) for path, listed in ERRORS.items() for error in listed])
@OFFERS
@pytest.mark.parametrize("ends", [False, True])
def test_an_error_in_a_stream(
    proxy: Proxy, upstream: FaultyUpstream, path: str, error: Json, tools: list[Json], ends: bool
) -> None:
    told = named(error) if "type" in error else sse_event(error)
    said = [*STREAMED[path][:-2], told, *(STREAMED[path][-1:] if ends else [])]
    upstream.stream_events(*said)
    answer = proxy.post(body(path, tools, stream=True), path)
    assert answer.content == b"".join(said)
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status, row.saved_cost) == ("upstream_error", 200, None)


@PATHS
@OFFERS
def test_a_stream_that_stops_without_an_end(
    proxy: Proxy, upstream: FaultyUpstream, path: str, tools: list[Json]
) -> None:
    for said in (STREAMED[path][:-2], []):
        upstream.stream_events(*said)
        answer = proxy.post(body(path, tools, stream=True), path)
        assert answer.content == b"".join(said)
        assert proxy.wait_for_row(answer).outcome == "upstream_error"


@PATHS
@OFFERS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "whole",
    [
        (LOGIN, "text/html"),
        (LOGIN, "application/json"),
        (b"", "application/json"),
        (b"", "text/plain"),
        (b'{"error": {"message": "overloaded"}}', "application/json"),
        (b"[]", "application/json"),
    ],
)
def test_a_whole_answer_that_is_none(
    proxy: Proxy, upstream: FaultyUpstream, path: str, tools: list[Json], stream: bool, whole: tuple[bytes, str]
) -> None:
    said, kind = whole
    upstream.respond_with(http_response(said, content_type=kind))
    answer = proxy.post(body(path, tools, stream=stream), path)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, said, kind)
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status, row.saved_cost) == ("upstream_error", 200, None)


@pytest.mark.parametrize("second", [(LOGIN, "text/html"), (orjson.dumps(completion()), "application/json")])
def test_a_later_round_that_is_answered_with_something_else(
    proxy: Proxy, upstream: FaultyUpstream, second: tuple[bytes, str]
) -> None:
    """The stream has begun, so all that is left is to end it with an error."""
    call = {"index": 0, "id": "c", "function": {"name": "clara_expand", "arguments": "{}"}}
    asks = [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]

    async def script(wire: Connection) -> None:
        if len(upstream.requests) == 1:
            stream = [
                sse_event(completion_chunk("Let me look.")),
                sse_event(completion_chunk("", choices=asks)),
                DONE_EVENT,
            ]
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            await wire.send(head, *map(http_chunk, stream), b"0\r\n\r\n")
        else:
            await wire.send(http_response(second[0], content_type=second[1]))

    upstream.script = script
    answer = proxy.post(body(CHAT, TOOLS, stream=True), CHAT)
    assert answer.text.endswith("\n\n")
    told = [orjson.loads(one.removeprefix("data: ")) for one in answer.text.split("\n\n") if one]
    assert told[0]["choices"][0]["delta"]["content"] == "Let me look."
    assert "status 200" in told[-1]["error"]["message"]
    assert len(upstream.requests) == 2
    assert proxy.wait_for_row(answer).outcome == "upstream_error"


@pytest.mark.parametrize("path", list(STREAMED))
@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("blanks", [False, True])
def test_however_a_stream_is_cut_its_end_is_seen(path: str, size: int, blanks: bool) -> None:
    stream = b"".join(STREAMED[path])
    stream = stream.replace(b'":', b'" : ') if blanks else stream
    without_last = [] if path == RESPONSES else [stream.rindex(b"event:" if path == MESSAGES else b"data:")]
    for upto in (len(stream), *without_last):
        tap = UsageTap(strip=False)
        for at in range(0, upto, size):
            tap.feed(stream[at : min(upto, at + size)])
        tap.flush()
        assert not tap.has_failed  # who leaves out the last of two words that say the end has still said it
    tap = UsageTap(strip=False)
    tap.feed(STREAMED[path][0])
    tap.flush()
    assert tap.has_failed


def test_an_end_that_is_too_long_to_be_read_is_one() -> None:
    end = sse_event({"type": "response.completed", "response": {**REPLY, "instructions": "x" * 3 * MAX_EVENT_BYTES}})
    tap = UsageTap(strip=False)
    for at in range(0, len(end), 65536):
        tap.feed(end[at : at + 65536])
    tap.flush()
    assert not tap.has_failed


@pytest.mark.parametrize("text", ['"finish_reason":"stop"', '{"error": {"message": "x"}}', "data: [DONE]"])
def test_words_about_an_end_or_an_error_are_neither(text: str) -> None:
    tap = UsageTap(strip=False)
    tap.feed(sse_event(completion_chunk(text)))
    tap.flush()
    assert tap.has_failed
    tap = UsageTap(strip=False)
    tap.feed(sse_event(completion_chunk(text)) + DONE_EVENT)
    tap.flush()
    assert not tap.has_failed


@pytest.mark.parametrize("said", [{}, {"error": None}, {"type": "message"}, {"choices": None}, {"response": {}}])
def test_what_tells_of_no_error(said: Json) -> None:
    assert not has_error(said)
