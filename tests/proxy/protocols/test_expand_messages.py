"""The hidden tool on Anthropic's Messages API: details beyond the contract of `test_expand_contract`."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import anthropic
import pytest

from clara_proxy.proxy.expand.handler import MAX_ROUNDS
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.json_types import is_array, is_object
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, http_response
from clara_proxy.tests.proxy.protocols.expand_api import Client
from clara_proxy.tests.proxy.protocols.expand_apis import MessagesApi
from clara_proxy.tests.proxy.protocols.expand_data import FINAL_TEXT, ORIGINAL, UNKNOWN_ID_TEXT
from clara_proxy.tests.proxy.protocols.messages_upstream import (
    PING,
    RETURNS,
    ROUND_INPUT_TOKENS,
    USAGE,
    Json,
    Model,
    ReturnContent,
    build_reply,
    call,
    encode_event,
    encode_reply,
    find_expand_results,
    find_marker_ids,
    iter_events,
    list_blocks,
    result,
    run_model,
    text,
    thinking,
)
from clara_proxy.tests.running import Proxy

plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def shared_client(proxy: Proxy) -> Iterator[Client]:
    with MessagesApi.create_client(proxy.url) as client:
        yield client


@pytest.fixture
def api(proxy: Proxy, upstream: FaultyUpstream, shared_client: Client) -> MessagesApi:
    return MessagesApi(proxy, upstream, shared_client)


@pytest.fixture
def client(api: MessagesApi) -> Client:
    return api.client


@pytest.fixture
def request_body(api: MessagesApi) -> Json:
    """A request with a tool output that can be compressed."""
    return api.build_request()


def expand_once(*before: Json, then: list[Json]) -> Model:
    """Return a model that replies with `before` and fetches the original back, and then replies with `then`."""

    def model(request: Json) -> list[Json]:
        if find_expand_results(request) or not find_marker_ids(request):
            return then
        return [*before, call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, "toolu_expand")]

    return model


def ask(client: Client, *, stream: bool, **body: Any) -> tuple[Json, list[Json]]:
    """Return the reply and the events of its stream; a streamed request is sent twice, once for each of them."""
    if not stream:
        return client.messages.create(**body).model_dump(exclude_unset=True), []
    events = [event.model_dump(exclude_unset=True) for event in client.messages.create(**body, stream=True)]
    with client.messages.stream(**body) as streaming:
        reply = streaming.get_final_message().model_dump(exclude_unset=True)
    return reply, events


def add_turn(body: Json, content: object, user_content: object = "Sure?") -> None:
    """Add a reply and the user's next message to a request."""
    body["messages"] += [{"role": "assistant", "content": content}, {"role": "user", "content": user_content}]


def remove_usage_and_ids(value: Any) -> Any:
    """Return a reply or events without the fields that differ between two runs: usage and message ids."""
    if is_array(value):
        return [remove_usage_and_ids(item) for item in value]
    if not is_object(value):
        return value
    ignored = ("usage", "id") if value.get("type") == "message" else ("usage",)
    return {name: remove_usage_and_ids(field) for name, field in value.items() if name not in ignored}


REPLIES: dict[str, tuple[list[Json], list[Json]]] = {
    "only the answer": ([], [text(FINAL_TEXT)]),
    "text": ([text("Let me look.")], [text(FINAL_TEXT)]),
    "thinking": ([thinking("hm")], [text(FINAL_TEXT)]),
    "thinking and text in both rounds": (
        [thinking("hm"), text("Let me look.")],
        [thinking("ah"), text(FINAL_TEXT)],
    ),
    "a call of a client's tool": (
        [thinking("hm")],
        [text("One more."), call("weather", {"city": "Rome"}, "toolu_client")],
    ),
    "redacted thinking": ([{"type": "redacted_thinking", "data": "gAAA"}], [text(FINAL_TEXT)]),
    "a search of the provider": (
        [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "disk full"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        ],
        [text(FINAL_TEXT)],
    ),
}


