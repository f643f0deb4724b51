"""The real clients people use, with and without the proxy before the upstream: they must not see a difference."""

import base64
import subprocess
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from shutil import which
from typing import Any

import anthropic
import openai
import orjson
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from clara_proxy.config import offline
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
Client = Any  # its overloads have no use for arguments that come out of a table
BEARER = f"Bearer {CLIENT_KEY}".encode()
TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALLS: list[Json] = [
    {"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
    for city in ("Köln", "北京")
]
TOLD = {"x-clara-mode", "x-clara-engine", "x-clara-tokens-before", "x-clara-tokens-after", "x-clara-tokens-saved"} | {
    "x-clara-ratio", "x-clara-latency-ms", "x-clara-skipped", "x-clara-request-id", "server-timing",
}  # fmt: skip


def piece(index: int = 0, finish: str | None = None, **said: Any) -> Json:
    """Return one chunk with this delta."""
    more = {name: said.pop(name) for name in ("logprobs",) if name in said}
    return completion_chunk("", choices=[{"index": index, "delta": said, "finish_reason": finish, **more}])


def whole(*messages: Json, finish: str = "stop", **more: Any) -> Json:
    """Return an answer with these choices."""
    choices = [
        {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": None, **more}
        for index, message in enumerate(messages)
    ]
    return completion(choices=choices, system_fingerprint="fp_1", service_tier="default")


def streamed_calls() -> list[Json]:
    """Return the chunks of two calls that come in turns."""
    opened = [{**call, "index": at, "function": {**call["function"], "arguments": ""}} for at, call in enumerate(CALLS)]
    chunks = [piece(role="assistant", content=None), *(piece(tool_calls=[one]) for one in opened)]
    for half in (slice(0, 7), slice(7, None)):
        for at, call in enumerate(CALLS):
            part = {"index": at, "function": {"arguments": call["function"]["arguments"][half]}}
            chunks.append(piece(tool_calls=[part]))
    return [*chunks, piece(finish="tool_calls")]


PROBS = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}], "refusal": None}
PICTURE = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
# What is asked, what is answered, and what is answered piece by piece.
CASES: dict[str, tuple[Json, Json, list[Json]]] = {
    "words": (
        {},
        whole({"content": "naïve 漢字 😀"}),
        [completion_chunk("naïve "), completion_chunk("漢字 😀"), piece(finish="stop")],
    ),
    "tools": (
        {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
        whole({"content": None, "tool_calls": CALLS}, finish="tool_calls"),
        streamed_calls(),
    ),
    "a picture": (
        {"messages": [{"role": "user", "content": PICTURE}]},
        whole({"content": "a cat"}),
        [completion_chunk("a cat")],
    ),
    "two answers": (
        {"n": 2, "temperature": 0.7},
        whole({"content": "one"}, {"content": "two"}),
        [piece(0, content="o"), piece(1, content="two"), piece(0, content="ne"), piece(1, "stop"), piece(0, "length")],
    ),
    "a format": (
        {"response_format": SCHEMA},
        whole({"content": '{"a": "\\"usage\\": null"}'}),
        [completion_chunk('{"usage": null}')],
    ),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 1},
        whole({"content": "a"}, logprobs=PROBS),
        [piece(content="a", logprobs=PROBS), piece(finish="stop", logprobs=None)],
    ),
    "unknown fields": (
        {"extra_body": {"x_unknown": {"b": [1, None], "a": 1.5}}},
        {**whole({"content": "a", "reasoning_content": "because", "x": [1]}), "x_groq": {"id": "1"}},
        [piece(content="a", reasoning_content="because", x=[1]), {**piece(finish="stop"), "x_groq": {"usage": USAGE}}],
    ),
    "a refusal": ({}, whole({"content": None, "refusal": "no"}), [piece(refusal="no"), piece(finish="content_filter")]),
}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def answer_with(upstream: FaultyUpstream, plain: Json, chunks: list[Json]) -> None:
    """Answer as OpenAI does, the usage of a stream included when it is asked for."""

    async def script(wire: Connection) -> None:
        request = wire.request.json
        if not request.get("stream"):
            await wire.send(http_response(orjson.dumps(plain)))
            return
        asked = request.get("stream_options") == {"include_usage": True}
        null: Json = {"usage": None} if asked else {}
        events = [sse_event({**one, **null}) for one in chunks]
        events += [sse_event(completion_chunk("", choices=[], usage=USAGE))] if asked else []
        await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, [*events, DONE_EVENT]), b"0\r\n\r\n")

    upstream.script = script


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def direct(upstream: FaultyUpstream) -> Iterator[Client]:
    with openai.OpenAI(base_url=f"{upstream.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(proxy: Proxy) -> AsyncIterator[Client]:
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


def seen(made: Any) -> Json:
    """Return what a client can see of an object: what was said, what was not, and what nobody knows."""
    return dict(made.model_dump(exclude_unset=True))


@EVERY_CASE
def test_the_openai_client_sees_no_difference(
    client: Client, direct: Client, upstream: FaultyUpstream, name: str
) -> None:
    asked, plain, chunks = CASES[name]
    answer_with(upstream, plain, chunks)
    request: Any = {**short_chat(), **asked}
    with_it, without = (one.chat.completions.create(**request) for one in (client, direct))
    assert seen(with_it) == seen(without)
    sent = upstream.requests[0].body
    assert (remove_expand_tool(sent) if "tools" in asked else sent) == upstream.requests[1].body
    both: list[Json] = [{}, {"stream_options": {"include_usage": True}}]
    for options in both:
        with_it, without = (
            [seen(one) for one in who.chat.completions.create(**{**request, **options}, stream=True)]
            for who in (client, direct)
        )
        assert with_it == without
        assert len(without) == len(chunks) + len(options)


@EVERY_CASE
async def test_the_async_openai_client_sees_what_was_answered(
    async_client: Client, upstream: FaultyUpstream, name: str
) -> None:
    asked, plain, chunks = CASES[name]
    answer_with(upstream, plain, chunks)
    request: Any = {**short_chat(), **asked}
    assert seen(await async_client.chat.completions.create(**request)) == plain
    stream: Any = await async_client.chat.completions.create(**request, stream=True)
    assert [seen(one) async for one in stream] == chunks


def test_parallel_calls_that_are_streamed_come_together(client: Client, upstream: FaultyUpstream) -> None:
    answer_with(upstream, {}, streamed_calls())
    request: Any = {**short_chat(), "tools": [TOOL]}
    with client.chat.completions.stream(**request) as stream:
        stream.until_done()
        made: list[Any] = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in made] == [call["function"]["arguments"] for call in CALLS]


