"""What real servers do with a reply: the tables of deviations, and how events are arranged, framed and broken off."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from hypothesis import strategies as st

Json = dict[str, Any]
Deviations = dict[str, Any]
ABSENT = object()  # a field that is left out

# The first value of each deviation is correct.
COMMON: dict[str, list[Any]] = {
    "finish": ["correct", "absent", "null", "empty", "stop", "upper case", "other protocol"],
    "content_type": ["correct", "", "application/json", "text/plain", "application/octet-stream", "text/html"],
    "line_end": ["\n", "\r\n", "\r"],
    "framing": ["one line", "no blank", "several lines", "id and retry"],
    "heart_beat": ["none", "comment", "blank lines", "empty data", "unknown event", "comment in the event"],
    "start": ["none", "byte order mark", "blank lines"],
    "end_marker": ["correct", "absent"],
    "last_event": ["whole", "without blank line"],
    "duplicate": ["none", "start", "text", "finish", "usage", "end", "call end"],
    "interleaved": [False, True],
    "piece_length": [4, 9, 1000],
    "body": ["correct", "indented", "blanks before", "blanks after", "byte order mark"],
    "break": ["none", "closed", "closed in an event", "disconnected", "disconnected in an event", "error"],
    "break_at": [1, 2, 3, 4],  # fifths of the events
    "error": [0, 1, 2],
}
CHAT: dict[str, list[Any]] = COMMON | {
    "index": ["correct", "all 0", "absent", "null", "text"],
    "id": ["correct", "absent", "repeated"],
    "name": ["whole", "empty first", "null first", "absent first", "split", "repeated", "with arguments"],
    "arguments": ["text", "object"],
    "content": ["text", "parts"],
    "usage": ["absent", "empty choices", "no choices", "null choices", "every chunk", "before the end"],
    "choice": ["one", "calls in a second one"],
    "finish_chunk": ["own", "twice", "last piece", "early"],
    "role": ["first", "late", "absent", "every chunk"],
    "fillers": ["none", "nulls", "empty"],
}
MESSAGES: dict[str, list[Any]] = COMMON | {
    "index": ["correct", "all 0", "absent", "from 1"],
    "id": ["correct", "absent"],
    "input": ["pieces", "at the start", "both"],
    "block_stop": ["correct", "absent", "after the end"],
    "content": ["blocks", "text"],
    "event_line": [True, False],
}
RESPONSES: dict[str, list[Any]] = COMMON | {
    "output_index": ["correct", "absent", "all 0"],
    "item_id": ["correct", "absent"],
    "id": ["correct", "absent", "changed when done"],
    "output": ["correct", "absent", "empty"],
    "name": ["whole", "empty first", "absent first"],
    "added": ["correct", "absent"],
    "done": ["last", "before the arguments"],
    "status": ["correct", "absent"],
    "event_line": [True, False],
}
TABLES = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}
_UNKNOWN_EVENTS: dict[str, Json] = {
    "chat": {"id": "x", "object": "chat.completion.chunk", "choices": [], "x_groq": {"id": "req"}},
    "messages": {"type": "ping"},
    "responses": {"type": "response.rate_limits.updated", "limits": []},
}
_ERROR: Json = {"message": "overloaded", "type": "server_error", "code": 529}
_ERROR_EVENTS: dict[str, list[Json]] = {
    "chat": [
        {"error": _ERROR},
        {"id": "x", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}], "error": _ERROR},
        {"object": "error", **_ERROR},
    ],
    "messages": [{"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}}],
    "responses": [
        {"type": "error", "code": "server_error", "message": "overloaded", "param": None},
        {"type": "response.failed", "response": {"id": "x", "status": "failed", "error": _ERROR, "output": []}},
        {"error": _ERROR},
    ],
}


class Event(NamedTuple):
    """One event. `call` is the position of the tool call that it belongs to."""

    kind: str
    data: Json | bytes
    call: int | None = None


class Body(NamedTuple):
    """A reply of an upstream as bytes. With `disconnects` the connection is lost after them."""

    data: bytes
    content_type: str
    disconnects: bool = False


def correct_deviations(protocol: str) -> Deviations:
    """Return the table of a correct reply."""
    return {name: values[0] for name, values in TABLES[protocol].items()} | {"is_whole": False}


def draw_deviations(protocol: str) -> st.SearchStrategy[Deviations]:
    """Return a strategy for the few deviations of one upstream's reply."""
    correct = correct_deviations(protocol)
    pairs = [(name, value) for name, values in TABLES[protocol].items() for value in values[1:]]

    def build(deviations: list[tuple[str, Any]], is_whole: bool) -> Deviations:
        return {**correct, **dict(deviations), "is_whole": is_whole}

    return st.builds(build, st.lists(st.sampled_from(pairs), max_size=6), st.sampled_from([False, False, True]))


