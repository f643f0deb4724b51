"""Writes a whole reply as the events of a stream, for an upstream that streams one round and not the next."""

from collections.abc import Iterator

from . import json_codec, sse
from .json_types import Json, is_array, is_object
from .messages_round import list_content_blocks

_DELTA_TYPES = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}


def split_reply(protocol: str, reply: Json) -> list[bytes]:
    """Return the events of a stream with the content of this reply. A reply of another shape has none."""
    if protocol == "chat":
        return [*map(_encode_event, _split_chat(reply)), sse.encode_event(b"[DONE]")]
    events = _split_message(reply) if protocol == "messages" else split_response(reply)
    return [sse.encode_event(json_codec.dumps(event), name=str(event["type"])) for event in events]


def _split_chat(reply: Json) -> Iterator[Json]:
    head = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    choices = reply.get("choices")
    ends: list[Json] = []
    for choice in filter(is_object, choices if is_array(choices) else ()):
        message = choice.get("message")
        delta: Json = dict(message) if is_object(message) else {}
        if is_array(calls := delta.get("tool_calls")):
            delta["tool_calls"] = [
                {**call, "index": index} for index, call in enumerate(call for call in calls if is_object(call))
            ]
        fields = {name: value for name, value in choice.items() if name != "message"}
        yield {**head, "choices": [{**fields, "delta": delta, "finish_reason": None}]}
        ends.append({**head, "choices": [{**fields, "delta": {}}]})
    yield from ends
    if is_object(usage := reply.get("usage")):
        yield {**head, "choices": [], "usage": usage}


def _split_message(reply: Json) -> Iterator[Json]:
    start: Json = {**reply, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(list_content_blocks(reply.get("content")) or ()):
        arguments = json_codec.dumps(block["input"]).decode() if "input" in block else None
        fields = {name: "" if name in _DELTA_TYPES else value for name, value in block.items()}
        yield {
            "type": "content_block_start",
            "index": index,
            "content_block": fields if arguments is None else {**fields, "input": {}},
        }
        deltas = [{"type": kind, name: block[name]} for name, kind in _DELTA_TYPES.items() if block.get(name)]
        if arguments is not None:
            deltas.append({"type": "input_json_delta", "partial_json": arguments})
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {name: reply.get(name) for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": delta, "usage": reply.get("usage") or {}}
    yield {"type": "message_stop"}


def split_response(reply: Json) -> list[Json]:
    """Return the events of a stream with the content of a reply of the Responses API."""
    output = reply.get("output")
    items = [item for item in output if is_object(item)] if is_array(output) else []
    status = str(reply.get("status"))
    status = status if status in ("incomplete", "failed", "cancelled") else "completed"
    start: Json = {**reply, "status": "in_progress", "output": [], "usage": None}
    events: list[Json] = [{"type": f"response.{name}", "response": start} for name in ("created", "in_progress")]
    for index, item in enumerate(items):
        added: Json = {**item, "status": "in_progress"} | ({"content": []} if is_array(item.get("content")) else {})
        added |= {"arguments": ""} if "arguments" in item else {}
        events.append({"type": "response.output_item.added", "output_index": index, "item": added})
        events += _split_item(index, item)
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{status}", "response": reply})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _split_item(index: int, item: Json) -> Iterator[Json]:
    """Yield the events between the start and the end of an item."""
    place: Json = {"output_index": index, "item_id": item.get("id")}
    if isinstance(arguments := item.get("arguments"), str):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments}
    parts = item.get("content") if item.get("type") == "message" else None
    for number, part in enumerate(parts if is_array(parts) else ()):
        if not is_object(part) or not isinstance(text := part.get("text"), str):
            continue
        part_place = {**place, "content_index": number}
        yield {"type": "response.content_part.added", **part_place, "part": {**part, "text": ""}}
        yield {"type": "response.output_text.delta", **part_place, "delta": text, "logprobs": []}
        yield {"type": "response.output_text.done", **part_place, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **part_place, "part": part}


def _encode_event(event: Json) -> bytes:
    return sse.encode_event(json_codec.dumps(event))
