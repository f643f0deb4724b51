"""A response that the upstream keeps is fetched again, and shows nothing of what only the proxy had asked for."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import orjson
import pytest

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, FaultyUpstream, http_chunk, http_response
from clara_proxy.tests.proxy.protocols.responder import USAGE, Json, call, events, message, reasoning, written
from clara_proxy.tests.running import CLIENT_KEY, Proxy

OURS: Json = {"type": "function", "name": TOOL_NAME, "parameters": {}}
THEIRS: Json = {"type": "function", "name": "shell", "parameters": {}, "strict": True}
ASKED = call(TOOL_NAME, {"id": "0" * 16}, "call_ours")


def kept(*output: Json, **more: Any) -> Json:
    own = {"id": "resp_1", "object": "response", "created_at": 1.0, "status": "completed", "model": "gpt-4o"}
    return {**own, "output": list(output), "tools": [THEIRS, OURS], "usage": USAGE, **more}


@pytest.fixture
def client(proxy: Proxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as made:
        yield made


def test_it_comes_without_our_tool_and_its_calls(client: openai.OpenAI, upstream: FaultyUpstream) -> None:
    upstream.respond_with(http_response(orjson.dumps(kept(reasoning("it"), ASKED, message("so")))))
    found = client.responses.retrieve("resp_1", include=["reasoning.encrypted_content"])
    assert [item.type for item in found.output] == ["reasoning", "message"]
    assert [tool.name for tool in found.tools if tool.type == "function"] == ["shell"]
    assert upstream.last_request.request_line.startswith(b"GET /v1/responses/resp_1?include")
    assert upstream.last_request.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]


@pytest.mark.parametrize("output", [(message("so"), call("shell", {}, "c1"), ASKED), (message("so"), ASKED)])
def test_its_events_come_without_them_to_their_end(
    client: openai.OpenAI, upstream: FaultyUpstream, output: tuple[Json, ...]
) -> None:
    upstream.respond_with(EVENT_STREAM_HEAD, *map(http_chunk, written(events(kept(*output)))), b"0\r\n\r\n")
    heard = list(client.responses.retrieve("resp_1", stream=True))
    assert TOOL_NAME not in str(heard)
    assert heard[-1].type == "response.completed"
    assert [item.type for item in heard[-1].response.output] == [one["type"] for one in output if one is not ASKED]
    assert [one.sequence_number for one in heard] == list(range(len(heard)))


def test_what_went_in_is_listed_without_them(client: openai.OpenAI, upstream: FaultyUpstream) -> None:
    theirs, mine = (
        {"type": "function_call_output", "id": one, "call_id": one, "output": "x"} for one in ("c1", "call_ours")
    )
    items = [message("so"), call("shell", {}, "c1"), theirs, ASKED, mine]
    listed = {"object": "list", "data": items, "first_id": "a", "last_id": "b", "has_more": False}
    upstream.respond_with(http_response(orjson.dumps(listed)))
    found = client.responses.input_items.list("resp_1").data
    assert [item.type for item in found] == ["message", "function_call", "function_call_output"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "resp_1", "output": [],  "tools": []}',
        b'{ "object": "list", "data": [ {"type": "message", "id": "m"} ] }',
        b'{"error": {"message": "no \\u00e9"}}',
        b"not JSON \xff",
        b'[{"output": 1}]',
    ],
)
def test_what_has_nothing_of_ours_comes_as_it_is(proxy: Proxy, upstream: FaultyUpstream, body: bytes) -> None:
    upstream.respond_with(http_response(body, "x-request-id: r1"))
    answer = httpx.get(f"{proxy.url}/v1/responses/resp_1", headers={"authorization": f"Bearer {CLIENT_KEY}"})
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["x-request-id"] == "r1"
