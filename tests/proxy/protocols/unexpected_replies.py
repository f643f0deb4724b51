"""Replies of an upstream with unexpected values in random places."""

import copy
import random
from typing import Any

import orjson

from clara_proxy.proxy.protocols import json_types, sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME

Json = dict[str, Any]
UNEXPECTED_VALUES: list[Any] = [
    *(None, 0, -1, "", "x", [], {}, [None], ["x"], [[]], True, 1.5, {"a": None}, 2**60, TOOL_NAME, {"name": TOOL_NAME}),
    [{"type": "tool_use", "name": TOOL_NAME}],
    [{"type": "function_call", "name": TOOL_NAME}],
]
_CHAT_USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
_USAGE = {"input_tokens": 5, "output_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 0}}


def _call(index: int, name: str) -> Json:
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": name, "arguments": "{}"}}


def _delta(delta: Json, finish: str | None = None) -> Json:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


_ITEMS: list[Json] = [
    {"type": "reasoning", "id": "r"},
    {"type": "function_call", "id": "f", "call_id": "k", "name": TOOL_NAME, "arguments": "{}", "status": "completed"},
    {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
]
_EVENTS: dict[str, list[Json]] = {
    "chat": [
        _delta({"role": "assistant", "content": "hi"}),
        _delta({"tool_calls": [_call(0, TOOL_NAME)]}),
        _delta({"tool_calls": [_call(1, "logs")]}),
        _delta({}, "tool_calls"),
        {"choices": [], "usage": _CHAT_USAGE},
    ],
    "messages": [
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": _USAGE}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "h"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": TOOL_NAME, "input": {}},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ],
    "responses": [
        {
            "type": "response.created",
            "sequence_number": 0,
            "response": {"id": "r", "tools": [{"type": "function", "name": TOOL_NAME}], "output": []},
        },
        {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": _ITEMS[1]},
        {"type": "response.function_call_arguments.delta", "sequence_number": 2, "output_index": 0, "delta": "{"},
        {"type": "response.output_item.done", "sequence_number": 3, "output_index": 1, "item": _ITEMS[2]},
        {
            "type": "response.completed",
            "sequence_number": 4,
            "response": {"id": "r", "status": "completed", "output": _ITEMS, "usage": _USAGE, "store": False},
        },
    ],
}
_REPLIES: dict[str, Json] = {
    "chat": {
        "id": "c",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x", "tool_calls": [_call(0, TOOL_NAME), _call(1, "logs")]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": _CHAT_USAGE,
    },
    "messages": {
        "id": "m",
        "content": [
            {"type": "text", "text": "x"},
            {"type": "tool_use", "id": "t", "name": TOOL_NAME, "input": {"id": "x"}},
            {"type": "tool_use", "id": "u", "name": "logs", "input": {}},
        ],
        "stop_reason": "tool_use",
        "usage": _USAGE,
    },
    "responses": {
        "id": "r",
        "status": "completed",
        "output": _ITEMS,
        "usage": _USAGE,
        "tools": [{"type": "function", "name": TOOL_NAME}],
    },
}


def draw_events(protocol: str, rng: random.Random) -> list[bytes]:
    """Return a stream of this protocol with up to two changes in every event, sometimes out of order."""
    events = [_change(event, rng) for event in _EVENTS[protocol]]
    if rng.random() < 0.3:
        rng.shuffle(events)
    return [
        sse.encode_event(orjson.dumps(event), "" if protocol == "chat" else str(event.get("type"))) for event in events
    ]


def draw_reply(protocol: str, rng: random.Random) -> Json:
    """Return a whole reply of this protocol with up to two changes."""
    return _change(_REPLIES[protocol], rng)


def _change(value: Json, rng: random.Random) -> Json:
    changed: Json = copy.deepcopy(value)
    for _ in range(rng.choice((0, 1, 1, 2))):
        parent, key = rng.choice(_list_places(changed))
        if isinstance(parent, dict) and rng.random() < 0.2:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(rng.choice(UNEXPECTED_VALUES))
        if not changed:
            break
    return changed


def _list_places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a value as its parent and the key or index there."""
    keys: list[Any] = []
    if json_types.is_object(value):
        keys = list(value)
    elif json_types.is_array(value):
        keys = list(range(len(value)))
    places: list[tuple[Any, Any]] = []
    for key in keys:
        places += [(value, key), *_list_places(value[key])]
    return places
