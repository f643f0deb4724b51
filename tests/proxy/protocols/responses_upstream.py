"""An upstream that speaks the Responses API as strictly as OpenAI's; a test scripts the replies of its model.

It numbers its events, stores its replies, and rejects the same requests as OpenAI: a call without its output, an output
without its call, and a reasoning item without the item that follows it, or the other way round.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import orjson

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, http_response
from clara_proxy.tests.proxy.protocols.expand_data import MARKER_ID

Json = dict[str, Any]
Model = Callable[[Json], list[Json]]  # from a request, with its whole context in `input`, to the output's items
USAGE: Json = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 45,
}
WEATHER_TOOL: Json = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
SHELL_TOOL: Json = {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False}
IMAGE: Json = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
FILE: Json = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}
UNTOUCHED_ITEMS: list[Json] = [  # items that the proxy never changes
    {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "x"}], "encrypted_content": "gAAA"},
    {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "x"}},
    {"type": "mcp_call", "id": "mcp", "name": "x", "arguments": "{}", "output": "x"},
    {"type": "image_generation_call", "id": "ig", "result": "AAAA"},
    {"type": "code_interpreter_call", "id": "ci", "code": "x", "outputs": [{"type": "logs", "logs": "x"}]},
    {"type": "item_reference", "id": "msg_1"},
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "whatever_comes_next", "text": "x"},
]
_OUTPUT_TYPES = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_ECHOED_FIELDS = ("tools", "tool_choice", "previous_response_id", "store", "text", "parallel_tool_calls", "metadata")


def message(text: str) -> Json:
    """Return a message item."""
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    head = {"type": "message", "id": _item_id("msg", text), "role": "assistant", "status": "completed"}
    return {**head, "content": [part]}


def call(name: str, arguments: Json | str, call_id: str, **fields: Any) -> Json:
    """Return a function call item."""
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    head = {"type": "function_call", "id": _item_id("fc", call_id), "call_id": call_id, "name": name}
    return {**head, "arguments": text, "status": "completed", **fields}


def result(call_id: str, output: object) -> Json:
    """Return the output item of a function call."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def reasoning(topic: str, **fields: Any) -> Json:
    """Return a reasoning item."""
    summary = [{"type": "summary_text", "text": f"Thinking about {topic}."}]
    head = {"type": "reasoning", "id": _item_id("rs", topic), "summary": summary}
    return {**head, "encrypted_content": f"gAAA{topic}=", **fields}


def web_search(query: str) -> Json:
    """Return the item of a search that the provider ran itself."""
    action = {"type": "search", "query": query}
    return {"type": "web_search_call", "id": _item_id("ws", query), "status": "completed", "action": action}


def find_marker_ids(request: Json) -> list[str]:
    """Return the ids in the markers of a request's tool outputs."""
    return MARKER_ID.findall(str([item.get("output") for item in request["input"]]))


def find_expand_results(items: list[Json]) -> list[str]:
    """Return the results of the hidden tool in a list of items."""
    expand_ids = {item["call_id"] for item in items if item.get("name") == TOOL_NAME}
    outputs = [item for item in items if str(item.get("type")).endswith("_output")]
    return [item["output"] for item in outputs if item["call_id"] in expand_ids]


class ResponsesUpstream:
    """The state of an upstream that stores its replies; `model` and `reply_fields` may change at any time."""

    def __init__(self, upstream: FaultyUpstream, model: Model) -> None:
        """Script `upstream` with the replies of `model`."""
        self.model = model
        self.reply_fields: Json = {}  # fields that replace the usual ones of a reply
        self.trailer = b""  # bytes after the last event of a stream
        self.contexts: list[list[Json]] = []  # the whole context of each request
        self._stored_contexts: dict[str, list[Json]] = {}
        self._items: dict[str, Json] = {}
        self._following_ids: dict[str, str] = {}  # from the id of a reasoning item to the id of the item after it
        upstream.script = self._respond

    async def _respond(self, connection: Connection) -> None:
        request = connection.request.json
        new_items = [
            self._items.get(str(item.get("id")), item) if _is_reference(item) else item
            for item in _list_items(request["input"])
        ]
        context = [*self._stored_contexts.get(str(request.get("previous_response_id")), ()), *new_items]
        self.contexts.append(context)
        if message := self._find_error(context):
            error = {"message": message, "type": "invalid_request_error", "param": "input", "code": None}
            await connection.send(http_response(orjson.dumps({"error": error}), status="400 Bad Request"))
            return
        output = self.model({**request, "input": context})
        reply = _build_reply(request, f"resp_{len(self.contexts)}", output) | self.reply_fields
        self._store(reply, [*context, *output])
        if not request.get("stream"):
            await connection.send(http_response(orjson.dumps(reply)))
            return
        trailer = [http_chunk(self.trailer)] if self.trailer else []
        await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, encode_events(iter_events(reply))), *trailer)
        await connection.send(b"0\r\n\r\n")

    def _store(self, reply: Json, context: list[Json]) -> None:
        if reply["store"] is False:
            return
        self._stored_contexts[reply["id"]] = context
        self._items |= {item["id"]: item for item in reply["output"]}
        for item, following in pairwise(reply["output"]):
            if item["type"] == "reasoning":
                self._following_ids[item["id"]] = following["id"]

    def _find_error(self, context: list[Json]) -> str:
        types = [*_OUTPUT_TYPES, *_OUTPUT_TYPES.values()]
        call_ids = {kind: {item.get("call_id") for item in context if item.get("type") == kind} for kind in types}
        for call_type, output_type in _OUTPUT_TYPES.items():
            if missing := call_ids[call_type] - call_ids[output_type]:
                return f"No tool output found for function call {min(map(str, missing))}."
            if missing := call_ids[output_type] - call_ids[call_type]:
                return f"No tool call found for function call output with call_id {min(map(str, missing))}."
        ids = [str(item.get("id")) for item in context]
        for item_id, following_id in pairwise([*ids, ""]):
            if item_id in self._following_ids and following_id != self._following_ids[item_id]:
                return f"Item '{item_id}' of type 'reasoning' was provided without its required following item."
        for orphan in (set(self._following_ids.values()) & set(ids)) - {self._following_ids.get(key) for key in ids}:
            return f"Item '{orphan}' was provided without its required 'reasoning' item."
        return ""


