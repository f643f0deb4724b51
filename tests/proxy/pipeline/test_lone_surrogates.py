"""Half an emoji in a request or a reply: the rest is compressed, expanded and relayed as usual."""

import json
import re
from typing import Any

import pytest

from clara_proxy.tests.faulty import (
    DONE_EVENT,
    EVENT_STREAM_HEAD,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
)
from clara_proxy.tests.running import Proxy, tool_chat

Json = dict[str, Any]
HALF = "half \ud83d"
TOOL: Json = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def build_message(request: Json) -> Json:
    """Call the hidden tool once, then answer; every text ends with half an emoji."""
    marker = re.search(r"clara_expand ([0-9a-f]{16})", json.dumps(request["messages"]))
    if marker is None or any(message.get("tool_call_id") == "call_hidden" for message in request["messages"]):
        return {"content": f"done, {HALF}"}
    function = {"name": "clara_expand", "arguments": json.dumps({"id": marker[1], "query": HALF})}
    return {
        "content": f"one moment, {HALF}",
        "tool_calls": [{"id": "call_hidden", "type": "function", "function": function}],
    }


async def answer(connection: Connection) -> None:
    request = json.loads(connection.request.body)
    message = build_message(request)
    finish_reason = "tool_calls" if "tool_calls" in message else "stop"
    if not request.get("stream"):
        choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}]
        await connection.send(http_response(json.dumps(completion(choices=choices)).encode()))
        return
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", ()))]
    delta = {"content": message["content"], **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    event = b"data: " + json.dumps(completion_chunk("", choices=[choice])).encode() + b"\n\n"
    await connection.send(EVENT_STREAM_HEAD, http_chunk(event), http_chunk(DONE_EVENT), b"0\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_the_hidden_call_is_answered_and_stays_hidden(proxy: Proxy, upstream: FaultyUpstream, stream: bool) -> None:
    upstream.script = answer
    chat = tool_chat(tools=[TOOL], stream=stream)
    chat["messages"][0]["content"] += HALF
    reply = proxy.post(json.dumps(chat).encode(), x_clara_deadline_ms="20000")
    assert reply.status_code == 200
    assert b"clara_expand" not in reply.content
    assert b"one moment, half \\ud83d" in reply.content
    assert b"done, half \\ud83d" in reply.content
    first, second = (json.loads(request.body) for request in upstream.requests)
    assert [tool["function"]["name"] for tool in first["tools"]] == ["weather", "clara_expand"]
    assert first["messages"][0]["content"].endswith(HALF)
    assert len(json.dumps(first)) < len(json.dumps(chat)) / 2
    assert second["messages"][:-2] == first["messages"]
    assert second["messages"][-2]["content"] == f"one moment, {HALF}"
    chat["messages"] += [
        {"role": "assistant", "content": f"one moment, {HALF}done, {HALF}"},
        {"role": "user", "content": "Go on."},
    ]
    upstream.requests.clear()
    assert proxy.post(json.dumps(chat).encode(), x_clara_deadline_ms="20000").status_code == 200
    forwarded = json.loads(upstream.requests[0].body)["messages"]
    assert forwarded[: len(second["messages"])] == second["messages"]  # the hidden call is back in its place
    assert forwarded[len(second["messages"])]["content"] == f"done, {HALF}"
