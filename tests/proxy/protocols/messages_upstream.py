"""An upstream that speaks Anthropic's Messages API, plain and streamed; a test scripts the replies of its model."""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, http_response
from clara_proxy.tests.proxy.protocols.expand_data import MARKER_ID

Json = dict[str, Any]
Model = Callable[[Json], list[Json]]  # from a request to the blocks of the reply
USAGE: Json = {"input_tokens": 40, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 20, "output_tokens": 5}
ROUND_INPUT_TOKENS = 63  # input tokens of one round, as the ledger counts them
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
WEATHER_TOOL: Json = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
SHELL_TOOL: Json = {"name": "shell", "input_schema": {"type": "object"}}
LOGS_TOOL: Json = {"name": "logs", "input_schema": {"type": "object", "properties": {}}}
IMAGE: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA" * 400}}
BREAKPOINT: Json = {"cache_control": {"type": "ephemeral"}}
CITED: Json = {"citations": {"enabled": True}}
_TEXT_FIELDS = {"text": ("text", "text_delta"), "thinking": ("thinking", "thinking_delta")}


def text(content: str) -> Json:
    """Return a text block."""
    return {"type": "text", "text": content}


def thinking(content: str) -> Json:
    """Return a thinking block with its signature."""
    return {"type": "thinking", "thinking": content, "signature": f"signature of {content}"}


def call(name: str, arguments: Json, call_id: str) -> Json:
    """Return a `tool_use` block."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: object, **fields: Any) -> Json:
    """Return a `tool_result` block."""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def document(content: object, **fields: Any) -> Json:
    """Return a document block of a text, or of blocks."""
    plain: Json = {"type": "text", "media_type": "text/plain", "data": content}
    source = plain if isinstance(content, str) else {"type": "content", "content": content}
    return {"type": "document", "source": source, **fields}


def search_result(*texts: str, **fields: Any) -> Json:
    """Return a `search_result` block."""
    head = {"type": "search_result", "source": "https://x", "title": "a title"}
    return {**head, "content": [*map(text, texts)], **fields}


def user(content: object) -> Json:
    """Return a user message."""
    return {"role": "user", "content": content}


def assistant(*content: Json) -> Json:
    """Return an assistant message."""
    return {"role": "assistant", "content": list(content)}


def build_body(*messages: Json, **fields: Any) -> Json:
    """Return a request body."""
    return {"model": "claude-x", "max_tokens": 9, "messages": list(messages), **fields}


def list_blocks(request: Json, kind: str) -> list[Json]:
    """Return the blocks of one type in a request."""
    contents = [message["content"] for message in request["messages"] if isinstance(message["content"], list)]
    return [block for content in contents for block in content if block["type"] == kind]


def find_marker_ids(request: Json) -> list[str]:
    """Return the ids in the markers of a request."""
    return MARKER_ID.findall(orjson.dumps(request["messages"]).decode())


def find_expand_results(request: Json) -> list[str]:
    """Return the results of the hidden tool in a request."""
    expand_ids = {block["id"] for block in list_blocks(request, "tool_use") if block["name"] == TOOL_NAME}
    return [block["content"] for block in list_blocks(request, "tool_result") if block["tool_use_id"] in expand_ids]


def build_reply(content: list[Json], number: int = 1, stop_reason: str = "") -> Json:
    """Return a whole reply; a `stop_reason` replaces the usual one."""
    has_calls = any(block["type"] == "tool_use" for block in content)
    head = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "claude-x"}
    reason = stop_reason or ("tool_use" if has_calls else "end_turn")
    return {**head, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": USAGE}


def iter_events(reply: Json) -> Iterator[Json]:
    """Yield the events of a streamed reply as Anthropic sends them."""
    start: Json = {**reply, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(reply["content"]):
        yield from ({**event, "index": index} for event in _iter_block_events(block))
    ending = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": USAGE["output_tokens"]}}
    yield {"type": "message_stop"}


def _iter_block_events(block: Json) -> Iterator[Json]:
    kind = block["type"]
    start, deltas = dict(block), list[Json]()
    if kind in _TEXT_FIELDS:
        name, delta = _TEXT_FIELDS[kind]
        content, start[name] = block[name], ""
        deltas = [{"type": delta, name: content[index : index + 5]} for index in range(0, len(content), 5)]
    if kind == "thinking":
        start["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    if kind in ("tool_use", "server_tool_use"):
        start["input"], arguments = {}, orjson.dumps(block["input"]).decode()
        pieces = ["", *(arguments[index : index + 7] for index in range(0, len(arguments), 7))]
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    yield {"type": "content_block_start", "content_block": start}
    yield from ({"type": "content_block_delta", "delta": delta} for delta in deltas)
    yield {"type": "content_block_stop"}


def encode_event(event: Json) -> bytes:
    """Encode an event as Anthropic does: with an event name, and with blanks in the JSON."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event).replace(b'":', b'": '))


def run_model(upstream: FaultyUpstream, model: Model, *, stop_reason: str = "") -> None:
    """Let the upstream reply with the blocks of this model; every reply has an id of its own.

    A `stop_reason` replaces the usual one.
    """

    async def script(connection: Connection) -> None:
        request = connection.request.json
        reply = build_reply(model(request), len(upstream.requests), stop_reason)
        await connection.send(*encode_reply(reply, stream=bool(request.get("stream"))))

    upstream.script = script


def encode_reply(reply: Json, *, stream: bool) -> list[bytes]:
    """Return the HTTP response of a reply, streamed or not, in the pieces that are sent."""
    if not stream:
        return [http_response(orjson.dumps(reply))]
    start, *events = map(encode_event, iter_events(reply))
    return [EVENT_STREAM_HEAD, *map(http_chunk, [start, PING, *events]), b"0\r\n\r\n"]


ReturnContent = Callable[[list[Json]], Any]  # how a client sends the content of a reply back
RETURNS: dict[str, ReturnContent] = {
    "unchanged": lambda content: content,
    "without thinking": lambda content: [block for block in content if block["type"] != "thinking"],
    "as a plain text": lambda content: "".join(block.get("text", "") for block in content),
    "texts joined": lambda content: [
        *(block for block in content if block["type"] == "thinking"),
        text("".join(block.get("text", "") for block in content)),
    ],
    "with a breakpoint": lambda content: [*content[:-1], {**content[-1], "cache_control": {"type": "ephemeral"}}],
    "with fields of the client": lambda content: [
        {**block, "citations": None} if block["type"] == "text" else block for block in content
    ],
}
