"""Adds the search of the proxy to a reply of the Responses API: the call before all items, and citations in its texts.

It changes the final response to the client, whole or streamed.
"""

from collections.abc import Sequence
from typing import Any

from ..http.exchange import Message, RawHeaders, Send
from ..protocols import json_codec, sse
from ..protocols.json_types import Json, is_array, is_object, parse_object_exactly
from . import citations, file_search
from .insertion import BlockRecord

_EARLY_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress"})
_FAILURES = frozenset({"error", "response.failed", "response.cancelled"})
_BLANKS = b" \t\r\n"


class FileSearchReply:
    """The changes of one reply. Without `is_fresh`, an earlier reply has the call, and this one only cites."""

    def __init__(
        self, record: BlockRecord, tools: list[Any], call_id: str, *, is_fresh: bool, includes_results: bool
    ) -> None:
        hits = record.hits if includes_results else None
        self._hits, self._tools = record.hits, tools
        self._call = file_search.build_call(call_id, record.question, hits) if is_fresh else None
        self._has_shown_call = False
        self._sequence_offset = 0
        self._annotation_counts: dict[tuple[object, object], int] = {}

    def wrap_send(self, send: Send) -> Send:
        """Return a function that sends a response with these changes."""
        return FileSearchSend(send, self)

    def change_reply(self, reply: Json) -> Json:
        """Return a whole reply with the call and the citations."""
        output = reply.get("output")
        if not is_array(output):
            return reply
        call = [self._call] if self._call is not None and (output or reply.get("status") == "completed") else []
        changes: Json = {"output": [*call, *map(self._annotate_item, output)]}
        if "tools" in reply:
            changes["tools"] = self._tools
        return json_codec.merge(reply, changes)

    def change_event(self, raw: bytes) -> bytes:
        """Return one event of a stream, with the events before it."""
        event = sse.parse_data(raw)
        event_type = event.get("type")
        if not isinstance(event_type, str):
            return raw
        events: list[Json] = []
        if event_type not in _EARLY_EVENTS | _FAILURES and self._call is not None and not self._has_shown_call:
            self._has_shown_call = True
            events = _build_call_events(self._call)
        changes: Json = {}
        if self._has_shown_call and isinstance(index := event.get("output_index"), int):
            changes["output_index"] = index + 1
        key = event.get("item_id"), event.get("content_index")
        if event_type == "response.output_text.annotation.added":
            self._annotation_counts[key] = self._annotation_counts.get(key, 0) + 1
        elif event_type == "response.output_text.done":
            events += self._build_annotation_events(event, changes.get("output_index", event.get("output_index")))
        elif event_type == "response.content_part.done" and is_object(part := event.get("part")):
            changes["part"] = self._annotate_part(part)
        elif event_type == "response.output_item.done" and is_object(item := event.get("item")):
            changes["item"] = self._annotate_item(item)
        elif is_object(response := event.get("response")):
            changes["response"] = self._change_response(response, event_type)
        return self._encode_events(raw, events, json_codec.merge(event, changes))

    def _change_response(self, response: Json, event_type: str) -> Json:
        if event_type in _EARLY_EVENTS | _FAILURES:
            return json_codec.merge(response, {"tools": self._tools}) if "tools" in response else response
        return self.change_reply(response)

    def _build_annotation_events(self, event: Json, output_index: object) -> list[Json]:
        key = event.get("item_id"), event.get("content_index")
        start = self._annotation_counts.get(key, 0)
        place = {"item_id": key[0], "output_index": output_index, "content_index": key[1]}
        return [
            {
                "type": "response.output_text.annotation.added",
                **place,
                "annotation_index": number,
                "annotation": annotation,
            }
            for number, annotation in enumerate(self._cite(event.get("text")), start)
        ]

    def _encode_events(self, raw: bytes, events: Sequence[Json], event: Json) -> bytes:
        """Return new events and then the client's own; all of them get the next numbers."""
        number = event.get("sequence_number")
        encoded: list[bytes] = []
        for new_event in events:
            numbered = {"sequence_number": number + self._sequence_offset} if isinstance(number, int) else {}
            self._sequence_offset += 1
            data = json_codec.dumps({**new_event, **numbered})
            encoded.append(sse.encode_event(data, name=str(new_event["type"])))
        if isinstance(number, int):
            event = json_codec.merge(event, {"sequence_number": number + self._sequence_offset})
        other_lines = [line for line in raw.splitlines() if line and not line.startswith(b"data:")]
        return b"".join([*encoded, b"\n".join([*other_lines, b"data: " + json_codec.dumps(event), b"", b""])])

    def _annotate_item(self, item: Any) -> Any:
        if not is_object(item) or item.get("type") != "message" or not is_array(content := item.get("content")):
            return item
        return json_codec.merge(item, {"content": [self._annotate_part(part) for part in content]})

    def _annotate_part(self, part: Any) -> Any:
        if not is_object(part) or part.get("type") != "output_text":
            return part
        annotations = part.get("annotations")
        existing = annotations if is_array(annotations) else []
        return json_codec.merge(part, {"annotations": [*existing, *self._cite(part.get("text"))]})

    def _cite(self, text: object) -> list[Json]:
        return citations.build_annotations(text, self._hits) if isinstance(text, str) else []