def test_what_was_done_stands_in_the_headers(client: Client, upstream: FaultyUpstream) -> None:
    request: Any = tool_chat()
    raw = client.chat.completions.with_raw_response.create(**request)
    assert set(raw.headers) >= TOLD
    assert raw.parse().choices[0].message.content == "the disk is full"
    assert int(raw.headers["x-clara-tokens-saved"]) > 1000
    streamed = client.chat.completions.with_raw_response.create(**request, stream=True)
    assert set(streamed.headers) >= TOLD
    assert streamed.headers["x-clara-tokens-saved"] == raw.headers["x-clara-tokens-saved"]
    assert "".join(one.choices[0].delta.content or "" for one in streamed.parse()) == "the disk is full"
    with client.chat.completions.with_streaming_response.create(**request) as unread:
        assert set(unread.headers) >= TOLD
        assert orjson.loads(unread.read())["id"] == "c-1"


def test_a_conversation_grows_and_what_was_forwarded_stays(
    client: Client, direct: Client, upstream: FaultyUpstream
) -> None:
    request: Any = tool_chat()
    forwarded: list[list[Json]] = []
    for question in ("and then?", "what else?", "who did it?"):
        with_it = client.chat.completions.create(**request)
        forwarded.append(upstream.last_request.json["messages"])
        assert seen(with_it) == seen(direct.chat.completions.create(**request))
        request["messages"] += [{"role": "assistant", "content": "this"}, {"role": "user", "content": question}]
    assert len(forwarded[0][2]["content"]) < len(LOG_TEXT) / 2
    assert forwarded[1][:3] == forwarded[0]
    assert forwarded[2][:5] == forwarded[1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", openai.BadRequestError),
        ("401 Unauthorized", openai.AuthenticationError),
        ("404 Not Found", openai.NotFoundError),
        ("429 Too Many Requests", openai.RateLimitError),
        ("500 Internal Server Error", openai.InternalServerError),
    ],
)
def test_errors_are_what_the_upstream_says(
    client: Client, upstream: FaultyUpstream, status: str, kind: type[openai.APIStatusError]
) -> None:
    said = {"error": {"message": "no", "type": "x", "param": "messages", "code": "y"}}
    upstream.respond_with(http_response(orjson.dumps(said), "retry-after: 7", "x-request-id: r-1", status=status))
    for stream in (False, True):
        request: Any = short_chat(stream=stream)
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**request)
        assert caught.value.body == said["error"]
        assert caught.value.request_id == "r-1"
        assert caught.value.response.headers["retry-after"] == "7"


