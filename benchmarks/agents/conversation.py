"""Requests of the three APIs as one conversation, and the replies of a scripted model in each API's form."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...proxy.protocols.json_types import Json, is_array, is_object

PIECE_CHARACTERS = 40  # of a streamed text or of streamed arguments


class Call(NamedTuple):
    """A call of a tool; the arguments of a custom tool of the Responses API are one string."""

    name: str
    arguments: Json | str
    id: str = ""


class Reply(NamedTuple):
    """A text and the calls that follow it."""

    text: str
    calls: tuple[Call, ...] = ()


class Message(NamedTuple):
    """A message with its text, the calls in it, and the results in it as pairs of call id and text."""

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    results: tuple[tuple[str, str], ...] = ()


class Head(NamedTuple):
    """The number of a reply, which is in its id, and the tokens of its prompt."""

    number: int
    prompt_tokens: int


class Conversation(NamedTuple):
    """What a request holds, whatever its API."""

    messages: list[Message]
    tools: frozenset[str]

    @property
    def results(self) -> dict[str, str]:
        """Return the results of all calls by the ids of their calls."""
        return {call_id: text for message in self.messages for call_id, text in message.results}

    @property
    def text(self) -> str:
        """Return the texts of all messages, without results."""
        return "\n".join(message.text for message in self.messages)

    def find_unanswered_calls(self) -> list[str]:
        """Return the ids of calls without a result: a provider refuses such a request."""
        results = self.results
        return [call.id for message in self.messages for call in message.calls if call.id not in results]


def parse_conversation(path: str, body: Json) -> Conversation:
    """Parse the body of a request to `/chat/completions`, `/responses` or `/messages`."""
    tools = frozenset(_iter_tool_names(body.get("tools") or []))
    if path.endswith("/responses"):
        return Conversation(list(map(_parse_item, _list_items(body))), tools)
    messages = [_parse_message(message) for message in body["messages"]]
    if body.get("system"):
        messages.insert(0, Message("system", _join_text(body["system"])))
    return Conversation(messages, tools)


def _iter_tool_names(tools: list[Json]) -> Iterator[str]:
    for tool in tools:
        yield str(tool.get("function", tool).get("name") or tool.get("type"))
        yield from _iter_tool_names(tool.get("tools") or [])


def _join_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text") or "") for part in _list_parts(content))


def _list_parts(content: Any) -> list[Json]:
    return [part for part in content if is_object(part)] if is_array(content) else []


def _list_items(body: Json) -> list[Json]:
    given = body["input"]
    items: list[Json] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [{"role": "system", "content": body.get("instructions") or ""}, *items]


def _parse_item(item: Json) -> Message:
    match item.get("type"):
        case "function_call" | "custom_tool_call":
            call = Call(item["name"], item.get("arguments") or item.get("input") or "", item["call_id"])
            return Message("assistant", "", (call,))
        case "function_call_output" | "custom_tool_call_output":
            return Message("tool", "", results=((item["call_id"], _join_text(item["output"])),))
        case _:
            return Message(item.get("role", ""), _join_text(item.get("content")))


def _parse_message(message: Json) -> Message:
    content, role = message.get("content"), message["role"]
    if role == "tool":
        return Message(role, "", results=((message["tool_call_id"], _join_text(content)),))
    calls = [
        Call(call["function"]["name"], call["function"]["arguments"], call["id"])
        for call in message.get("tool_calls") or ()
    ]
    parts = _list_parts(content)
    calls += [Call(part["name"], part["input"], part["id"]) for part in parts if part.get("type") == "tool_use"]
    results = [
        (part["tool_use_id"], _join_text(part.get("content"))) for part in parts if part.get("type") == "tool_result"
    ]
    return Message(role, _join_text(content), tuple(calls), tuple(results))


def encode_reply(path: str, body: Json, reply: Reply, numbers: Head) -> tuple[Json, bytes]:
    """Return a reply as JSON, and as the body of the response: an event stream if the request asks for one."""
    head: Json = {"model": body.get("model", ""), "tokens": numbers.prompt_tokens, "number": numbers.number}
    head["output"] = 20 + len(reply.text) // 4
    encode: Callable[[Json, Json, Reply], tuple[Json, list[Json]]] = _encode_chat
    if path.endswith("/responses"):
        encode = _encode_responses
    elif path.endswith("/messages"):
        encode = _encode_messages
    whole, events = encode(head, body, reply)
    if not body.get("stream"):
        return whole, json.dumps(whole).encode()
    lines = [
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n" for event in events
    ]
    return whole, "".join([*lines, "data: [DONE]\n\n" if encode is _encode_chat else ""]).encode()


def _split(text: str) -> list[str]:
    return [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]


def _dump_arguments(call: Call) -> str:
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def _encode_chat(head: Json, body: Json, reply: Reply) -> tuple[Json, list[Json]]:
    finish = "tool_calls" if reply.calls else "stop"
    total = head["tokens"] + head["output"]
    usage = {"prompt_tokens": head["tokens"], "completion_tokens": head["output"], "total_tokens": total}
    base = {"id": f"chatcmpl-{head['number']}", "created": 1_790_000_000, "model": head["model"]}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _dump_arguments(call)}}
        for call in reply.calls
    ]
    message = {"role": "assistant", "content": reply.text or None, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**base, "object": "chat.completion.chunk", "choices": [choice]}

    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": piece}) for piece in _split(reply.text))]
    for index, call in enumerate(calls):
        function: Any = call["function"]
        events.append(chunk({"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]}))
        events += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in _split(function["arguments"])
        ]
    events.append(chunk({}, finish))
    options: Json = body.get("stream_options") or {}
    if options.get("include_usage"):
        events.append({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    return whole, events


def _encode_messages(head: Json, _body: Json, reply: Reply) -> tuple[Json, list[Json]]:
    blocks: list[Json] = [{"type": "text", "text": reply.text}] if reply.text else []
    blocks += [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in reply.calls]
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    whole: Json = {
        "id": f"msg_{head['number']}",
        "type": "message",
        "role": "assistant",
        "model": head["model"],
        "content": blocks,
        "stop_reason": "tool_use" if reply.calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": head["tokens"], "output_tokens": head["output"], **cache},
    }
    start: Json = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    events: list[Json] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        is_text = block["type"] == "text"
        empty: Json = {"text": ""} if is_text else {"input": {}}
        opening = {**block, **empty}
        events.append({"type": "content_block_start", "index": index, "content_block": opening})
        events += [{"type": "ping"}] if index == 0 else []
        events += [
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}
            if is_text
            else {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "input_json_delta", "partial_json": piece},
            }
            for piece in _split(block["text"] if is_text else json.dumps(block["input"]))
        ]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": head["output"]}
    return whole, [*events, {"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def _encode_responses(head: Json, _body: Json, reply: Reply) -> tuple[Json, list[Json]]:
    items = [_build_text_item(reply.text, head["number"])] if reply.text else []
    items += [_build_call_item(call) for call in reply.calls]
    usage = {
        "input_tokens": head["tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": head["output"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": head["tokens"] + head["output"],
    }
    base = {
        "id": f"resp_{head['number']}",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": head["model"],
        "error": None,
    }
    base |= {"incomplete_details": None, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    whole = {**base, "status": "completed", "output": items, "usage": usage}
    start: Json = {**base, "status": "in_progress", "output": [], "usage": None}
    events: list[Json] = [{"type": f"response.{name}", "response": start} for name in ("created", "in_progress")]
    for index, item in enumerate(items):
        events += _build_item_events(index, item)
    events.append({"type": "response.completed", "response": whole})
    return whole, [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _build_text_item(text: str, number: int) -> Json:
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def _build_call_item(call: Call) -> Json:
    item: Json = {"id": f"fc_{call.id}", "status": "completed", "call_id": call.id, "name": call.name}
    if isinstance(call.arguments, str):
        return {**item, "type": "custom_tool_call", "input": call.arguments}
    return {**item, "type": "function_call", "arguments": _dump_arguments(call)}


def _build_item_events(index: int, item: Json) -> list[Json]:
    place = {"output_index": index, "item_id": item["id"]}
    done = {"type": "response.output_item.done", "output_index": index, "item": item}
    field, name = {
        "message": ("content", "output_text"),
        "function_call": ("arguments", "function_call_arguments"),
        "custom_tool_call": ("input", "custom_tool_call_input"),
    }[item["type"]]
    opening: Json = {**item, "status": "in_progress", field: [] if field == "content" else ""}
    events: list[Json] = [{"type": "response.output_item.added", "output_index": index, "item": opening}]
    if field != "content":
        events += [{"type": f"response.{name}.delta", **place, "delta": piece} for piece in _split(item[field])]
        return [*events, {"type": f"response.{name}.done", **place, field: item[field]}, done]
    part = item["content"][0]
    place["content_index"] = 0
    events.append({"type": "response.content_part.added", **place, "part": {**part, "text": ""}})
    events += [
        {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        for piece in _split(part["text"])
    ]
    events.append({"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []})
    return [*events, {"type": "response.content_part.done", **place, "part": part}, done]
