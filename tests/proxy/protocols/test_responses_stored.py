"""A stored response is retrieved, continued and deleted by the client's id, without the hidden tool and its calls."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import orjson
import pytest

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, FaultyUpstream, http_chunk, http_response
from clara_proxy.tests.proxy.protocols.expand_data import FINAL_TEXT, ORIGINAL
from clara_proxy.tests.proxy.protocols.responses_upstream import (
    SHELL_TOOL,
    USAGE,
    Json,
    ResponsesUpstream,
    call,
    encode_events,
    find_expand_results,
    find_marker_ids,
    iter_events,
    message,
    reasoning,
    result,
)
from clara_proxy.tests.running import CLIENT_KEY, Proxy

EXPAND_TOOL: Json = {"type": "function", "name": TOOL_NAME, "parameters": {}}
EXPAND_CALL = call(TOOL_NAME, {"id": "0" * 16}, "call_expand")


def stored_response(*output: Json) -> Json:
    head = {"id": "resp_1", "object": "response", "created_at": 1.0, "status": "completed", "model": "gpt-4o"}
    return {**head, "output": list(output), "tools": [SHELL_TOOL, EXPAND_TOOL], "usage": USAGE}


@pytest.fixture(scope="module")
def client(proxy: Proxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


def test_stored_response_has_no_hidden_tool_and_calls(client: openai.OpenAI, upstream: FaultyUpstream) -> None:
    stored = stored_response(reasoning("it"), EXPAND_CALL, message("so"))
    upstream.respond_with(http_response(orjson.dumps(stored)))
    response = client.responses.retrieve("resp_1", include=["reasoning.encrypted_content"])
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert [tool.name for tool in response.tools if tool.type == "function"] == ["shell"]
    assert upstream.last_request.request_line.startswith(b"GET /v1/responses/resp_1?include")
    assert upstream.last_request.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]


@pytest.mark.parametrize(
    "output", [(message("so"), call("shell", {}, "c1"), EXPAND_CALL), (message("so"), EXPAND_CALL)]
)
def test_stored_stream_has_no_hidden_calls(
    client: openai.OpenAI, upstream: FaultyUpstream, output: tuple[Json, ...]
) -> None:
    encoded = encode_events(iter_events(stored_response(*output)))
    upstream.respond_with(EVENT_STREAM_HEAD, *map(http_chunk, encoded), b"0\r\n\r\n")
    events: list[Any] = list(client.responses.retrieve("resp_1", stream=True))
    assert TOOL_NAME not in str(events)
    assert events[-1].type == "response.completed"
    visible_types = [item["type"] for item in output if item is not EXPAND_CALL]
    assert [item.type for item in events[-1].response.output] == visible_types
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_input_items_have_no_hidden_calls_and_results(client: openai.OpenAI, upstream: FaultyUpstream) -> None:
    results = [{**result(call_id, "x"), "id": call_id} for call_id in ("c1", "call_expand")]
    items = [message("so"), call("shell", {}, "c1"), results[0], EXPAND_CALL, results[1]]
    body = {"object": "list", "data": items, "first_id": "a", "last_id": "b", "has_more": False}
    upstream.respond_with(http_response(orjson.dumps(body)))
    input_items = client.responses.input_items.list("resp_1").data
    assert [item.type for item in input_items] == ["message", "function_call", "function_call_output"]


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
def test_body_without_hidden_calls_passes_byte_for_byte(proxy: Proxy, upstream: FaultyUpstream, body: bytes) -> None:
    upstream.respond_with(http_response(body, "x-request-id: r1"))
    headers = {"authorization": f"Bearer {CLIENT_KEY}"}
    response = httpx.get(f"{proxy.url}/v1/responses/resp_1", headers=headers, verify=False)
    assert (response.status_code, response.content) == (200, body)
    assert response.headers["x-request-id"] == "r1"


def expand_and_answer(request: Json) -> list[Json]:
    """Call the hidden tool, and answer when it has a result."""
    if not find_expand_results(request["input"]):
        return [call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, "call_expand")]
    return [message(FINAL_TEXT)]


@pytest.fixture
def streamed_id(client: openai.OpenAI, upstream: FaultyUpstream) -> str:
    """The client's id of a streamed reply with a hidden round; the upstream has stored it as `resp_2`."""
    ResponsesUpstream(upstream, expand_and_answer)
    items = [{"role": "user", "content": "why did it fail?"}, call("logs", {}, "c1"), result("c1", ORIGINAL)]
    create: Any = client.responses.create
    events: list[Any] = list(create(model="gpt-4o", input=items, tools=[SHELL_TOOL], stream=True))
    ids = {event.response.id for event in events if hasattr(event, "response")}
    assert ids == {"resp_1"}
    return "resp_1"


@pytest.mark.parametrize("tools", [[SHELL_TOOL], []], ids=["with tools", "without tools"])
def test_streamed_reply_is_continued_by_its_id(
    client: openai.OpenAI, upstream: FaultyUpstream, streamed_id: str, tools: list[Json]
) -> None:
    fields: Any = {"tools": tools} if tools else {}
    create: Any = client.responses.create
    reply = create(model="gpt-4o", input="and then?", previous_response_id=streamed_id, **fields)
    assert upstream.last_request.json["previous_response_id"] == "resp_2"
    assert reply.output_text == FINAL_TEXT


def test_streamed_reply_is_retrieved_by_its_id(
    client: openai.OpenAI, upstream: FaultyUpstream, streamed_id: str
) -> None:
    stored = stored_response(message(FINAL_TEXT)) | {"id": "resp_2"}
    upstream.respond_with(http_response(orjson.dumps(stored)))
    assert client.responses.retrieve(streamed_id).id == streamed_id
    assert upstream.last_request.request_line.startswith(b"GET /v1/responses/resp_2 ")
    assert client.responses.cancel(streamed_id).id == streamed_id
    assert upstream.last_request.request_line.startswith(b"POST /v1/responses/resp_2/cancel ")
    encoded = encode_events(iter_events(stored))
    upstream.respond_with(EVENT_STREAM_HEAD, *map(http_chunk, encoded), b"0\r\n\r\n")
    events: list[Any] = list(client.responses.retrieve(streamed_id, stream=True))
    assert {event.response.id for event in events if hasattr(event, "response")} == {streamed_id}


def test_input_items_and_deletion_use_the_upstreams_id(
    client: openai.OpenAI, upstream: FaultyUpstream, streamed_id: str
) -> None:
    upstream.respond_with(http_response(b'{"object": "list", "data": [], "has_more": false}'))
    assert client.responses.input_items.list(streamed_id, limit=5).data == []
    assert upstream.last_request.request_line.startswith(b"GET /v1/responses/resp_2/input_items?limit=5 ")
    upstream.respond_with(http_response(b'{"id": "resp_2", "object": "response", "deleted": true}'))
    client.responses.delete(streamed_id)
    assert upstream.last_request.request_line.startswith(b"DELETE /v1/responses/resp_2 ")
    upstream.respond_with(http_response(orjson.dumps(stored_response())))
    client.responses.retrieve("resp_9")
    assert upstream.last_request.request_line.startswith(b"GET /v1/responses/resp_9 ")
