"""Real clients get the same results with and without the proxy in front of the upstream."""

import base64
import subprocess
from collections.abc import AsyncIterator, Iterator
from shutil import which
from typing import Any

import anthropic
import openai
import orjson
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from clara_proxy.proxy.http import litellm_providers
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    EVENT_STREAM_HEAD,
    USAGE,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, remove_expand_tool, short_chat, tool_chat

Json = dict[str, Any]
Client = Any  # the overloads of the clients reject arguments that come from a table
BEARER = f"Bearer {CLIENT_KEY}".encode()
WEATHER_TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
ABSENT: Any = object()
CALLS: list[Json] = [
    {"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
    for city in ("Köln", "北京")
]
PROXY_HEADERS = {
    *("x-clara-mode", "x-clara-engine", "x-clara-skipped", "x-clara-latency-ms", "x-clara-request-id"),
    *("x-clara-tokens-before", "x-clara-tokens-after", "x-clara-tokens-saved", "x-clara-ratio", "server-timing"),
}


def chunk(index: int = 0, finish: str | None = None, logprobs: Any = ABSENT, **delta: Any) -> Json:
    """Return a chunk with this delta."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return completion_chunk("", choices=[choice if logprobs is ABSENT else {**choice, "logprobs": logprobs}])


def build_reply(*messages: Json, finish: str = "stop", **fields: Any) -> Json:
    """Return a reply with one choice for each message; `fields` are added to every choice."""
    ending = {"finish_reason": finish, "logprobs": None, **fields}
    choices = [
        {"index": index, "message": {"role": "assistant", **message}, **ending}
        for index, message in enumerate(messages)
    ]
    return completion(choices=choices, system_fingerprint="fp_1", service_tier="default")


def build_call_chunks() -> list[Json]:
    """Return the chunks of two parallel calls, whose pieces alternate."""
    chunks = [chunk(role="assistant", content=None)]
    for index, call in enumerate(CALLS):
        start = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        chunks.append(chunk(tool_calls=[start]))
    for half in (slice(0, 7), slice(7, None)):
        for index, call in enumerate(CALLS):
            piece = {"index": index, "function": {"arguments": call["function"]["arguments"][half]}}
            chunks.append(chunk(tool_calls=[piece]))
    return [*chunks, chunk(finish="tool_calls")]


LOGPROBS = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}], "refusal": None}
IMAGE_CONTENT = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
# The fields of a request, its reply, and the chunks of its streamed reply.
CASES: dict[str, tuple[Json, Json, list[Json]]] = {
    "text": (
        {},
        build_reply({"content": "naïve 漢字 😀"}),
        [completion_chunk("naïve "), completion_chunk("漢字 😀"), chunk(finish="stop")],
    ),
    "tools": (
        {"tools": [WEATHER_TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
        build_reply({"content": None, "tool_calls": CALLS}, finish="tool_calls"),
        build_call_chunks(),
    ),
    "an image": (
        {"messages": [{"role": "user", "content": IMAGE_CONTENT}]},
        build_reply({"content": "a cat"}),
        [completion_chunk("a cat")],
    ),
    "two choices": (
        {"n": 2, "temperature": 0.7},
        build_reply({"content": "one"}, {"content": "two"}),
        [chunk(0, content="o"), chunk(1, content="two"), chunk(0, content="ne"), chunk(1, "stop"), chunk(0, "length")],
    ),
    "a format": (
        {"response_format": SCHEMA},
        build_reply({"content": '{"a": "\\"usage\\": null"}'}),
        [completion_chunk('{"usage": null}')],
    ),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 1},
        build_reply({"content": "a"}, logprobs=LOGPROBS),
        [chunk(content="a", logprobs=LOGPROBS), chunk(finish="stop", logprobs=None)],
    ),
    "unknown fields": (
        {"extra_body": {"x_unknown": {"b": [1, None], "a": 1.5}}},
        {**build_reply({"content": "a", "reasoning_content": "because", "x": [1]}), "x_groq": {"id": "1"}},
        [chunk(content="a", reasoning_content="because", x=[1]), {**chunk(finish="stop"), "x_groq": {"usage": USAGE}}],
    ),
    "a refusal": (
        {},
        build_reply({"content": None, "refusal": "no"}),
        [chunk(refusal="no"), chunk(finish="content_filter")],
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def reply_with(upstream: FaultyUpstream, reply: Json, chunks: list[Json]) -> None:
    """Let the upstream reply, streamed or not, with the usage of a stream if the request asks for it."""

    async def script(connection: Connection) -> None:
        request = connection.request.json
        if not request.get("stream"):
            await connection.send(http_response(orjson.dumps(reply)))
            return
        includes_usage = request.get("stream_options") == {"include_usage": True}
        no_usage: Json = {"usage": None} if includes_usage else {}
        events = [sse_event({**chunk, **no_usage}) for chunk in chunks]
        if includes_usage:
            events.append(sse_event(completion_chunk("", choices=[], usage=USAGE)))
        await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, [*events, DONE_EVENT]), b"0\r\n\r\n")

    upstream.script = script


@pytest.fixture(scope="module")
def client(proxy: Proxy) -> Iterator[Client]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def direct_client(client: Client, upstream: FaultyUpstream) -> Client:
    return client.with_options(base_url=f"{upstream.url}/v1")


@pytest.fixture
async def async_client(proxy: Proxy) -> AsyncIterator[Client]:
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


def dump(response: Any) -> Json:
    """Return the fields of a response that were received, unknown ones included."""
    return dict(response.model_dump(exclude_unset=True))


def join_text(chunks: Any) -> str:
    """Return the text of a streamed reply."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@every_case
def test_openai_client_gets_the_same_as_without_the_proxy(
    client: Client, direct_client: Client, upstream: FaultyUpstream, name: str
) -> None:
    fields, reply, chunks = CASES[name]
    reply_with(upstream, reply, chunks)
    request: Any = {**short_chat(), **fields}
    proxied, direct = (dump(user.chat.completions.create(**request)) for user in (client, direct_client))
    assert proxied == direct
    sent = upstream.requests[0].body
    assert (remove_expand_tool(sent) if "tools" in fields else sent) == upstream.requests[1].body
    both: list[Json] = [{}, {"stream_options": {"include_usage": True}}]
    for options in both:
        proxied_chunks, direct_chunks = (
            [dump(chunk) for chunk in user.chat.completions.create(**{**request, **options}, stream=True)]
            for user in (client, direct_client)
        )
        assert proxied_chunks == direct_chunks
        assert len(direct_chunks) == len(chunks) + len(options)


@every_case
async def test_async_openai_client_gets_the_reply(async_client: Client, upstream: FaultyUpstream, name: str) -> None:
    fields, reply, chunks = CASES[name]
    reply_with(upstream, reply, chunks)
    request: Any = {**short_chat(), **fields}
    assert dump(await async_client.chat.completions.create(**request)) == reply
    stream: Any = await async_client.chat.completions.create(**request, stream=True)
    assert [dump(chunk) async for chunk in stream] == chunks


def test_streamed_parallel_calls_are_complete(client: Client, upstream: FaultyUpstream) -> None:
    reply_with(upstream, {}, build_call_chunks())
    request: Any = {**short_chat(), "tools": [WEATHER_TOOL]}
    with client.chat.completions.stream(**request) as stream:
        stream.until_done()
        calls: list[Any] = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == [call["function"]["arguments"] for call in CALLS]


@pytest.mark.usefixtures("upstream")
def test_response_headers_describe_the_compression(client: Client) -> None:
    request: Any = tool_chat()
    plain = client.chat.completions.with_raw_response.create(**request)
    assert set(plain.headers) >= PROXY_HEADERS
    assert plain.parse().choices[0].message.content == "the disk is full"
    assert int(plain.headers["x-clara-tokens-saved"]) > 1000
    streamed = client.chat.completions.with_raw_response.create(**request, stream=True)
    assert set(streamed.headers) >= PROXY_HEADERS
    assert streamed.headers["x-clara-tokens-saved"] == plain.headers["x-clara-tokens-saved"]
    assert join_text(streamed.parse()) == "the disk is full"
    with client.chat.completions.with_streaming_response.create(**request) as unread:
        assert set(unread.headers) >= PROXY_HEADERS
        assert orjson.loads(unread.read())["id"] == "c-1"


def test_forwarded_messages_stay_as_a_conversation_grows(
    client: Client, direct_client: Client, upstream: FaultyUpstream
) -> None:
    request: Any = tool_chat()
    forwarded: list[list[Json]] = []
    for question in ("and then?", "what else?", "who did it?"):
        reply = client.chat.completions.create(**request)
        forwarded.append(upstream.last_request.json["messages"])
        assert dump(reply) == dump(direct_client.chat.completions.create(**request))
        request["messages"] += [{"role": "assistant", "content": "this"}, {"role": "user", "content": question}]
    assert len(forwarded[0][2]["content"]) < len(LOG_TEXT) / 2
    assert forwarded[1][:3] == forwarded[0]
    assert forwarded[2][:5] == forwarded[1]


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        ("400 Bad Request", openai.BadRequestError),
        ("401 Unauthorized", openai.AuthenticationError),
        ("404 Not Found", openai.NotFoundError),
        ("429 Too Many Requests", openai.RateLimitError),
        ("500 Internal Server Error", openai.InternalServerError),
    ],
)
def test_errors_of_the_upstream_are_passed_on(
    client: Client, upstream: FaultyUpstream, status: str, error_type: type[openai.APIStatusError]
) -> None:
    body = {"error": {"message": "no", "type": "x", "param": "messages", "code": "y"}}
    upstream.respond_with(http_response(orjson.dumps(body), "retry-after: 7", "x-request-id: r-1", status=status))
    for stream in (False, True):
        request: Any = short_chat(stream=stream)
        with pytest.raises(error_type) as error:
            client.chat.completions.create(**request)
        assert error.value.body == body["error"]
        assert error.value.request_id == "r-1"
        assert error.value.response.headers["retry-after"] == "7"