def test_an_error_of_ours_is_one_the_client_knows(client: Client) -> None:
    request: Any = short_chat(extra_headers={"x-clara-ratio": "much"})
    with pytest.raises(openai.BadRequestError, match="x-clara-ratio") as caught:
        client.chat.completions.create(**request)
    assert caught.value.param == "x-clara-ratio"


def test_the_other_endpoints_are_there_too(client: Client, upstream: FaultyUpstream) -> None:
    upstream.respond_with(
        http_response(orjson.dumps({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]}))
    )
    assert [model.id for model in client.models.list()] == ["gpt-4o"]
    floats = base64.b64encode(b"\x00\x00\x80?" * 2).decode()
    vectors = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": floats}]}
    upstream.respond_with(http_response(orjson.dumps({**vectors, "usage": {"prompt_tokens": 1, "total_tokens": 1}})))
    assert client.embeddings.create(model="m", input="hi").data[0].embedding == [1.0, 1.0]
    assert upstream.last_request.request_line == b"POST /v1/embeddings HTTP/1.1"
    upstream.respond_with(http_response(orjson.dumps({"id": "r", "object": "response", "output": []})))
    assert client.responses.create(model="gpt-4o", input="hi").id == "r"
    upstream.respond_with(http_response(b"a,b\n", content_type="text/csv"))
    assert client.files.content("file-1").read() == b"a,b\n"


@pytest.fixture(scope="module")
def litellm() -> Any:
    offline.use_bundled_files()
    module: Any = import_module("litellm")
    module.suppress_debug_info = True
    return module


def through_litellm(proxy: Proxy, **more: Any) -> Json:
    return {
        "api_base": f"{proxy.url}/v1",
        "api_key": CLIENT_KEY,
        "_skip_mcp_handler": True,
        **tool_chat(**more),
        "model": "openai/gpt-4o",
    }