@plain_and_streamed
@pytest.mark.parametrize(("before", "then"), REPLIES.values(), ids=REPLIES)
def test_client_sees_the_same_as_without_a_hidden_call(
    client: Client, upstream: FaultyUpstream, request_body: Json, before: list[Json], then: list[Json], stream: bool
) -> None:
    run_model(upstream, expand_once(*before, then=then))
    reply, events = ask(client, stream=stream, **request_body)
    first, second = (request.json for request in upstream.requests[:2])
    run_model(upstream, lambda _: [*before, *then])
    direct_client = client.with_options(base_url=upstream.url)
    direct_reply, direct_events = ask(direct_client, stream=stream, **request_body)
    assert remove_usage_and_ids(reply) == remove_usage_and_ids(direct_reply)
    assert remove_usage_and_ids(events) == remove_usage_and_ids(direct_events)
    assert reply["id"] in ("msg_1", "msg_3")  # of the first round, in the only or the second request
    assert TOOL_NAME not in str(reply) + str(events)
    expand_call = call(TOOL_NAME, {"id": find_marker_ids(first)[0]}, "toolu_expand")
    assert find_expand_results(second) == [ORIGINAL]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["messages"][-2] == {"role": "assistant", "content": [*before, expand_call]}


@plain_and_streamed
def test_blank_text_is_not_sent_back(
    client: Client, upstream: FaultyUpstream, request_body: Json, stream: bool
) -> None:
    run_model(upstream, expand_once(text("\n\n"), then=[text(FINAL_TEXT)]))
    reply, _ = ask(client, stream=stream, **request_body)
    assert reply["content"] == [text("\n\n"), text(FINAL_TEXT)]
    assert [block["type"] for block in upstream.last_request.json["messages"][-2]["content"]] == ["tool_use"]
    before = upstream.last_request.json["messages"]
    add_turn(request_body, reply["content"])
    client.messages.create(**request_body)
    assert upstream.last_request.json["messages"][: len(before)] == before
    assert upstream.last_request.json["messages"][len(before)]["content"] == [text(FINAL_TEXT)]


@plain_and_streamed
def test_client_gets_the_usage_of_the_last_round(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, request_body: Json, stream: bool
) -> None:
    run_model(upstream, expand_once(then=[text(FINAL_TEXT)]))
    label = f"messages-usage-{stream}"
    reply, _ = ask(client, stream=stream, **request_body, extra_headers={"x-clara-session": label})
    assert reply["usage"] == USAGE
    row = proxy.wait_for_row(label)
    assert row.billed_input == 2 * ROUND_INPUT_TOKENS
    assert (row.billed_output, row.billed_cache_read, row.billed_cache_write) == (10, 40, 6)


MIXED_CONTENT = [
    thinking("both"),
    text("Both."),
    call("weather", {"city": "Rome"}, "toolu_a"),
    call(TOOL_NAME, {"id": ""}, "toolu_expand"),
    call("weather", {"city": "Oslo"}, "toolu_b"),
]


@plain_and_streamed
@pytest.mark.parametrize("keeps_thinking", [True, False], ids=["unchanged", "without thinking"])
def test_mixed_turn_is_reinserted_with_its_thinking(
    client: Client, upstream: FaultyUpstream, request_body: Json, stream: bool, keeps_thinking: bool
) -> None:
    def build_content(request: Json) -> list[Json]:
        expand_call = {**MIXED_CONTENT[3], "input": {"id": find_marker_ids(request)[0]}}
        return [*MIXED_CONTENT[:3], expand_call, MIXED_CONTENT[4]]

    def model(request: Json) -> list[Json]:
        return [text(FINAL_TEXT)] if find_expand_results(request) else build_content(request)

    def drop_thinking(content: list[Json]) -> list[Json]:
        return [block for block in content if keeps_thinking or block["type"] != "thinking"]

    run_model(upstream, model)
    reply, events = ask(client, stream=stream, **request_body)
    assert reply["content"] == [block for block in MIXED_CONTENT if block.get("name") != TOOL_NAME]
    assert reply["stop_reason"] == "tool_use"
    assert TOOL_NAME not in str(events)
    results = [result("toolu_a", "sunny"), result("toolu_b", [text("rain")], is_error=True), text("So?")]
    add_turn(request_body, drop_thinking(reply["content"]), results)
    before = upstream.last_request.json
    reply, _ = ask(client, stream=stream, **request_body)
    assert reply["content"] == [text(FINAL_TEXT)]
    sent = upstream.last_request.json["messages"]
    assert sent[: len(before["messages"])] == before["messages"]
    assert sent[-2]["content"] == drop_thinking(build_content(before))
    assert sent[-1]["content"] == [result("toolu_expand", ORIGINAL), *results]