def iter_events(reply: Json) -> Iterator[Json]:
    """Yield the events of a streamed reply as OpenAI sends them, without their numbers."""
    start: Json = {**reply, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": start}
    yield {"type": "response.in_progress", "response": start}
    for index, item in enumerate(reply["output"]):
        for event in _iter_item_events(item):
            yield {**event, "output_index": index}
    yield {"type": f"response.{reply['status']}", "response": reply}


def encode_events(events: Iterator[Json]) -> Iterator[bytes]:
    """Number and encode events as OpenAI does: with an event name, and with blanks that orjson does not write."""
    for number, event in enumerate(events):
        data = orjson.dumps({**event, "sequence_number": number})
        yield b"event: " + event["type"].encode() + b"\ndata: " + data.replace(b'{"type":', b'{ "type": ', 1) + b"\n\n"


def _iter_item_events(item: Json) -> Iterator[Json]:
    item_id = {"item_id": item["id"]}
    unfinished = {**item, "status": "in_progress"} if "status" in item else item
    if item["type"] == "message":
        yield {"type": "response.output_item.added", "item": {**unfinished, "content": []}}
        yield from _iter_text_events({**item_id, "content_index": 0}, item["content"][0])
    elif item["type"] == "function_call":
        yield {"type": "response.output_item.added", "item": {**unfinished, "arguments": ""}}
        for piece in _split_text(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **item_id, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **item_id, "arguments": item["arguments"]}
    elif item["type"] == "reasoning":
        yield {"type": "response.output_item.added", "item": {**item, "summary": []}}
        text = item["summary"][0]["text"]
        for piece in _split_text(text):
            yield {"type": "response.reasoning_summary_text.delta", **item_id, "summary_index": 0, "delta": piece}
        yield {"type": "response.reasoning_summary_text.done", **item_id, "summary_index": 0, "text": text}
    else:
        yield {"type": "response.output_item.added", "item": unfinished}
    yield {"type": "response.output_item.done", "item": item}


def _iter_text_events(position: Json, part: Json) -> Iterator[Json]:
    yield {"type": "response.content_part.added", **position, "part": {**part, "text": ""}}
    for piece in _split_text(part["text"]):
        yield {"type": "response.output_text.delta", **position, "delta": piece, "logprobs": [], "obfuscation": "x1Yz"}
    yield {"type": "response.output_text.done", **position, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **position, "part": part}


def _build_reply(request: Json, reply_id: str, output: list[Json]) -> Json:
    echo: Json = {
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "store": True,
        "previous_response_id": None,
    }
    echo |= {name: request[name] for name in _ECHOED_FIELDS if name in request}
    head = {"id": reply_id, "object": "response", "created_at": 1741476777.0, "status": "completed", "error": None}
    return {**head, "model": request["model"], "output": output, "incomplete_details": None, **echo, "usage": USAGE}


def _list_items(field: str | list[Json]) -> list[Json]:
    return [{"role": "user", "content": field}] if isinstance(field, str) else field


def _is_reference(item: Json) -> bool:
    return item.keys() <= {"type", "id"}


def _split_text(text: str) -> list[str]:
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def _item_id(prefix: str, source: str) -> str:
    return f"{prefix}_{sha256(source.encode()).hexdigest()[:12]}"
