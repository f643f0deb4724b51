"""An upstream that speaks chat completions, plain and streamed; a test scripts the replies of its model."""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
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
from clara_proxy.tests.proxy.protocols.expand_data import MARKER_ID

Json = dict[str, Any]
Model = Callable[[Json], Json]  # from a request to the assistant message of the reply
WEATHER_TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def call(name: str, arguments: Json | str, call_id: str) -> Json:
    """Return a tool call."""
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def find_marker_ids(request: Json) -> list[str]:
    """Return the ids in the markers of a request."""
    contents = [str(message.get("content")) for message in request["messages"]]
    return [marker_id for content in contents for marker_id in MARKER_ID.findall(content)]


def find_expand_results(request: Json) -> list[str]:
    """Return the results of the hidden tool in a request."""
    expand_ids = {
        call["id"]
        for message in request["messages"]
        for call in message.get("tool_calls") or ()
        if call["function"]["name"] == TOOL_NAME
    }
    return [message["content"] for message in request["messages"] if message.get("tool_call_id") in expand_ids]


def run_model(upstream: FaultyUpstream, model: Model, *, finish: str = "") -> None:
    """Let the upstream reply with the messages of this model; every reply has an id of its own.

    A `finish` replaces the usual `finish_reason`.
    """

    async def script(connection: Connection) -> None:
        request = connection.request.json
        message = model(request)
        reason = finish or ("tool_calls" if message.get("tool_calls") else "stop")
        reply_id = {"id": f"chatcmpl-{len(upstream.requests)}"}
        if not request.get("stream"):
            choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}]
            await connection.send(http_response(orjson.dumps({**completion(choices=choices), **reply_id})))
            return
        events = [sse_event({**chunk, **reply_id}) for chunk in _split_message(message, reason)]
        if request.get("stream_options") == {"include_usage": True}:
            events.append(sse_event({**completion_chunk("", choices=[], usage=USAGE), **reply_id}))
        await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, [*events, DONE_EVENT]), b"0\r\n\r\n")

    upstream.script = script


def _split_message(message: Json, finish: str) -> Iterator[Json]:
    """Split a message into chunks as OpenAI does: the role first, then the text, then each call in pieces."""
    yield _chunk({"role": "assistant", "content": None})
    text = str(message.get("content") or "")
    for start in range(0, len(text), 5):
        yield completion_chunk(text[start : start + 5])
    calls: list[Json] = message.get("tool_calls") or []
    for index, call in enumerate(calls):
        arguments: str = call["function"]["arguments"]
        yield _chunk(
            {"tool_calls": [{**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}]}
        )
        for start in range(0, len(arguments), 7):
            piece = {"index": index, "function": {"arguments": arguments[start : start + 7]}}
            yield _chunk({"tool_calls": [piece]})
    yield _chunk({}, finish)


def _chunk(delta: Json, finish: str | None = None) -> Json:
    return completion_chunk("", choices=[{"index": 0, "delta": delta, "finish_reason": finish}])
