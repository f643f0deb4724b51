"""The adapter of Anthropic's Messages API: turns, counted texts, fingerprints, errors and routes."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.transcript import ToolCall
from clara_proxy.proxy.protocols import messages
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.inprocess import InProcessProxy, whole_request_settings
from clara_proxy.tests.proxy.protocols.messages_upstream import (
    BREAKPOINT,
    CITED,
    IMAGE,
    SHELL_TOOL,
    Json,
    assistant,
    build_body,
    call,
    document,
    result,
    search_result,
    text,
    thinking,
    user,
)
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy


@pytest.fixture(scope="module")
def plain_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    """A proxy without HTTP that does not offer the hidden tool."""
    with InProcessProxy(tmp_path_factory.mktemp("plain"), adapter=messages.ADAPTER) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def offering_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    """A proxy without HTTP that offers the hidden tool."""
    with InProcessProxy(tmp_path_factory.mktemp("offering"), adapter=messages.ADAPTER, offer_tool=True) as proxy:
        yield proxy


# Turns and texts


def test_message_is_split_into_results_text_and_documents() -> None:
    content = [
        result("t1", "one"),
        result("t2", [text("two"), IMAGE, document("three"), search_result("four", "five")], is_error=True),
        document("six", title="A title", context="a context"),
        text("What is it?"),
        search_result("seven", **BREAKPOINT),
    ]
    turns = messages.build_turns([assistant(thinking("hm"), call("shell", {"command": "make"}, "t2")), user(content)])
    assert [(turn.role, [slot.text for slot in turn.slots]) for turn in turns] == [
        ("assistant", []),
        ("tool", ["one"]),
        ("tool", ["two", "three", "four", "five"]),
        ("user", ["What is it?"]),
        ("tool", ["six"]),
        ("tool", ["seven"]),
    ]
    assert [turn.call for turn in turns] == [
        None,
        None,
        ToolCall("shell", '{"command":"make"}'),
        None,
        ToolCall("document", '{"title":"A title","context":"a context"}'),
        ToolCall("search_result", '{"title":"a title"}'),
    ]


def test_path_of_a_slot_leads_to_its_text() -> None:
    items = [
        user("plain"),
        assistant(text("said"), thinking("not to be touched"), call("shell", {}, "t1")),
        user(
            [
                result("t1", [text("a"), document([text("b"), IMAGE, text("c")])]),
                document("d"),
                search_result("e"),
            ]
        ),
    ]
    body: Any = build_body(*items)
    slots = [slot for turn in messages.build_turns(items) for slot in turn.slots]
    for slot in slots:
        value: Any = body
        for key in slot.path:
            value = value[key]
        assert value == slot.text
    assert [slot.text for slot in slots] == ["plain", "said", "a", "b", "c", "d", "e"]


WEB_SEARCH_RESULT = {"type": "x", "encrypted_content": LOG_TEXT}
UNTOUCHED_MESSAGES: dict[str, Json] = {
    "thinking": assistant(thinking(LOG_TEXT), {"type": "redacted_thinking", "data": LOG_TEXT}),
    "arguments": assistant(call("shell", {"command": LOG_TEXT}, "t1")),
    "documents with citations": user([document(LOG_TEXT, **CITED), search_result(LOG_TEXT, **CITED)]),
    "documents with citations in a result": user([result("t1", [document(LOG_TEXT, **CITED)])]),
    "files and URLs": user(
        [
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": LOG_TEXT}},
            {"type": "document", "source": {"type": "url", "url": LOG_TEXT}},
            {"type": "document", "source": {"type": "file", "file_id": LOG_TEXT}},
            {"type": "container_upload", "file_id": LOG_TEXT},
        ]
    ),
    "images": user([IMAGE, {"type": "image", "source": {"type": "url", "url": LOG_TEXT}}]),
    "tools of the provider": assistant(
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": LOG_TEXT}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [WEB_SEARCH_RESULT]},
        {"type": "code_execution_tool_result", "tool_use_id": "s2", "content": {"stdout": LOG_TEXT, "return_code": 0}},
        {"type": "mcp_tool_result", "tool_use_id": "s3", "content": [text(LOG_TEXT)]},
    ),
    "unknown blocks": user([{"type": "hologram", "text": LOG_TEXT, "content": [text(LOG_TEXT)]}]),
    "system messages": {"role": "system", "content": LOG_TEXT},
}


@pytest.mark.parametrize("message", UNTOUCHED_MESSAGES.values(), ids=UNTOUCHED_MESSAGES)
def test_message_without_passages_is_forwarded_unchanged(plain_proxy: InProcessProxy, message: Json) -> None:
    system = [{**text(LOG_TEXT), **BREAKPOINT}]
    body = orjson.dumps(build_body(user("go on"), message, user("and?"), system=system, tools=[SHELL_TOOL]))
    sent = plain_proxy.send(body, {"x-clara-ratio": "10"})
    assert sent.forwarded is body
    assert sent.row.tokens_received > 1000  # the system prompt is counted


def test_system_prompt_and_breakpoints_are_unchanged(plain_proxy: InProcessProxy) -> None:
    items = [user("why?"), assistant(call("shell", {}, "t1")), user([result("t1", LOG_TEXT, **BREAKPOINT)])]
    system = [{**text(LOG_TEXT), **BREAKPOINT}]
    body = build_body(*items, system=system, thinking={"type": "enabled", "budget_tokens": 1024})
    sent = orjson.loads(plain_proxy.send(orjson.dumps(body)).forwarded)
    block = sent["messages"][2]["content"][0]
    assert block["content"] != LOG_TEXT
    block["content"] = LOG_TEXT
    assert sent == body


def test_images_and_signatures_are_not_counted() -> None:
    items = [
        user([IMAGE, text("What is it?")]),
        assistant(thinking("hm"), {"type": "redacted_thinking", "data": "A"}),
    ]
    assert messages.list_counted_texts(build_body(), items) == ["What is it?", "hm"]


def test_results_and_arguments_are_counted() -> None:
    search = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u", "title": "found"}]}
    items = [
        assistant(call("shell", {"command": "ls"}, "t1"), search),
        user([result("t1", [text("a"), document("b")])]),
    ]
    texts = messages.list_counted_texts(build_body(system="be brief", tools=[SHELL_TOOL]), items)
    tools = orjson.dumps(SHELL_TOOL).decode()
    assert texts == ["shell", '{"command":"ls"}', "found", "a", "b", "be brief", tools]


def test_documents_are_compressed_for_the_question_of_their_message(plain_proxy: InProcessProxy) -> None:
    log = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1\n" + LOG_TEXT.replace("INFO", "NOTE")
    body = build_body(user([document(log), text("Which disk was full?")]))
    sent = orjson.loads(plain_proxy.send(orjson.dumps(body)).forwarded)
    compressed, question = sent["messages"][0]["content"]
    assert len(compressed["source"]["data"]) < len(log) / 2
    assert "disk full on /dev/sda1" in compressed["source"]["data"]
    assert question == text("Which disk was full?")


# Fingerprints

fingerprint = messages.ADAPTER.fingerprint_element
MESSAGE = assistant(
    thinking("hm"), text("Look."), text(" There."), call("shell", {"b": "2", "a": ["1", {"c": 1.0}]}, "t1")
)
BLOCKS: list[Json] = MESSAGE["content"]
EQUAL_MESSAGES: dict[str, Json] = {
    "unchanged": MESSAGE,
    "without thinking": assistant(*BLOCKS[1:]),
    "texts joined": assistant(text("Look. There."), BLOCKS[3]),
    "with a breakpoint": assistant(*BLOCKS[:3], {**BLOCKS[3], **BREAKPOINT}),
    "with fields of the client": assistant({**BLOCKS[1], "citations": None}, *BLOCKS[2:]),
    "arguments in another order": assistant(*BLOCKS[:3], call("shell", {"a": ["1", {"c": 1}], "b": "2"}, "t1")),
}
DIFFERENT_MESSAGES: dict[str, Json] = {
    "another role": {**MESSAGE, "role": "user"},
    "another text": assistant(text("Look."), *BLOCKS[3:]),
    "another call": assistant(*BLOCKS[:3], call("shell", {"b": "2", "a": ["1"]}, "t2")),
    "other arguments": assistant(*BLOCKS[:3], call("shell", {"b": "3", "a": ["1", {"c": 1.0}]}, "t1")),
    "another image": assistant(*BLOCKS, {"type": "image", "source": {"type": "url", "url": "u"}}),
}


@pytest.mark.parametrize("message", EQUAL_MESSAGES.values(), ids=EQUAL_MESSAGES)
def test_fingerprint_is_the_same_however_a_client_stores_a_message(message: Json) -> None:
    assert fingerprint(message) == fingerprint(MESSAGE)


@pytest.mark.parametrize("message", DIFFERENT_MESSAGES.values(), ids=DIFFERENT_MESSAGES)
def test_fingerprint_differs_for_another_message(message: Json) -> None:
    assert fingerprint(message) != fingerprint(MESSAGE)


def test_fingerprint_is_the_same_for_a_text_and_its_block() -> None:
    assert fingerprint(user("hi")) == fingerprint(user([text("hi")]))
    assert fingerprint(user([result("t1", "out")])) == fingerprint(user([result("t1", [text("out")], is_error=False)]))
    assert fingerprint(user([IMAGE])) == fingerprint(user([{**IMAGE, **BREAKPOINT}]))
    assert fingerprint({"role": "system", "content": "now"}) is None


# Unexpected shapes

NAMES = ["type", "text", "content", "source", "data", "citations", "id", "tool_use_id", "input", "name", "enabled"]
TYPES = ["text", "tool_use", "tool_result", "document", "search_result", "thinking", "image", "new"]
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "text", "user", LOG_TEXT[:2000]])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def unexpected_message(draw: st.DrawFn) -> Json:
    """A message of a known role with any content."""
    fields = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4)
    content = draw(json_values)
    if draw(st.booleans()):
        content = [{**draw(fields), "type": draw(st.sampled_from(TYPES))} for _ in range(draw(st.integers(0, 3)))]
    return {"role": draw(st.sampled_from(["user", "assistant", "system"])), "content": content}


unexpected_messages = st.one_of(
    json_values, st.lists(st.one_of(unexpected_message(), unexpected_message(), json_values), max_size=4)
)


@settings(whole_request_settings, max_examples=150)
@given(unexpected_messages, json_values, json_values)
def test_unexpected_body_is_read_or_left_alone(
    offering_proxy: InProcessProxy, items: Any, system: Any, tools: Any
) -> None:
    body: Json = {"model": "claude-x", "messages": items, "system": system, "tools": tools}
    encoded = orjson.dumps(body)
    sent = offering_proxy.send(encoded, {"x-clara-min-tokens": "60"})
    assert accounting.find_inconsistencies(sent.row) == []
    if messages.ADAPTER.read_conversation(body) is None:
        assert sent.forwarded is encoded
        assert sent.context.skip_counts == {"unknown-shape": 1}
        return
    assert "failed" not in sent.context.skip_counts
    for message in body["messages"]:
        assert (fingerprint(message) is None) == (message["role"] == "system")


@pytest.mark.parametrize("tools", [[{"name": ["x"]}], [{"name": {}}], [1, None], ["clara_expand"]])
def test_unexpected_tools_are_unchanged(offering_proxy: InProcessProxy, tools: list[Any]) -> None:
    sent = offering_proxy.send(orjson.dumps(build_body(user("hi"), tools=tools)))
    assert orjson.loads(sent.forwarded)["tools"][:-1] == tools


# Errors and routes


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, "invalid_request_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_the_shape_of_anthropics_api(status: int, error_type: str) -> None:
    error = ApiError(status, "no", code="x", param="y")
    body = {"type": "error", "error": {"type": error_type, "message": "no", "param": "y", "code": "x"}}
    assert orjson.loads(messages.ADAPTER.encode_error(error)) == body
    assert messages.ADAPTER.encode_error_event(error) == b"event: error\ndata: " + orjson.dumps(body) + b"\n\n"


def test_invalid_header_is_an_error_of_anthropics_client(proxy: Proxy) -> None:
    with (
        anthropic.Anthropic(base_url=proxy.url, api_key=CLIENT_KEY, max_retries=0) as client,
        pytest.raises(anthropic.BadRequestError, match="x-clara-ratio") as error,
    ):
        client.messages.create(**build_body(user("hi")), extra_headers={"x-clara-ratio": "none"})
    body: Any = error.value.body
    assert body["error"]["type"] == "invalid_request_error"


def test_unreachable_upstream_is_an_error_in_the_shape_of_the_route(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with running.run_proxy(upstream.url, tmp_path, anthropic_base_url="http://127.0.0.1:9/v1") as proxy:
        for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"):
            response = proxy.post(build_body(user("hi")), path)
            body = response.json()
            assert (path, response.status_code, body["type"], body["error"]["type"]) == (
                path, 502, "error", "api_error",
            )  # fmt: skip
        response = proxy.post({}, "/v1/files", x_clara_ratio="none")
        assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    "header", [{"x-api-key": CLIENT_KEY}, {"authorization": f"Bearer {CLIENT_KEY}"}], ids=["key", "bearer"]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_either_header_with_a_key_is_forwarded(
    proxy: Proxy, upstream: FaultyUpstream, header: dict[str, str], path: str
) -> None:
    version = {"anthropic-version": "2023-06-01", "anthropic-beta": "some-beta"}
    body = build_tool_body()
    httpx.post(f"{proxy.url}{path}?beta=true", json=body, headers={**header, **version}, verify=False)
    assert upstream.last_request.request_line == f"POST {path}?beta=true HTTP/1.1".encode()
    headers = {name.decode(): value.decode() for name, value in upstream.last_request.headers}
    assert {name: headers[name] for name in ("x-api-key", "authorization") if name in headers} == header
    assert {name: headers[name] for name in version} == version
    assert not [name for name in headers if name.startswith("x-clara")]


def test_count_tokens_gets_the_body_that_would_be_sent(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(build_tool_body(), "/v1/messages")
    body = upstream.last_request.body
    response = proxy.post(build_tool_body(), "/v1/messages/count_tokens")
    assert upstream.last_request.body == body
    assert int(response.headers["x-clara-tokens-saved"]) > 1000  # the savings of the request that was counted
    row = proxy.wait_for_row(response)
    assert (row.tokens_received, row.tokens_sent, row.saved_tokens, row.passages) == (0, 0, 0, "[]")


def build_tool_body() -> Json:
    """Return a request with a tool result that can be compressed."""
    items = [user("why?"), assistant(call("shell", {}, "t1")), user([result("t1", LOG_TEXT)])]
    return build_body(*items, tools=[SHELL_TOOL])
