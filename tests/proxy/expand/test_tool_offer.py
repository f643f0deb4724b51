"""The hidden tool is offered only where one more function cannot turn a 200 into a 400."""

from typing import Any

import orjson
import pytest

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import Connection, FaultyUpstream, completion, http_response
from clara_proxy.tests.running import LOG_TEXT, Proxy, short_chat, tool_chat

Json = dict[str, Any]


def function_tools(count: int) -> list[Json]:
    return [
        {"type": "function", "function": {"name": f"tool_{number}", "parameters": {"type": "object"}}}
        for number in range(count)
    ]


def responses_request(count: int) -> Json:
    tools: list[Json] = [{"type": "function", "name": f"tool_{number}", "parameters": {}} for number in range(count)]
    return {"model": "gpt-5", "input": "hi", "tools": tools}


def messages_request(count: int) -> Json:
    tools = [{"name": f"tool_{number}", "input_schema": {"type": "object"}} for number in range(count)]
    return {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": tools}


def chat_request(count: int) -> Json:
    return short_chat(tools=function_tools(count))


@pytest.mark.parametrize(
    ("path", "build", "limit"),
    [
        ("/v1/chat/completions", chat_request, 128),
        ("/v1/responses", responses_request, 128),
        ("/v1/messages", messages_request, None),  # Anthropic has no such limit
    ],
)
def test_a_full_list_of_tools_is_not_extended(
    proxy: Proxy, upstream: FaultyUpstream, path: str, build: Any, limit: int | None
) -> None:
    for count in (127, 128, 140):
        proxy.post(build(count), path)
        expected = count if limit is not None and count >= limit else count + 1
        assert len(upstream.last_request.json["tools"]) == expected


def test_an_upstream_with_a_limit_accepts_a_compressed_request(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: Connection) -> None:
        is_allowed = len(connection.request.json["tools"]) <= 128
        error = {"error": {"message": "Expected an array with maximum length 128", "code": "array_above_max_length"}}
        status = "200 OK" if is_allowed else "400 Bad Request"
        await connection.send(http_response(orjson.dumps(completion() if is_allowed else error), status=status))

    upstream.script = script
    assert proxy.post(tool_chat(tools=function_tools(128))).status_code == 200
    sent = upstream.last_request.body
    assert TOOL_NAME.encode() not in sent
    assert len(sent) < len(LOG_TEXT) * 2


@pytest.mark.parametrize(
    "tools",
    [
        [{"googleSearch": {}}],
        [{"google_search": {}}, {"url_context": {}}],
        [{"type": "google_search"}],
        [{"type": "web_search", "web_search": {"enable": True, "search_engine": "search_pro"}}],
        [{"type": "web_search"}, {"type": "retrieval", "retrieval": {"knowledge_id": "1"}}],
        [{"type": "builtin_function", "function": {"name": "$web_search"}}],
        [{"type": "function", "function": {"name": "$web_search"}}],
        [{"type": "mcp", "server_label": "docs", "server_url": "https://example.com"}],
        [{"type": "browser_search"}, {"type": "code_interpreter"}],
        [{"codeExecution": {}}],
        ["web_search"],
        [None],
    ],
)
def test_no_function_is_added_beside_tools_of_the_provider(
    proxy: Proxy, upstream: FaultyUpstream, tools: list[object]
) -> None:
    proxy.post(short_chat(tools=tools))
    assert upstream.last_request.json["tools"] == tools


@pytest.mark.parametrize(
    "tools",
    [
        function_tools(1),
        [{"function": {"name": "weather"}}],
        [{"type": "custom", "custom": {"name": "shell"}}],
        [{"type": "web_search"}, *function_tools(1)],
    ],
)
def test_a_client_with_functions_gets_the_tool(proxy: Proxy, upstream: FaultyUpstream, tools: list[Json]) -> None:
    proxy.post(short_chat(tools=tools))
    assert upstream.last_request.json["tools"][:-1] == tools
    assert upstream.last_request.json["tools"][-1]["function"]["name"] == TOOL_NAME
