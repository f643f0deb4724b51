"""Single deviations of real servers and clients over HTTP; `test_deviant_upstream` combines many more in process."""

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.proxy.protocols import chat, responses, sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.json_codec import canonicalize_arguments
from clara_proxy.proxy.protocols.sse import UsageTap
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    USAGE,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.proxy.protocols import chat_upstream
from clara_proxy.tests.proxy.protocols.expand_api import Api, Call, Client, Json
from clara_proxy.tests.proxy.protocols.expand_apis import APIS, ChatApi, MessagesApi, ResponsesApi
from clara_proxy.tests.proxy.protocols.expand_data import FINAL_TEXT, ORIGINAL
from clara_proxy.tests.running import CLIENT_KEY, TIMEOUT, Proxy, short_chat

plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
every_api = pytest.mark.parametrize("api", APIS, indirect=True, ids=[api.name for api in APIS])
on_chat = pytest.mark.parametrize("api", [ChatApi], indirect=True, ids=["chat"])


@pytest.fixture(scope="module")
def clients(proxy: Proxy) -> Iterator[dict[str, Client]]:
    """The real clients, by protocol."""
    clients = {api.name: api.create_client(proxy.url) for api in APIS}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def api(proxy: Proxy, upstream: FaultyUpstream, clients: dict[str, Client], request: pytest.FixtureRequest) -> Api:
    """The protocol under test."""
    api_type: type[Api] = request.param
    return api_type(proxy, upstream, clients[api_type.name])


def refuse_expanded_requests(api: Api, body: bytes, status: str) -> None:
    """Let the upstream refuse every request that holds the original besides the compressed text."""
    respond = api.upstream.script

    async def script(connection: Connection) -> None:
        if api.find_expand_results(connection.request.json):
            await connection.send(http_response(body, status=status))
        else:
            await respond(connection)

    api.upstream.script = script


TOO_LONG_ERRORS = [
    (b'{"error":{"message":"maximum context length is 8192 tokens"}}', "400 Bad Request"),
    (b'{"type":"error","error":{"type":"x","message":"prompt is too long: 2 > 1"}}', "400 Bad Request"),
    (b"<html>too large</html>", "413 Payload Too Large"),
]  # fmt: skip


@every_api
@plain_and_streamed
@pytest.mark.parametrize(("body", "status"), TOO_LONG_ERRORS, ids=["OpenAI", "Anthropic", "413"])
def test_round_that_exceeds_the_context_gets_the_whole_request(
    api: Api, stream: bool, body: bytes, status: str
) -> None:
    api.run_model(api.expand_once("I look. ", then=[FINAL_TEXT]))
    refuse_expanded_requests(api, body, status)
    request = api.build_request()
    reply = api.ask(request, stream=stream)
    assert (reply.text, reply.finish) == ("I look. " + FINAL_TEXT, "stop")
    assert len(api.upstream.requests) == 3
    assert {name: api.upstream.last_request.json[name] for name in request} == request


@on_chat
def test_other_refusal_of_a_round_reaches_the_client(api: Api) -> None:
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    refuse_expanded_requests(api, b'{"error":{"message":"Invalid `signature`"}}', "400 Bad Request")
    with pytest.raises(api.error_type, match="signature"):
        api.ask(api.build_request(), stream=False)
    assert len(api.upstream.requests) == 2


@on_chat
def test_each_round_has_its_own_idempotency_key(api: Api) -> None:
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    headers = {"idempotency-key": "k1", "authorization": f"Bearer {api.key}"}
    api.proxy.post(api.build_request(), api.path, **headers)
    keys = [request.header_values("idempotency-key") for request in api.upstream.requests]
    assert keys == [[b"k1"], [b"k1-2"]]


@every_api
@pytest.mark.parametrize(("stream", "first_is_stream"), [(False, False), (True, False), (True, True)])
def test_rounds_may_be_whole_and_streamed_in_turn(api: Api, stream: bool, first_is_stream: bool) -> None:
    """Each round is written as the opposite of the one before it, whatever the client asked for."""
    api.run_model(api.expand_once("I look. ", then=[FINAL_TEXT]))
    respond = api.upstream.script

    async def script(connection: Connection) -> None:
        is_stream = (len(api.upstream.requests) % 2 == 1) == first_is_stream
        body = orjson.dumps({**connection.request.json, "stream": is_stream})
        connection.request = connection.request._replace(body=body)
        await respond(connection)

    api.upstream.script = script
    reply = api.ask(api.build_request(), stream=stream)
    assert (reply.text, reply.calls, reply.finish) == ("I look. " + FINAL_TEXT, [], "stop")


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "application/octet-stream"])
def test_stream_with_another_content_type_is_relayed_as_it_comes(
    proxy: Proxy, upstream: FaultyUpstream, content_type: str
) -> None:
    header = f"content-type: {content_type}\r\n" if content_type else ""
    head = f"HTTP/1.1 200 OK\r\n{header}transfer-encoding: chunked\r\n\r\n".encode()
    upstream.respond_then_hang(head, http_chunk(sse_event(completion_chunk("hi"))))
    with httpx.stream(
        "POST", f"{proxy.url}/v1/chat/completions", json=short_chat(stream=True), verify=False, timeout=TIMEOUT,
        headers={"authorization": f"Bearer {CLIENT_KEY}"},
    ) as reply:  # fmt: skip
        assert next(reply.iter_bytes()) == sse_event(completion_chunk("hi"))