@plain_and_streamed
def test_text_of_every_round_is_a_block_at_the_round_limit(
    client: Client, upstream: FaultyUpstream, api: MessagesApi, request_body: Json, stream: bool
) -> None:
    def model(request: Json) -> list[Json]:
        if request["tools"] == api.tools:
            return [text(FINAL_TEXT)]
        expand_call = call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, f"toolu_{len(upstream.requests)}")
        return [text("again "), expand_call]

    run_model(upstream, model)
    reply, _ = ask(client, stream=stream, **request_body)
    assert reply["content"] == [*[text("again ")] * (MAX_ROUNDS + 1), text(FINAL_TEXT)]
    assert reply["usage"]["output_tokens"] == USAGE["output_tokens"]


@plain_and_streamed
def test_text_is_the_reply_of_a_model_that_never_stops_calling(
    client: Client, upstream: FaultyUpstream, request_body: Json, stream: bool
) -> None:
    numbers = count()
    run_model(upstream, lambda _: [text("again "), call(TOOL_NAME, {"id": "0123456789ab"}, f"toolu_{next(numbers)}")])
    reply, events = ask(client, stream=stream, **request_body)
    assert reply["content"] == [text("again ")] * (MAX_ROUNDS + 2)
    assert reply["stop_reason"] == "end_turn"
    if stream:
        assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]
    # The last call, which has no result, does not appear in the next turn.
    add_turn(request_body, reply["content"])
    run_model(upstream, lambda _: [text(FINAL_TEXT)])
    assert ask(client, stream=stream, **request_body)[0]["content"] == [text(FINAL_TEXT)]
    call_ids = [block["id"] for block in list_blocks(upstream.last_request.json, "tool_use")]
    assert call_ids == [block["tool_use_id"] for block in list_blocks(upstream.last_request.json, "tool_result")]


@pytest.mark.parametrize("missing_events", [1, 2, 3])
def test_truncated_arguments_in_a_stream_are_answered(
    client: Client, upstream: FaultyUpstream, request_body: Json, missing_events: int
) -> None:
    async def script(connection: Connection) -> None:
        is_first = len(upstream.requests) == 1
        content = [call(TOOL_NAME, {"id": "0123456789ab"}, "toolu_expand")] if is_first else [text(FINAL_TEXT)]
        events = list(iter_events(build_reply(content)))
        events = events[: -3 - missing_events] + events[-3:] if is_first else events
        await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, map(encode_event, events)), b"0\r\n\r\n")

    upstream.script = script
    with client.messages.stream(**request_body) as streaming:
        assert streaming.get_final_message().content[0].to_dict() == text(FINAL_TEXT)
    assert UNKNOWN_ID_TEXT in find_expand_results(upstream.last_request.json)[0]
    assert list_blocks(upstream.last_request.json, "tool_use")[-1]["input"] == {}


ERROR_BODY = b'{\n  "type": "error",\n  "error": {"type": "overloaded_error", "message": "too much"}\n}'


def read_text(client: Client, body: Json, pieces: list[str], *, stream: bool) -> None:
    """Send a request and add the text of a streamed reply to `pieces` as it comes."""
    if not stream:
        client.messages.create(**body)
        return
    with client.messages.stream(**body) as streaming:
        pieces.extend(streaming.text_stream)


@plain_and_streamed
def test_error_of_a_later_round_has_its_status_or_ends_the_stream(
    client: Client, upstream: FaultyUpstream, request_body: Json, stream: bool
) -> None:
    async def script(connection: Connection) -> None:
        request = connection.request.json
        if len(upstream.requests) > 1:
            await connection.send(http_response(ERROR_BODY, status="529 Overloaded"))
            return
        expand_call = call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, "toolu_expand")
        await connection.send(*encode_reply(build_reply([text("Let me look."), expand_call]), stream=stream))

    upstream.script = script
    pieces: list[str] = []
    with pytest.raises(anthropic.APIStatusError, match="too much") as error:
        read_text(client, request_body, pieces, stream=stream)
    assert "".join(pieces) == ("Let me look." if stream else "")
    assert error.value.status_code == (200 if stream else 529)


