"""An upstream that speaks the Responses API as strictly as OpenAI's: a script says what the model says.

It numbers its events, remembers what it stores, and refuses what OpenAI refuses: a call without its output, an output
without its call, reasoning without the item that belonged to it and the other way round.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import orjson

from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, http_response

Json = dict[str, Any]
Say = Callable[[Json], list[Json]]  # from a request, its whole context in `input`, to the items of the output
USAGE: Json = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 45,
}
_OUTPUTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}


def message(text: str) -> Json:
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": _id("msg", text), "role": "assistant", "status": "completed", "content": [part]}


def call(name: str, arguments: Json | str, its_id: str, **more: Any) -> Json:
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    own = {"type": "function_call", "id": _id("fc", its_id), "call_id": its_id, "name": name, "arguments": text}
    return {**own, "status": "completed", **more}


def reasoning(about: str, **more: Any) -> Json:
    summary = [{"type": "summary_text", "text": f"Thinking about {about}."}]
    return {
        "type": "reasoning",
        "id": _id("rs", about),
        "summary": summary,
        "encrypted_content": f"gAAA{about}=",
        **more,
    }


def searched(query: str) -> Json:
    action = {"type": "search", "query": query}
    return {"type": "web_search_call", "id": _id("ws", query), "status": "completed", "action": action}


class Responder:
    """What an upstream remembers of its replies; `says` may be changed at any time."""

    def __init__(self, upstream: FaultyUpstream, says: Say) -> None:
        self.says = says
        self.ends: Json = {}  # what the end of a reply says otherwise than usual
        self.done = b""  # what comes behind the end
        self.contexts: list[list[Json]] = []
        self._stored: dict[str, list[Json]] = {}
        self._items: dict[str, Json] = {}
        self._partner: dict[str, str] = {}
        upstream.script = self._answer

    async def _answer(self, wire: Connection) -> None:
        request = wire.request.json
        given = [self._items.get(str(one.get("id")), one) if _names(one) else one for one in _listed(request["input"])]
        context = [*self._stored.get(str(request.get("previous_response_id")), ()), *given]
        self.contexts.append(context)
        if complaint := self._complaint(context):
            error = {"message": complaint, "type": "invalid_request_error", "param": "input", "code": None}
            await wire.send(http_response(orjson.dumps({"error": error}), status="400 Bad Request"))
            return
        output = self.says({**request, "input": context})
        reply = _reply(request, f"resp_{len(self.contexts)}", output) | self.ends
        self._remember(reply, [*context, *output])
        if not request.get("stream"):
            await wire.send(http_response(orjson.dumps(reply)))
            return
        await wire.send(
            EVENT_STREAM_HEAD,
            *(http_chunk(event) for event in written(events(reply))),
            *([http_chunk(self.done)] if self.done else []),
        )
        await wire.send(b"0\r\n\r\n")

    def _remember(self, reply: Json, context: list[Json]) -> None:
        if reply["store"] is False:
            return
        self._stored[reply["id"]] = context
        self._items |= {item["id"]: item for item in reply["output"]}
        for one, other in pairwise(reply["output"]):
            if one["type"] == "reasoning":
                self._partner[one["id"]] = other["id"]

    def _complaint(self, context: list[Json]) -> str:
        kinds = {kind: {item.get("call_id") for item in context if item.get("type") == kind} for kind in _both()}
        for asking, answering in _OUTPUTS.items():
            if lost := kinds[asking] - kinds[answering]:
                return f"No tool output found for function call {min(map(str, lost))}."
            if lost := kinds[answering] - kinds[asking]:
                return f"No tool call found for function call output with call_id {min(map(str, lost))}."
        ids = [str(item.get("id")) for item in context]
        for its_id, after in pairwise([*ids, ""]):
            if its_id in self._partner and after != self._partner[its_id]:
                return f"Item '{its_id}' of type 'reasoning' was provided without its required following item."
        for orphan in (set(self._partner.values()) & set(ids)) - {self._partner.get(one) for one in ids}:
            return f"Item '{orphan}' was provided without its required 'reasoning' item."
        return ""


def events(reply: Json) -> Iterator[Json]:
    """Stream a reply as OpenAI does."""
    begun: Json = {**reply, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(reply["output"]):
        for event in _item(item):
            yield {**event, "output_index": index}
    yield {"type": f"response.{reply['status']}", "response": reply}


def written(listed: Iterator[Json]) -> Iterator[bytes]:
    """Number events and write them down, as OpenAI does: named, and with blanks where orjson has none."""
    for number, event in enumerate(listed):
        data = orjson.dumps({**event, "sequence_number": number})
        yield b"event: " + event["type"].encode() + b"\ndata: " + data.replace(b'{"type":', b'{ "type": ', 1) + b"\n\n"


def _item(item: Json) -> Iterator[Json]:
    """Stream one item of the output."""
    at = {"item_id": item["id"]}
    unfinished = {**item, "status": "in_progress"} if "status" in item else item
    if item["type"] == "message":
        yield {"type": "response.output_item.added", "item": {**unfinished, "content": []}}
        yield from _text({**at, "content_index": 0}, item["content"][0])
    elif item["type"] == "function_call":
        yield {"type": "response.output_item.added", "item": {**unfinished, "arguments": ""}}
        for piece in _pieces(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **at, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]}
    elif item["type"] == "reasoning":
        yield {"type": "response.output_item.added", "item": {**item, "summary": []}}
        text = item["summary"][0]["text"]
        for piece in _pieces(text):
            yield {"type": "response.reasoning_summary_text.delta", **at, "summary_index": 0, "delta": piece}
        yield {"type": "response.reasoning_summary_text.done", **at, "summary_index": 0, "text": text}
    else:
        yield {"type": "response.output_item.added", "item": unfinished}
    yield {"type": "response.output_item.done", "item": item}


def _text(at: Json, part: Json) -> Iterator[Json]:
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    for piece in _pieces(part["text"]):
        yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": [], "obfuscation": "x1Yz"}
    yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": part}


def _reply(request: Json, its_id: str, output: list[Json]) -> Json:
    echoed = ("tools", "tool_choice", "previous_response_id", "store", "text", "parallel_tool_calls", "metadata")
    told: Json = {
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "store": True,
        "previous_response_id": None,
    }
    told |= {name: request[name] for name in echoed if name in request}
    own = {"id": its_id, "object": "response", "created_at": 1741476777.0, "status": "completed", "error": None}
    return {**own, "model": request["model"], "output": output, "incomplete_details": None, **told, "usage": USAGE}


def _listed(given: str | list[Json]) -> list[Json]:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _names(item: Json) -> bool:
    return item.keys() <= {"type", "id"}


def _pieces(text: str) -> list[str]:
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def _both() -> list[str]:
    return [*_OUTPUTS, *_OUTPUTS.values()]


def _id(kind: str, of: str) -> str:
    return f"{kind}_{sha256(of.encode()).hexdigest()[:12]}"