class FileSearchSend:
    """Sends a response with the changes of `reply`. A response other than 200 passes unchanged."""

    def __init__(self, send: Send, reply: FileSearchReply) -> None:
        self._send, self._reply = send, reply
        self._start: Message | None = None
        self._is_json: bool | None = None  # None before the first bytes that are not blank
        self._passes_unchanged = False
        self._body = b""
        self._events = sse.EventSplitter()

    async def __call__(self, message: Message) -> None:
        """Send one message of the server's protocol."""
        if message["type"] == "http.response.start":
            self._passes_unchanged = message["status"] != 200
            if not self._passes_unchanged:
                self._start = message
                return
        if self._passes_unchanged or message["type"] != "http.response.body":
            await self._send(message)
            return
        body, has_more = message.get("body", b""), bool(message.get("more_body"))
        if self._is_json is None and body.strip(_BLANKS):
            self._is_json = body.lstrip(_BLANKS)[:1] == b"{"
        if self._is_json:
            self._body += body
            if not has_more:
                await self._send_body(self._change_body(self._body), has_more=False)
        else:
            await self._send_body(self._change_events(body, has_more=has_more), has_more=has_more)

    def _change_body(self, body: bytes) -> bytes:
        reply = parse_object_exactly(body)
        return body if reply is None else json_codec.dumps(self._reply.change_reply(reply))

    def _change_events(self, body: bytes, *, has_more: bool) -> bytes:
        if self._is_json is None:
            return body  # blanks that keep the connection alive
        events = self._events.feed(body)
        if not has_more:
            events += self._events.flush()
        return b"".join(map(self._reply.change_event, events))

    async def _send_body(self, body: bytes, *, has_more: bool) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            await self._send({**start, "headers": _replace_length(start["headers"], None if has_more else len(body))})
        if body or not has_more:
            await self._send({"type": "http.response.body", "body": body, "more_body": has_more})


def _build_call_events(call: Json) -> list[Json]:
    place = {"output_index": 0, "item_id": call["id"]}
    started: Json = {**call, "status": "in_progress", "queries": [], "results": None}
    steps = [{"type": f"response.{call['type']}.{step}", **place} for step in ("in_progress", "searching", "completed")]
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": started},
        *steps,
        {"type": "response.output_item.done", "output_index": 0, "item": call},
    ]


def _replace_length(headers: RawHeaders, length: int | None) -> RawHeaders:
    others = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return others if length is None else [*others, (b"content-length", b"%d" % length)]