def test_broken_stream_is_an_api_error(client: Client, upstream: FaultyUpstream, request_body: Json) -> None:
    events = [encode_event(event) for event in iter_events(build_reply([text("Let me look.")]))]
    upstream.stream_events(*events[:4], ending=Connection.reset)
    with (
        pytest.raises(anthropic.APIStatusError, match="the upstream disconnected") as error,
        client.messages.stream(**request_body) as streaming,
    ):
        streaming.until_done()
    body: Any = error.value.body
    assert body["error"]["type"] == "api_error"


def test_unrelated_events_pass_byte_for_byte(proxy: Proxy, upstream: FaultyUpstream, request_body: Json) -> None:
    content = [thinking("hm"), text(FINAL_TEXT), call("weather", {"city": "Rome"}, "toolu_client")]
    run_model(upstream, lambda _: content)
    stream = proxy.post({**request_body, "stream": True}, "/v1/messages").content
    assert stream.count(PING) == 1
    assert stream.replace(PING, b"") == b"".join(map(encode_event, iter_events(build_reply(content))))


def test_count_tokens_includes_the_hidden_rounds(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, request_body: Json
) -> None:
    run_model(upstream, expand_once(thinking("hm"), then=[text(FINAL_TEXT)]))
    reply, _ = ask(client, stream=False, **request_body)
    add_turn(request_body, reply["content"])
    client.messages.create(**request_body)
    sent = upstream.last_request.json
    upstream.respond_with(http_response(b'{"input_tokens":4711}'))
    counted_fields = {name: request_body[name] for name in ("model", "messages", "tools")}
    headers = {"x-clara-session": "messages-count-tokens"}
    assert client.messages.count_tokens(**counted_fields, extra_headers=headers).input_tokens == 4711
    assert upstream.last_request.request_line == b"POST /v1/messages/count_tokens HTTP/1.1"
    assert upstream.last_request.json == {name: sent[name] for name in counted_fields}
    row = proxy.wait_for_row("messages-count-tokens")
    assert (row.protocol, row.outcome, row.cost) == ("count_tokens", "served", 0.0)
    assert (row.tokens_received, row.tokens_sent, row.saved_tokens, row.saved_cost) == (0, 0, 0, None)


@pytest.mark.parametrize("return_content", RETURNS.values(), ids=RETURNS)
def test_hidden_rounds_are_reinserted_however_content_returns(
    client: Client, upstream: FaultyUpstream, request_body: Json, return_content: ReturnContent
) -> None:
    run_model(
        upstream,
        expand_once(thinking("hm"), text("Let me look. "), then=[thinking("ah"), text(FINAL_TEXT)]),
    )
    reply, _ = ask(client, stream=False, **request_body)
    before = upstream.last_request.json["messages"]
    add_turn(request_body, return_content(reply["content"]))
    client.messages.create(**request_body)
    sent = upstream.last_request.json["messages"]
    assert sent[: len(before)] == before
    assistant, user = sent[len(before) :]
    assert user == request_body["messages"][-1]
    assert assistant["role"] == "assistant"
    content: Any = assistant["content"]
    texts = content if isinstance(content, str) else [block.get("text", "") for block in content]
    assert "".join(texts) == FINAL_TEXT
    assert "signature of hm" not in str(assistant)


def test_empty_last_round_does_not_become_an_empty_message(
    client: Client, upstream: FaultyUpstream, request_body: Json
) -> None:
    run_model(upstream, expand_once(text("The disk."), then=[]))
    reply, _ = ask(client, stream=False, **request_body)
    assert reply["content"] == [text("The disk.")]
    before = upstream.last_request.json["messages"]
    add_turn(request_body, reply["content"])
    client.messages.create(**request_body)
    assert upstream.last_request.json["messages"] == [*before, *request_body["messages"][-2:]]
