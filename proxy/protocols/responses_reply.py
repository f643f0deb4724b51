"""Filters the replies to one Responses request: removes the calls of `clara_expand` and joins the rounds.

A filter lives for one request and all its rounds. The client sees one reply, which begins as the first round, has its
id, and ends as the last. Events pass at once. Two kinds are held back: the events of a hidden call, and the end of a
round that may be hidden.
"""

from collections.abc import Sequence
from typing import Any

from . import json_codec, responses_items, sse, usage_fields
from .api_errors import has_error
from .expand_call import HIDDEN_TOOL_NAMES, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object, parse_object_exactly
from .responses_items import is_expand_call
from .responses_round import ResponsesRound, StreamedItem

_START_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress"})
_END_EVENTS = frozenset({
    "response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done",
})  # fmt: skip

# A hidden item, or the hash and the id of an item that the client sees.
_ReplyStep = tuple[Json | None, str, object]


class ResponsesReplyFilter:
    """Filters a response over one or several rounds.

    A reply that the upstream has stored is streamed under the `client_id` by which the client asked for it.
    """

    def __init__(self, client_id: str | None = None) -> None:
        self._rounds = [ResponsesRound()]
        self._held_events: list[bytes] = []
        self._earlier_item_count = 0  # visible items of earlier rounds
        self._last_sequence_number = -1  # of the last event that the client got
        self._must_renumber = False
        self._streamed_id: object = client_id  # of the reply at the client, if it is streamed
        self._has_client_id = client_id is not None

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        usages = [usage for each_round in self._rounds if is_object(usage := each_round.response.get("usage"))]
        return usage_fields.sum_usages(usages)

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool in this round."""
        return self._current_round.list_expand_calls()

    @property
    def awaits_expansion(self) -> bool:
        """Return True if the model waits for the proxy's tool alone, so another round follows."""
        return self._current_round.is_hidden

    @property
    def has_hidden_rounds(self) -> bool:
        """Return True if a further round has begun."""
        return len(self._rounds) > 1

    @property
    def is_complete(self) -> bool:
        """Return True if this round's reply has reached its end."""
        return bool(self._current_round.end_status)

    @property
    def _current_round(self) -> ResponsesRound:
        return self._rounds[-1]

    def filter_event(self, raw: bytes) -> bytes:
        """Process one whole event of a stream and return the part for the client."""
        if self._held_events:
            self._held_events.append(raw)  # it follows an end that is held back
            return b""
        event = sse.parse_data(raw)
        if is_object(response := event.get("response")):
            return self._filter_lifecycle_event(raw, event, response)
        if not event:
            return self._filter_other_event(raw)
        if raw.find(b'"error"') >= 0 and has_error(event):
            self._current_round.end_status = "failed"
        if str(event.get("type")) in _START_EVENTS and len(self._rounds) > 1:
            return b""
        is_about_item = "output_index" in event or "item_id" in event or "item" in event
        item = self._current_round.find_item(event) if is_about_item else None
        if item is None:
            return self._renumber_event(raw, event)
        return self._filter_item_event(raw, event, item)

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply and return it as the client gets it if this is the last round."""
        if has_error(reply) and "output" not in reply:
            return reply
        self._current_round.response, self._current_round.end_status = reply, str(reply.get("status") or "completed")
        return self._filter_response(reply)

    def end_round(self) -> bytes:
        """Process the end of a stream and return the held bytes, unless another round follows."""
        late_events = b"" if self._held_events else self._settle()
        if self.awaits_expansion:
            return b""
        held, self._held_events = b"".join(self._held_events), []
        return late_events + held

    def build_whole_reply(self) -> Json:
        """Return the streamed reply of this round as a whole one."""
        return merge(self._current_round.response, {"output": self._current_round.output_items})

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the items that answer this round's calls, behind the model's own items."""
        current = self._current_round
        current.results = results
        items = [*current.list_returnable_items(), *current.build_call_outputs()]
        self._earlier_item_count += len(current.visible_items)
        self._rounds.append(ResponsesRound())
        self._held_events, self._must_renumber = [], True
        return items

    def finish_stream(self) -> bytes:
        """Return the end of a stream if the model keeps calling the tool."""
        (end, *rest), self._held_events = self._held_events or [b""], []
        if not (event := sse.parse_data(end)):
            return end + b"".join(rest)
        response = self._filter_response(self._current_round.response)
        return self._renumber_event(end, event, response=response) + b"".join(rest)

    def list_visible_elements(self) -> list[Json]:
        """Return the items that the client sends back later as this reply."""
        return [item for each_round in self._rounds for item in each_round.visible_items]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return the hidden calls and answers for re-insertion. `results` answer the calls of the last round.

        The record lists all `steps` of the reply: hidden items in full, the client's items by hash and id. A client may
        send one of the `ids` instead of the reply: the id of its last item, the id that the stream had at the client,
        or the id of the whole reply if the upstream does not know the `results` yet. The upstream knows the whole reply
        by `reply_id`.
        """
        current = self._current_round
        current.results = results
        if not any(each_round.hidden_items for each_round in self._rounds):
            return None
        steps: list[_ReplyStep] = []
        for each_round in self._rounds:
            steps += [_build_step(item) for item in each_round.answerable_items]
            if each_round is not current:
                steps += [(output, "", None) for output in each_round.build_call_outputs()]
        outputs, reply_id = current.build_call_outputs(), current.response.get("id")
        ids = [item.get("id") for item in self.list_visible_elements()[-1:]]
        if outputs:
            ids.append(reply_id)
        if self._streamed_id != reply_id:
            ids.append(self._streamed_id)
        names = list(dict.fromkeys(item_id for item_id in ids if isinstance(item_id, str)))
        return {"ids": names, "steps": steps, "results": outputs, "reply_id": reply_id}

    def _filter_item_event(self, raw: bytes, event: Json, item: StreamedItem) -> bytes:
        item.update(event)
        if item.client_index is None and (is_expand_call(item.fields) or item.is_undecided):
            self._must_renumber = True
            item.held_events.append((raw, event))
            return b""
        return self._release(item) + self._renumber_item_event(raw, event, item)

    def _release(self, item: StreamedItem) -> bytes:
        """Show an item to the client and return its events that were held back."""
        if item.client_index is None:
            item.client_index = self._earlier_item_count + self._current_round.visible_streamed_count
        held, item.held_events = item.held_events, []
        return b"".join(self._renumber_item_event(raw, event, item) for raw, event in held)

    def _settle(self) -> bytes:
        """Take all names for whole, because the reply has ended, and return the events that were held back."""
        items = [item for item in self._current_round.items if item.held_events and not is_expand_call(item.fields)]
        return b"".join(map(self._release, items))

    def _filter_other_event(self, raw: bytes) -> bytes:
        """Process an event without data: a comment passes, the end of a stream is held back with the rest of it."""
        if b"[DONE]" in raw and self._current_round.may_be_hidden:
            self._held_events.append(raw)
            return b""
        return raw

    def _filter_lifecycle_event(self, raw: bytes, event: Json, response: Json) -> bytes:
        """Process an event about the response as a whole: its beginning, or its end."""
        event_type, late_events = str(event.get("type")), b""
        if event_type in _END_EVENTS:
            current = self._current_round
            late_events = self._settle()
            name = event_type.removeprefix("response.")
            status = response.get("status") if name == "done" else name
            current.response, current.end_status = response, str(status or "completed")
            if self.awaits_expansion:
                self._held_events = [raw]
                return late_events
        elif len(self._rounds) > 1:
            return b""
        self._streamed_id = self._streamed_id or response.get("id")
        return late_events + self._renumber_event(raw, event, response=self._filter_response(response))

    def _filter_response(self, response: Json) -> Json:
        """Return a response as the client gets it: the same object if nothing in it is hidden."""
        current, changes = self._current_round, dict[str, Any]()
        if is_array(tools := response.get("tools")) and any(map(_is_expand_tool, tools)):
            changes["tools"] = [tool for tool in tools if not _is_expand_tool(tool)]
        if response is current.response and (len(self._rounds) > 1 or current.has_hidden_items):
            changes["output"] = self.list_visible_elements()
        elif is_array(output := response.get("output")) and any(
            is_object(item) and is_expand_call(item) for item in output
        ):
            changes["output"] = [item for item in output if not (is_object(item) and is_expand_call(item))]
        may_rename = self._has_client_id or len(self._rounds) > 1
        if self._streamed_id and "id" in response and response["id"] != self._streamed_id and may_rename:
            changes["id"] = self._streamed_id
        return merge(response, changes) if changes else response

    def _renumber_item_event(self, raw: bytes, event: Json, item: StreamedItem) -> bytes:
        if not isinstance(index := event.get("output_index"), int):
            return self._renumber_event(raw, event)
        client_index = item.client_index if self._must_renumber else index
        return self._renumber_event(raw, event, output_index=client_index)

    def _renumber_event(self, raw: bytes, event: Json, **changes: object) -> bytes:
        """Return an event with the client's numbers: the same bytes if nothing changes."""
        number = event.get("sequence_number")
        if isinstance(number, int):
            self._last_sequence_number = self._last_sequence_number + 1 if self._must_renumber else number
            changes["sequence_number"] = self._last_sequence_number
        if all(event.get(name) is value or event.get(name) == value for name, value in changes.items()):
            return raw
        return _encode_event(raw, merge(event, changes))


