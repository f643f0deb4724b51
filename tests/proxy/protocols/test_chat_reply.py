"""Replies of providers other than OpenAI: client calls pass, hidden calls do not, and reasoning is sent back."""

import random
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from clara_proxy.proxy.protocols import chat, messages, responses, responses_reply, sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter, ReplyFilter
from clara_proxy.proxy.protocols.sse import UsageTap
from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    EVENT_STREAM_HEAD,
    FaultyUpstream,
    completion,
    http_chunk,
    http_response,
)
from clara_proxy.tests.proxy.protocols import unexpected_replies
from clara_proxy.tests.running import Proxy

Json = dict[str, Any]
LOGS_TOOL: Json = {"type": "function", "function": {"name": "logs", "parameters": {"type": "object", "properties": {}}}}
SIGNATURE = {"google": {"thought_signature": "c2lnbmVk"}}
ABSENT = "absent"
every_numbering = pytest.mark.parametrize("numbering", ["correct", "all 0", "absent", "null"])


def encode_chunk(delta: Json, finish: str | None = None) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return sse.encode_event(orjson.dumps({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))


def call_piece(index: object, name: str | None, arguments: str, **fields: Any) -> Json:
    """Return a piece of a call; without a `name` it continues the call before it."""
    piece = {"function": {"arguments": arguments} | ({"name": name} if name else {}), **fields}
    return piece if index == ABSENT else {**piece, "index": index}


def encode_calls(numbering: str, names: tuple[str, ...]) -> list[bytes]:
    """Return a stream of calls with this numbering; each call has two pieces."""
    pieces: list[Json] = []
    for position, name in enumerate(names):
        index = {"correct": position, "all 0": 0, "absent": ABSENT, "null": None}[numbering]
        pieces += [
            call_piece(index, name, '{"of":', id=f"id-{name}", type="function"),
            call_piece(index, None, f'"{name}"}}'),
        ]
    return [*(encode_chunk({"tool_calls": [piece]}) for piece in pieces), encode_chunk({}, "tool_calls")]


def join_calls(events: Iterable[bytes]) -> dict[str, str]:
    """Return the arguments of the calls in a stream by name, joined by index as clients do."""
    calls: dict[int, list[str]] = {}
    for event in events:
        for choice in sse.parse_data(event).get("choices", []):
            for piece in choice["delta"].get("tool_calls", []):
                parts = calls.setdefault(piece.get("index") or 0, ["", ""])
                parts[0] += piece["function"].get("name") or ""
                parts[1] += piece["function"]["arguments"]
    return {parts[0]: parts[1] for parts in calls.values()}


@pytest.mark.parametrize("names", [("logs", TOOL_NAME), (TOOL_NAME, "logs"), ("logs", TOOL_NAME, "other")], ids=str)
@every_numbering
def test_calls_are_separated_whatever_their_numbering(numbering: str, names: tuple[str, ...]) -> None:
    reply_filter = chat.ADAPTER.create_reply_filter()
    events = filter(None, map(reply_filter.filter_event, encode_calls(numbering, names)))
    assert join_calls(events) == {name: f'{{"of":"{name}"}}' for name in names if name != TOOL_NAME}
    assert [call.arguments for call in reply_filter.expand_calls] == [f'{{"of":"{TOOL_NAME}"}}']
    assert not reply_filter.awaits_expansion


@every_numbering
def test_stream_without_hidden_calls_passes_byte_for_byte(numbering: str) -> None:
    events = encode_calls(numbering, ("logs", "other"))
    assert list(map(chat.ADAPTER.create_reply_filter().filter_event, events)) == events


def test_new_id_within_a_call_does_not_start_another() -> None:
    reply_filter = chat.ADAPTER.create_reply_filter()
    pieces = [call_piece(0, TOOL_NAME, "{", id="a"), call_piece(0, None, "}", id="b")]
    assert not any(reply_filter.filter_event(encode_chunk({"tool_calls": [piece]})) for piece in pieces)
    assert [call.arguments for call in reply_filter.expand_calls] == ["{}"]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_and_its_signature_are_sent_back(proxy: Proxy, upstream: FaultyUpstream, stream: bool) -> None:
    expand_call = call_piece(0, TOOL_NAME, '{"id":"x"}', id="a", type="function", extra_content=SIGNATURE)

    async def script(connection: faulty.Connection) -> None:
        if len(upstream.requests) > 1:
            await faulty.respond_normally(connection)
        elif stream:
            deltas: list[Json] = [
                {"reasoning_content": "I must "},
                {"reasoning_content": "look"},
                {"tool_calls": [expand_call]},
            ]
            events = [*map(encode_chunk, deltas), encode_chunk({}, "tool_calls"), DONE_EVENT]
            await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, events), b"0\r\n\r\n")
        else:
            message = {"role": "assistant", "content": None, "reasoning_content": "I must look"}
            choice = {"index": 0, "message": {**message, "tool_calls": [expand_call]}, "finish_reason": "tool_calls"}
            await connection.send(http_response(orjson.dumps(completion(choices=[choice]))))

    upstream.script = script
    reply = proxy.post(running.tool_chat(tools=[LOGS_TOOL], stream=stream))
    assert reply.status_code == 200
    message = upstream.last_request.json["messages"][-2]
    assert (message["role"], message["reasoning_content"]) == ("assistant", "I must look")
    assert message["tool_calls"][0]["extra_content"] == SIGNATURE


@pytest.mark.parametrize(
    "adapter", [chat.ADAPTER, messages.ADAPTER, responses.ADAPTER], ids=lambda adapter: adapter.name
)
def test_unexpected_reply_does_not_break_the_filter(adapter: ProtocolAdapter) -> None:
    rng = random.Random(adapter.name)
    for _ in range(400):
        reply_filter, tap = adapter.create_reply_filter(), UsageTap(strip=True)
        for _ in range(2):
            for event in unexpected_replies.draw_events(adapter.name, rng):
                tap.feed(reply_filter.filter_event(event))
            if not reply_filter.awaits_expansion:
                break
            orjson.dumps(reply_filter.start_next_round(["found"] * len(reply_filter.expand_calls)))
        check_is_json(reply_filter)
        reply = unexpected_replies.draw_reply(adapter.name, rng)
        reply_filter = adapter.create_reply_filter()
        reply_filter.filter_reply(reply)
        check_is_json(reply_filter)
        responses_reply.filter_stored_response(orjson.dumps(reply), "r", "r")


def check_is_json(reply_filter: ReplyFilter) -> None:
    """Check that all a filter has read can be stored as JSON."""
    hidden = reply_filter.build_hidden_record(["found"] * len(reply_filter.expand_calls))
    orjson.dumps([reply_filter.usage, reply_filter.list_visible_elements(), hidden])


def test_empty_parts_of_a_hidden_round_leave_the_answer_a_text() -> None:
    reply_filter = chat.ADAPTER.create_reply_filter()
    call = {"id": "c", "type": "function", "function": {"name": TOOL_NAME, "arguments": '{"id":"0"}'}}
    hidden = {"content": [{"type": "text", "text": ""}], "tool_calls": [call]}
    reply_filter.filter_reply({"choices": [{"message": hidden, "finish_reason": "tool_calls"}]})
    reply_filter.start_next_round(["found"])
    reply = reply_filter.filter_reply({"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}]})
    assert reply["choices"][0]["message"]["content"] == "so"
