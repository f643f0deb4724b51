"""Replies as providers other than OpenAI write them: the client's calls reach it, ours do not, and thoughts go back."""

import random
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from clara_proxy.proxy.protocols import chat, messages, responses, responses_reply, sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
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
from clara_proxy.tests.proxy.protocols import odd_replies
from clara_proxy.tests.running import Proxy

Json = dict[str, Any]
TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "logs", "parameters": {"type": "object", "properties": {}}}}
]
SIGNED = {"google": {"thought_signature": "c2lnbmVk"}}
ABSENT = "absent"


def piece(delta: Json, finish: str | None = None) -> bytes:
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return sse.encode_event(orjson.dumps({**told, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))


def call(index: object, name: str | None, arguments: str, **more: Any) -> Json:
    made = {"function": {"arguments": arguments} | ({"name": name} if name else {}), **more}
    return made if index == ABSENT else {**made, "index": index}


def shown(events: Iterable[bytes]) -> dict[str, str]:
    """Put together the calls that a client hears of: arguments by name, told apart by index as clients do."""
    found: dict[int, list[str]] = {}
    for event in events:
        for choice in sse.parse_data(event).get("choices", []):
            for one in choice["delta"].get("tool_calls", []):
                known = found.setdefault(one.get("index") or 0, ["", ""])
                known[0] += one["function"].get("name") or ""
                known[1] += one["function"]["arguments"]
    return {one[0]: one[1] for one in found.values()}


def sent(numbered: str, order: tuple[str, ...]) -> list[bytes]:
    """Write a stream of calls as a provider does that numbers them so; each call comes in two pieces."""
    made: list[Json] = []
    for at, name in enumerate(order):
        index = {"rightly": at, "all 0": 0, "absent": ABSENT, "null": None}[numbered]
        made += [call(index, name, '{"of":', id=f"id-{name}", type="function"), call(index, None, f'"{name}"}}')]
    return [*(piece({"tool_calls": [one]}) for one in made), piece({}, "tool_calls")]


@pytest.mark.parametrize("order", [("logs", TOOL_NAME), (TOOL_NAME, "logs"), ("logs", TOOL_NAME, "other")], ids=str)
@pytest.mark.parametrize("numbered", ["rightly", "all 0", "absent", "null"])
def test_calls_are_told_apart_however_they_are_numbered(numbered: str, order: tuple[str, ...]) -> None:
    heard = chat.ADAPTER.create_reply_filter()
    passed = filter(None, map(heard.filter_event, sent(numbered, order)))
    assert shown(passed) == {name: f'{{"of":"{name}"}}' for name in order if name != TOOL_NAME}
    assert [one.arguments for one in heard.expand_calls] == [f'{{"of":"{TOOL_NAME}"}}']
    assert not heard.awaits_expansion


@pytest.mark.parametrize("numbered", ["rightly", "all 0", "absent", "null"])
def test_where_nothing_is_ours_the_bytes_stay(numbered: str) -> None:
    events = sent(numbered, ("logs", "other"))
    assert list(map(chat.ADAPTER.create_reply_filter().filter_event, events)) == events


def test_an_id_that_changes_within_a_call_begins_no_other() -> None:
    heard = chat.ADAPTER.create_reply_filter()
    parts = [call(0, TOOL_NAME, "{", id="a"), call(0, None, "}", id="b")]
    assert not any(heard.filter_event(piece({"tool_calls": [part]})) for part in parts)
    assert [one.arguments for one in heard.expand_calls] == ["{}"]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_provider_wants_back_of_the_models_thoughts_goes_back(
    proxy: Proxy, upstream: FaultyUpstream, streamed: bool
) -> None:
    ours = call(0, TOOL_NAME, '{"id":"x"}', id="a", type="function", extra_content=SIGNED)

    async def script(wire: faulty.Connection) -> None:
        if len(upstream.requests) > 1:
            await faulty.respond_normally(wire)
        elif streamed:
            deltas: list[Json] = [
                {"reasoning_content": "I must "},
                {"reasoning_content": "look"},
                {"tool_calls": [ours]},
            ]
            pieces = [*(piece(delta) for delta in deltas), piece({}, "tool_calls"), DONE_EVENT]
            await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, pieces), b"0\r\n\r\n")
        else:
            said = {"role": "assistant", "content": None, "reasoning_content": "I must look", "tool_calls": [ours]}
            choice = {"index": 0, "message": said, "finish_reason": "tool_calls"}
            await wire.send(http_response(orjson.dumps(completion(choices=[choice]))))

    upstream.script = script
    answer = proxy.post(running.tool_chat(tools=TOOLS, stream=streamed))
    assert answer.status_code == 200
    again = upstream.last_request.json["messages"][-2]
    assert (again["role"], again["reasoning_content"]) == ("assistant", "I must look")
    assert again["tool_calls"][0]["extra_content"] == SIGNED


@pytest.mark.parametrize("wire", [chat.ADAPTER, messages.ADAPTER, responses.ADAPTER], ids=lambda wire: wire.name)
def test_no_reply_however_odd_breaks_what_reads_it(wire: ProtocolAdapter) -> None:
    rng = random.Random(wire.name)
    for _ in range(400):
        heard, tap = wire.create_reply_filter(), UsageTap(strip=True)
        for _ in range(2):
            for event in odd_replies.events(wire.name, rng):
                tap.feed(heard.filter_event(event))
            if not heard.awaits_expansion:
                break
            orjson.dumps(heard.start_next_round(["found"] * len(heard.expand_calls)))
        orjson.dumps(
            [heard.usage, heard.list_visible_elements(), heard.build_hidden_record(["found"] * len(heard.expand_calls))]
        )
        answer = odd_replies.answer(wire.name, rng)
        heard = wire.create_reply_filter()
        heard.filter_reply(answer)
        orjson.dumps(
            [heard.usage, heard.list_visible_elements(), heard.build_hidden_record(["found"] * len(heard.expand_calls))]
        )
        responses_reply.filter_stored_response(orjson.dumps(answer))