def test_error_of_the_proxy_is_an_error_of_the_client(client: Client) -> None:
    request: Any = short_chat(extra_headers={"x-clara-ratio": "much"})
    with pytest.raises(openai.BadRequestError, match="x-clara-ratio") as error:
        client.chat.completions.create(**request)
    assert error.value.param == "x-clara-ratio"


def test_other_endpoints_are_passed_through(client: Client, upstream: FaultyUpstream) -> None:
    models = {"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]}
    upstream.respond_with(http_response(orjson.dumps(models)))
    assert [model.id for model in client.models.list()] == ["gpt-4o"]
    floats = base64.b64encode(b"\x00\x00\x80?" * 2).decode()
    data = [{"object": "embedding", "index": 0, "embedding": floats}]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    embeddings = {"object": "list", "model": "m", "data": data, "usage": usage}
    upstream.respond_with(http_response(orjson.dumps(embeddings)))
    assert client.embeddings.create(model="m", input="hi").data[0].embedding == [1.0, 1.0]
    assert upstream.last_request.request_line == b"POST /v1/embeddings HTTP/1.1"
    upstream.respond_with(http_response(orjson.dumps({"id": "r", "object": "response", "output": []})))
    assert client.responses.create(model="gpt-4o", input="hi").id == "r"
    upstream.respond_with(http_response(b"a,b\n", content_type="text/csv"))
    assert client.files.content("file-1").read() == b"a,b\n"


@pytest.fixture(scope="module")
def litellm() -> Any:
    return litellm_providers.import_litellm()


def litellm_arguments(proxy: Proxy, **fields: Any) -> Json:
    """Return the arguments of a call of litellm through the proxy."""
    options = {"api_base": f"{proxy.url}/v1", "api_key": CLIENT_KEY, "_skip_mcp_handler": True}
    return {**options, **tool_chat(**fields), "model": "openai/gpt-4o"}


def test_litellm_works_through_the_proxy(litellm: Any, proxy: Proxy, upstream: FaultyUpstream) -> None:
    reply = litellm.completion(**litellm_arguments(proxy))
    assert reply.choices[0].message.content == "the disk is full"
    assert reply.usage.prompt_tokens == 40
    assert len(upstream.last_request.json["messages"][2]["content"]) < len(LOG_TEXT) / 2
    assert join_text(litellm.completion(**litellm_arguments(proxy, stream=True))) == "the disk is full"


async def test_async_litellm_works_through_the_proxy(litellm: Any, proxy: Proxy, upstream: FaultyUpstream) -> None:
    reply_with(upstream, build_reply({"content": None, "tool_calls": CALLS}, finish="tool_calls"), build_call_chunks())
    reply = await litellm.acompletion(**litellm_arguments(proxy, tools=[WEATHER_TOOL]))
    assert [call.function.arguments for call in reply.choices[0].message.tool_calls] == [
        call["function"]["arguments"] for call in CALLS
    ]
    stream = await litellm.acompletion(**litellm_arguments(proxy, tools=[WEATHER_TOOL], stream=True))
    joined = litellm.stream_chunk_builder([chunk async for chunk in stream])
    await litellm.close_litellm_async_clients()
    assert [call.id for call in joined.choices[0].message.tool_calls] == [call["id"] for call in CALLS]


def test_langchain_works_through_the_proxy(proxy: Proxy, upstream: FaultyUpstream) -> None:
    reply_with(upstream, build_reply({"content": None, "tool_calls": CALLS}, finish="tool_calls"), build_call_chunks())
    model: Any = ChatOpenAI(model="gpt-4o", base_url=f"{proxy.url}/v1", api_key=lambda: CLIENT_KEY, max_retries=0)
    model_with_tools = model.bind_tools([WEATHER_TOOL])
    messages = [HumanMessage("how is the weather?")]
    arguments = [{"city": "Köln"}, {"city": "北京"}]
    assert [call["args"] for call in model_with_tools.invoke(messages).tool_calls] == arguments
    joined: Any = None
    for piece in model_with_tools.stream(messages):
        joined = piece if joined is None else joined + piece
    assert [call["args"] for call in joined.tool_calls] == arguments
    chunks = [completion_chunk("fi"), completion_chunk("ne"), chunk(finish="stop")]
    reply_with(upstream, build_reply({"content": "fine"}), chunks)
    assert model.invoke(messages).content == "fine"
    assert "".join(piece.content for piece in model.stream(messages)) == "fine"


MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-of-tomorrow", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip
MESSAGE_EVENTS: list[Json] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    },
    {"type": "message_stop"},
]