def test_litellm_is_a_client(litellm: Any, proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = litellm.completion(**through_litellm(proxy))
    assert answer.choices[0].message.content == "the disk is full"
    assert answer.usage.prompt_tokens == 40
    assert len(upstream.last_request.json["messages"][2]["content"]) < len(LOG_TEXT) / 2
    pieces = list(litellm.completion(**through_litellm(proxy, stream=True)))
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == "the disk is full"


async def test_litellm_is_an_async_client(litellm: Any, proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer_with(upstream, whole({"content": None, "tool_calls": CALLS}, finish="tool_calls"), streamed_calls())
    answer = await litellm.acompletion(**through_litellm(proxy, tools=[TOOL]))
    assert [call.function.arguments for call in answer.choices[0].message.tool_calls] == [
        call["function"]["arguments"] for call in CALLS
    ]
    stream = await litellm.acompletion(**through_litellm(proxy, tools=[TOOL], stream=True))
    rebuilt = litellm.stream_chunk_builder([one async for one in stream])
    await litellm.close_litellm_async_clients()
    assert [call.id for call in rebuilt.choices[0].message.tool_calls] == [call["id"] for call in CALLS]


def test_langchain_is_a_client(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer_with(upstream, whole({"content": None, "tool_calls": CALLS}, finish="tool_calls"), streamed_calls())
    model: Any = ChatOpenAI(model="gpt-4o", base_url=f"{proxy.url}/v1", api_key=lambda: CLIENT_KEY, max_retries=0)
    bound = model.bind_tools([TOOL])
    asked = [HumanMessage("how is the weather?")]
    wanted = [{"city": "Köln"}, {"city": "北京"}]
    assert [call["args"] for call in bound.invoke(asked).tool_calls] == wanted
    gathered: Any = None
    for one in bound.stream(asked):
        gathered = one if gathered is None else gathered + one
    assert [call["args"] for call in gathered.tool_calls] == wanted
    answer_with(
        upstream, whole({"content": "fine"}), [completion_chunk("fi"), completion_chunk("ne"), piece(finish="stop")]
    )
    assert model.invoke(asked).content == "fine"
    assert "".join(one.content for one in model.stream(asked)) == "fine"


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


def test_the_anthropic_client_is_passed_through(proxy: Proxy, upstream: FaultyUpstream) -> None:
    request: Any = {"model": "claude-of-tomorrow", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    made: Client = anthropic.Anthropic(base_url=proxy.url, api_key=CLIENT_KEY, max_retries=0)
    with made as client:
        upstream.respond_with(http_response(orjson.dumps(MESSAGE)))
        raw = client.messages.with_raw_response.create(**request)
        answer: Any = raw.parse()
        assert answer.content[0].text == "hello"
        assert raw.headers["x-clara-mode"] == "extract"
        assert upstream.last_request.request_line == b"POST /v1/messages HTTP/1.1"
        assert upstream.last_request.header_values("x-api-key") + upstream.last_request.header_values(
            "authorization"
        ) in ([CLIENT_KEY.encode()], [BEARER])
        assert upstream.last_request.header_values("anthropic-version")
        upstream.stream_events(*(b"event: " + one["type"].encode() + b"\n" + sse_event(one) for one in MESSAGE_EVENTS))
        with client.messages.stream(**request) as stream:
            assert "".join(stream.text_stream) == "hello"
            assert stream.get_final_message().usage.output_tokens == 2
        upstream.respond_with(
            http_response(b'{"type":"error","error":{"type":"x","message":"no"}}', status="529 Overloaded")
        )
        with pytest.raises(anthropic.APIStatusError, match="no") as caught:
            client.messages.create(**request)
        assert caught.value.status_code == 529


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_stream_as_it_came(proxy: Proxy, upstream: FaultyUpstream) -> None:
    body = orjson.dumps(short_chat(stream=True)).decode()
    for extra in ([], ["--http1.0"]):
        command = [
            "curl",
            "-sSN",
            *extra,
            "-H",
            "content-type: application/json",
            "-H",
            f"authorization: Bearer {CLIENT_KEY}",
        ]
        url = f"{proxy.url}/v1/chat/completions"
        done = subprocess.run([*command, "-d", body, url], capture_output=True, check=True, timeout=60)
        assert (
            done.stdout
            == sse_event(completion_chunk("the disk")) + sse_event(completion_chunk(" is full")) + DONE_EVENT
        )