def filter_stored_response(payload: bytes, client_id: str, upstream_id: str) -> bytes:
    """Return a response stored by the upstream, or the list of its input items, without the hidden calls.

    The client knows the response by its `client_id`.
    """
    stored = parse_object_exactly(payload)
    if stored is None:
        return payload
    items = stored.get("data")
    if is_array(items):
        hidden_ids = {item.get("call_id") for item in items if is_object(item) and is_expand_call(item)}
        visible_items = [item for item in items if not (is_object(item) and item.get("call_id", "") in hidden_ids)]
        visible = stored if len(visible_items) == len(items) else merge(stored, {"data": visible_items})
    else:
        visible = ResponsesReplyFilter().filter_reply(stored)
        if client_id != upstream_id and visible.get("id") == upstream_id:
            visible = merge(visible, {"id": client_id})
    return payload if visible is stored else json_codec.dumps(visible)


def _build_step(item: Json) -> _ReplyStep:
    return (item, "", None) if is_expand_call(item) else (None, responses_items.hash_item(item), item.get("id"))


def _is_expand_tool(tool: object) -> bool:
    return is_object(tool) and tool.get("name") in HIDDEN_TOOL_NAMES


def _encode_event(raw: bytes, event: Json) -> bytes:
    """Return an event with new data between the other lines of the raw event."""
    other_lines = [line for line in raw.splitlines() if line and not line.startswith(b"data:")]
    return b"\n".join([*other_lines, b"data: " + json_codec.dumps(event), b"", b""])