def test_anthropic_client_works_through_the_proxy(proxy: Proxy, upstream: FaultyUpstream) -> None:
    request: Any = {"model": "claude-of-tomorrow", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    created: Client = anthropic.Anthropic(base_url=proxy.url, api_key=CLIENT_KEY, max_retries=0)
    with created as client:
        upstream.respond_with(http_response(orjson.dumps(MESSAGE)))
        response = client.messages.with_raw_response.create(**request)
        message: Any = response.parse()
        assert message.content[0].text == "hello"
        assert response.headers["x-clara-mode"] == "extract"
        sent = upstream.last_request
        assert sent.request_line == b"POST /v1/messages HTTP/1.1"
        keys = [*sent.header_values("x-api-key"), *sent.header_values("authorization")]
        assert keys in ([CLIENT_KEY.encode()], [BEARER])
        assert sent.header_values("anthropic-version")
        events = [b"event: " + event["type"].encode() + b"\n" + sse_event(event) for event in MESSAGE_EVENTS]
        upstream.stream_events(*events)
        with client.messages.stream(**request) as stream:
            assert "".join(stream.text_stream) == "hello"
            assert stream.get_final_message().usage.output_tokens == 2
        body = b'{"type":"error","error":{"type":"x","message":"no"}}'
        upstream.respond_with(http_response(body, status="529 Overloaded"))
        with pytest.raises(anthropic.APIStatusError, match="no") as error:
            client.messages.create(**request)
        assert error.value.status_code == 529


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
@pytest.mark.usefixtures("upstream")
def test_curl_gets_a_stream_byte_for_byte(proxy: Proxy) -> None:
    headers = ["-H", "content-type: application/json", "-H", f"authorization: Bearer {CLIENT_KEY}"]
    body = orjson.dumps(short_chat(stream=True)).decode()
    expected = sse_event(completion_chunk("the disk")) + sse_event(completion_chunk(" is full")) + DONE_EVENT
    for options in ([], ["--http1.0"]):
        command = ["curl", "-sSN", *options, *headers, "-d", body, f"{proxy.url}/v1/chat/completions"]
        result = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert result.stdout == expected