@pytest.mark.parametrize("request_body", [short_chat(), {**short_chat(), "tools": [chat_upstream.WEATHER_TOOL]}])
def test_blanks_before_a_body_are_relayed_as_they_come(
    proxy: Proxy, upstream: FaultyUpstream, request_body: Json
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    upstream.respond_then_hang(head, http_chunk(b"\n         \n"))
    with httpx.stream(
        "POST", f"{proxy.url}/v1/chat/completions", json=request_body, verify=False, timeout=TIMEOUT,
        headers={"authorization": f"Bearer {CLIENT_KEY}"},
    ) as reply:  # fmt: skip
        assert next(reply.iter_bytes()) == b"\n         \n"
    payload = orjson.dumps(completion())
    upstream.respond_with(head, http_chunk(b" \n"), http_chunk(payload), b"0\r\n\r\n")
    assert orjson.loads(proxy.post(request_body).content) == completion()


def test_json_with_another_content_type_hides_the_call(proxy: Proxy, upstream: FaultyUpstream) -> None:
    call = chat_upstream.call(TOOL_NAME, {"id": "0123456789ab"}, "c9")

    async def script(connection: Connection) -> None:
        message: Json = {"role": "assistant", "content": FINAL_TEXT}
        if len(upstream.requests) == 1:
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        await connection.send(http_response(orjson.dumps(completion(choices=choices)), content_type="text/json"))

    upstream.script = script
    reply = proxy.post({**short_chat(), "tools": [chat_upstream.WEATHER_TOOL]})
    assert reply.json()["choices"][0]["message"] == {"role": "assistant", "content": FINAL_TEXT}


def feed_chat(*deltas: Json, finish: str | None = "tool_calls") -> tuple[list[Json], Any]:
    """Return the visible deltas of a stream, and its filter."""
    reply_filter = chat.ADAPTER.create_reply_filter()
    choices: list[Json] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    raw = b"".join(reply_filter.filter_event(sse_event(completion_chunk("", choices=[choice]))) for choice in choices)
    raw += reply_filter.filter_event(DONE_EVENT) + reply_filter.end_round()
    visible = [sse.parse_data(event) for event in sse.EventSplitter().feed(raw)]
    return [event["choices"][0]["delta"] for event in visible if event], reply_filter


def piece(**function: Any) -> Json:
    return {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}


def test_name_that_turns_out_to_be_another_is_shown_with_all_its_pieces() -> None:
    deltas, reply_filter = feed_chat(piece(name="clara_"), piece(name="export"), piece(arguments="{}"))
    assert deltas[0]["tool_calls"][0]["function"]["name"] == "clara_export"
    assert "".join(d["tool_calls"][0]["function"].get("arguments", "") for d in deltas if d) == "{}"
    assert not reply_filter.awaits_expansion


def test_name_that_never_comes_is_shown_at_the_end() -> None:
    deltas, _ = feed_chat(piece(name="", arguments="{}"), finish=None)
    assert deltas[-1]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("finish", ["length", "content_filter", "MAX_TOKENS"])
def test_call_that_was_cut_off_is_not_answered(finish: str) -> None:
    deltas, reply_filter = feed_chat(piece(name=TOOL_NAME, arguments='{"id":'), finish=finish)
    assert (deltas, reply_filter.awaits_expansion, reply_filter.expand_calls) == ([{}], False, [])


def test_pieces_of_reasoning_are_sent_back_as_one() -> None:
    def detail(**fields: Any) -> Json:
        return {
            "reasoning_details": [{"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0, **fields}]
        }

    expand = piece(name=TOOL_NAME, arguments='{"id":"0123456789ab"}')
    _, reply_filter = feed_chat(detail(text="Let"), detail(text=" me see."), detail(signature="Et8B"), expand)
    message, _ = reply_filter.start_next_round(["found"])
    whole = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0, "text": "Let me see."}
    assert message["reasoning_details"] == [{**whole, "signature": "Et8B"}]


def test_parts_of_content_follow_the_text_of_earlier_rounds() -> None:
    reply_filter = chat.ADAPTER.create_reply_filter()
    call = chat_upstream.call(TOOL_NAME, {"id": "0123456789ab"}, "c1")
    first: Json = {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}
    reply_filter.filter_reply({"choices": [{"message": first, "finish_reason": "tool_calls"}]})
    reply_filter.start_next_round(["found"])
    parts: list[Json] = [{"type": "thinking", "thinking": []}, {"type": "text", "text": FINAL_TEXT}]
    last = {"choices": [{"message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]}
    content = reply_filter.filter_reply(last)["choices"][0]["message"]["content"]
    assert content == [{"type": "text", "text": "Let me look."}, *parts]


@pytest.mark.parametrize("choices", [{}, {"choices": None}, {"choices": []}], ids=str)
def test_usage_event_without_choices_is_removed(choices: Json) -> None:
    tap = UsageTap(strip=True)
    assert tap.feed(sse_event({"id": "c", "usage": USAGE, **choices})) == b""
    assert tap.usage == USAGE


def test_stream_of_several_responses_has_one_id() -> None:
    reply_filter = responses.ADAPTER.create_reply_filter()
    item = {"type": "function_call", "id": "f", "call_id": "k", "name": TOOL_NAME, "arguments": '{"id":"0"}'}
    visible = b""
    outputs: list[list[Json]] = [[item], [{"type": "message", "id": "m", "content": []}]]
    for number, output in enumerate(outputs):
        head: Json = {"id": f"resp_{number}", "output": []}
        for name, response in (("created", head), ("completed", {**head, "output": output})):
            visible += reply_filter.filter_event(sse_event({"type": f"response.{name}", "response": response}))
        visible += reply_filter.end_round()
        if reply_filter.awaits_expansion:
            reply_filter.start_next_round(["found"])
    events = [sse.parse_data(event) for event in sse.EventSplitter().feed(visible)]
    assert [event["response"]["id"] for event in events] == ["resp_0", "resp_0"]
    record = reply_filter.build_hidden_record([])
    assert record is not None
    assert (record["ids"][-1], record["reply_id"]) == ("resp_0", "resp_1")


REWRITTEN_ARGUMENTS = ['{"a": 1.0, "b": [1, "é"]}', '{"b":[1,"\\u00e9"],"a":1}', ' {"b": [1.0, "é"], "a": 1}']


def test_arguments_are_recognised_however_a_client_writes_them() -> None:
    assert len(set(map(canonicalize_arguments, REWRITTEN_ARGUMENTS))) == 1
    assert canonicalize_arguments('{"a":') == '{"a":'


@pytest.mark.parametrize("api", [ChatApi, ResponsesApi], indirect=True, ids=["chat", "responses"])
@pytest.mark.parametrize("arguments", ['{"city":"Bonn","days":3}', '{"days": 3, "city": "Bonn"}'])
def test_hidden_call_returns_beside_rewritten_arguments(api: Api, arguments: str) -> None:
    api.run_model(lambda request: [Call("weather", '{"city": "Bonn", "days": 3}', "w1"), api.expand(request)])
    request = api.build_request()
    reply = api.ask(request, stream=False)
    for item in reply.turn:
        for call in item.get("tool_calls") or ([item] if "call_id" in item else []):
            call.get("function", call)["arguments"] = arguments
    api.add_turn(request, reply, results={"w1": "sunny"})
    api.run_model(lambda _: [FINAL_TEXT])
    api.ask(request, stream=False)
    assert api.find_expand_results(api.upstream.last_request.json) == [ORIGINAL]


FORCED_CHOICES: list[tuple[type[Api], Json]] = [
    (ChatApi, {"type": "function", "function": {"name": "weather"}}),
    (ResponsesApi, {"type": "function", "name": "weather"}),
    (MessagesApi, {"type": "tool", "name": "weather"}),
]


@pytest.mark.parametrize(("api", "choice"), FORCED_CHOICES, indirect=["api"], ids=["chat", "responses", "messages"])
def test_markers_do_not_name_the_tool_if_another_is_forced(api: Api, choice: Json) -> None:
    api.run_model(lambda _: [FINAL_TEXT])
    api.proxy.post(api.build_request(tool_choice=choice), api.path, authorization=f"Bearer {api.key}")
    sent = api.upstream.last_request.json
    assert api.tool_name(sent["tools"][-1]) == TOOL_NAME  # it is a part of the cached prompt
    assert api.find_marker_ids(sent) == []
    assert ORIGINAL not in str(api.items(sent))


@pytest.mark.parametrize("api", [MessagesApi], indirect=True)
def test_tool_is_not_offered_in_a_thread(api: Api) -> None:
    api.run_model(lambda _: [FINAL_TEXT])
    request = api.build_request(thread={"type": "create"})
    api.proxy.post(request, api.path, authorization=f"Bearer {api.key}")
    assert api.upstream.last_request.json["tools"] == api.tools
    assert api.find_marker_ids(api.upstream.last_request.json) == []


@on_chat
def test_query_that_matches_nothing_says_what_is_there(api: Api) -> None:
    def model(request: Json) -> list[Any]:
        return [FINAL_TEXT] if api.find_expand_results(request) else [api.expand(request, query="zebra")]

    api.run_model(model)
    api.ask(api.build_request(), stream=False)
    (result,) = api.find_expand_results(api.upstream.last_request.json)
    assert result.startswith("No line matches the query")
    assert f"{len(ORIGINAL.splitlines())} lines" in result
    assert ORIGINAL.splitlines()[0] in result