def encode_whole(reply: Json, deviations: Deviations) -> Body:
    """Return a reply that is not streamed."""
    breaks = str(deviations["break"])
    if breaks == "error":
        reply = {"error": _ERROR}
    data = orjson.dumps(reply, option=orjson.OPT_INDENT_2 if deviations["body"] == "indented" else 0)
    starts = {"blanks before": b"\n  \n", "byte order mark": b"\xef\xbb\xbf"}
    data = starts.get(deviations["body"], b"") + data + (b"\n\n " if deviations["body"] == "blanks after" else b"")
    if breaks not in ("none", "error"):
        data = data[: len(data.rstrip()) * deviations["break_at"] // 5]
    return Body(data, _get_content_type(deviations, "application/json"), breaks.startswith("disconnected"))


def encode_stream(events: Sequence[Event], protocol: str, deviations: Deviations) -> Body:
    """Return a streamed reply."""
    sent: list[Event] = _duplicate(events, str(deviations["duplicate"]))
    if deviations["interleaved"]:
        sent = _interleave(sent)
    breaks, position = str(deviations["break"]), len(sent) * int(deviations["break_at"]) // 5
    broken_event = b""
    if breaks != "none":
        if breaks.endswith("in an event"):
            broken_event = _frame(sent[position], deviations)
            broken_event = broken_event[: len(broken_event) * 3 // 4].rstrip(b"\r\n")
        del sent[position:]
    if breaks == "error":
        shapes = _ERROR_EVENTS[protocol]
        sent.append(Event("error", shapes[int(deviations["error"]) % len(shapes)]))
    beat = _encode_heart_beat(protocol, deviations)
    data = b"".join(part for event in sent for part in (beat, _frame(event, deviations)))
    if deviations["last_event"] != "whole" and breaks == "none":
        data = data.rstrip(b"\r\n")
    starts = {"byte order mark": b"\xef\xbb\xbf", "blank lines": b"\n\n"}
    data = starts.get(deviations["start"], b"") + data + broken_event
    return Body(data, _get_content_type(deviations, "text/event-stream"), breaks.startswith("disconnected"))


def without_absent(fields: Json) -> Json:
    """Return an object without the fields that are left out."""
    return {name: value for name, value in fields.items() if value is not ABSENT}


def _get_content_type(deviations: Deviations, correct: str) -> str:
    return correct if deviations["content_type"] == "correct" else str(deviations["content_type"])


def _duplicate(events: Sequence[Event], kind: str) -> list[Event]:
    return [copy for event in events for copy in [event] * (2 if event.kind == kind else 1)]


def _interleave(events: Sequence[Event]) -> list[Event]:
    """Return the events with those of neighbouring calls taken in turn."""
    arranged: list[Event] = []
    queues: dict[int, list[Event]] = {}
    for event in [*events, Event("last", b"")]:
        if event.call is not None:
            queues.setdefault(event.call, []).append(event)
            continue
        while any(queues.values()):
            arranged += [queue.pop(0) for queue in queues.values() if queue]
        queues.clear()
        arranged.append(event)
    return arranged[:-1]


def _encode_heart_beat(protocol: str, deviations: Deviations) -> bytes:
    kind = deviations["heart_beat"]
    if kind == "unknown event":
        return _frame(Event("other", _UNKNOWN_EVENTS[protocol]), deviations)
    end = str(deviations["line_end"]).encode()
    lines = {"comment": [b": OPENROUTER PROCESSING", b""], "blank lines": [b"", b""], "empty data": [b"data:", b""]}
    return b"".join(line + end for line in lines.get(kind, []))


def _frame(event: Event, deviations: Deviations) -> bytes:
    """Return one event as bytes."""
    return b"".join(line + str(deviations["line_end"]).encode() for line in _iter_lines(event, deviations))


def _iter_lines(event: Event, deviations: Deviations) -> Iterator[bytes]:
    data, framing = event.data, str(deviations["framing"])
    if deviations["heart_beat"] == "comment in the event":
        yield b": heart-beat"
    if isinstance(data, dict) and deviations.get("event_line"):
        yield b"event: " + str(data.get("type", "error")).encode()
    if framing == "id and retry":
        yield b"id: 7"
    prefix = b"data:" if framing == "no blank" else b"data: "
    is_indented = isinstance(data, dict) and framing == "several lines"
    text = data if isinstance(data, bytes) else orjson.dumps(data, option=orjson.OPT_INDENT_2 if is_indented else 0)
    yield from (prefix + line for line in text.split(b"\n"))
    if framing == "id and retry":
        yield b"retry: 1000"
    yield b""
