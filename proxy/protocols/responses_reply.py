"""Filters the replies to one Responses request: removes the calls of `clara_expand` and joins the rounds.

A filter lives for one request and all its rounds. The client sees one reply, which begins as the first round and ends
as the last. Events pass at once. Two kinds are held back: the events of a hidden call, and the end of a round in which
the model waits for the proxy's tool alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import expand_call, json_codec, responses_items, sse
from .expand_call import TOOL_NAME, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object, parse_object_exactly
from .responses_items import is_expand_call

_START_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress"})
_END_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})

# A hidden item, or the hash and the id of an item that the client sees.
_ReplyStep = tuple[Json | None, str, object]


@dataclass(slots=True)
class _Round:
    """One reply of the upstream so far: its items by index, and the index at the client of those that it sees."""

    items: dict[int, Json] = field(default_factory=dict[int, Json])
    client_indexes: dict[int, int] = field(default_factory=dict[int, int])
    response: Json = field(default_factory=dict[str, Any])
    results: Sequence[str] = ()
    end_status: str = ""

    @property
    def output_items(self) -> list[Json]:
        """List the items as the end of the reply lists them, or else as they came."""
        output = self.response.get("output")
        items = output if is_array(output) and output else [item for _, item in sorted(self.items.items())]
        return [item for item in items if is_object(item)]

    @property
    def answerable_items(self) -> list[Json]:
        """List the items without a truncated call of the proxy's tool, which cannot be answered."""
        truncated = {"incomplete"} if self.end_status == "completed" else {"incomplete", "in_progress"}
        return [
            item for item in self.output_items if not (is_expand_call(item) and str(item.get("status")) in truncated)
        ]

    @property
    def visible_items(self) -> list[Json]:
        return [item for item in self.output_items if not is_expand_call(item)]

    @property
    def expand_calls(self) -> list[Json]:
        return [item for item in self.answerable_items if is_expand_call(item)]

    def build_call_outputs(self) -> list[Json]:
        """Return the outputs of the hidden calls that have results."""
        return [
            responses_items.build_call_output(item, result)
            for item, result in zip(self.expand_calls, self.results, strict=False)
        ]

    def list_returnable_items(self) -> list[Json]:
        """List the items that the upstream accepts as input."""
        is_stored = self.response.get("store") is not False
        return [
            item for item in self.answerable_items if is_stored or not responses_items.is_unresolvable_reasoning(item)
        ]


class ResponsesReplyFilter:
    """Filters a response over one or several rounds."""

    def __init__(self) -> None:
        self._rounds = [_Round()]
        self._held_events: list[bytes] = []
        self._earlier_item_count = 0  # visible items of earlier rounds
        self._last_sequence_number = -1  # of the last event that the client got
        self._must_renumber = False

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        usages = [usage for each_round in self._rounds if is_object(usage := each_round.response.get("usage"))]
        return expand_call.sum_usages(usages)

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool in this round."""
        calls = self._current_round.expand_calls
        return [ExpandCall(str(call.get("call_id")), str(call.get("arguments"))) for call in calls]

    @property
    def awaits_expansion(self) -> bool:
        """Return True if the model waits for the proxy's tool alone, so another round follows."""
        current = self._current_round
        if current.end_status != "completed" or not current.expand_calls:
            return False
        return not responses_items.awaits_client(current.answerable_items)

    @property
    def is_complete(self) -> bool:
        """Return True if this round's reply has reached its end."""
        return bool(self._current_round.end_status)

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    def filter_event(self, raw: bytes) -> bytes:
        """Process one whole event of a stream and return the part for the client."""
        if self._held_events:
            self._held_events.append(raw)  # it follows an end that is held back
            return b""
        current, event = self._current_round, sse.parse_data(raw)
        if is_object(response := event.get("response")):
            return self._filter_lifecycle_event(raw, event, response)
        if str(event.get("type")) in _START_EVENTS and len(self._rounds) > 1:
            return b""
        index = event.get("output_index")
        if not isinstance(index, int):
            return self._renumber_event(raw, event)
        if is_object(item := event.get("item")):
            current.items[index] = item
        if is_expand_call(current.items.get(index, {})):
            self._must_renumber = True
            return b""
        next_index = self._earlier_item_count + len(current.client_indexes)
        return self._renumber_event(raw, event, output_index=current.client_indexes.setdefault(index, next_index))

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply and return it as the client gets it if this is the last round."""
        self._current_round.response, self._current_round.end_status = reply, str(reply.get("status") or "completed")
        return self._filter_response(reply)

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the items that answer this round's calls, behind the model's own items."""
        current = self._current_round
        current.results = results
        items = [*current.list_returnable_items(), *current.build_call_outputs()]
        self._earlier_item_count += len(current.visible_items)
        self._rounds.append(_Round())
        self._held_events, self._must_renumber = [], True
        return items

    def finish_stream(self) -> bytes:
        """Return the end of a stream whose model keeps calling the tool."""
        (end, *rest), self._held_events = self._held_events, []
        response = self._filter_response(self._current_round.response)
        return self._renumber_event(end, sse.parse_data(end), response=response) + b"".join(rest)

    def list_visible_elements(self) -> list[Json]:
        """Return the items that the client sends back later as this reply."""
        return [item for each_round in self._rounds for item in each_round.visible_items]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return the hidden calls and answers for re-insertion. `results` answer the calls of the last round.

        The record lists all `steps` of the reply: hidden items in full, the client's items by hash and id. A client may
        send one of the `ids` instead of the reply: the id of its last item, or the id of the whole reply if the
        upstream does not know the `results` yet.
        """
        current = self._current_round
        current.results = results
        if not any(each_round.expand_calls for each_round in self._rounds):
            return None
        steps: list[_ReplyStep] = []
        for each_round in self._rounds:
            steps += [_build_step(item) for item in each_round.answerable_items]
            if each_round is not current:
                steps += [(output, "", None) for output in each_round.build_call_outputs()]
        outputs = current.build_call_outputs()
        ids = [item.get("id") for item in self.list_visible_elements()[-1:]]
        if outputs:
            ids.append(current.response.get("id"))
        return {"ids": [item_id for item_id in ids if isinstance(item_id, str)], "steps": steps, "results": outputs}

    def _filter_lifecycle_event(self, raw: bytes, event: Json, response: Json) -> bytes:
        """Process an event about the response as a whole: its beginning, or its end."""
        event_type = str(event.get("type"))
        if event_type in _END_EVENTS:
            current = self._current_round
            current.response, current.end_status = response, event_type.removeprefix("response.")
            if self.awaits_expansion:
                self._held_events = [raw]
                return b""
        elif len(self._rounds) > 1:
            return b""
        return self._renumber_event(raw, event, response=self._filter_response(response))

    def _filter_response(self, response: Json) -> Json:
        """Return a response as the client gets it: the same object if nothing in it is hidden."""
        current, changes = self._current_round, dict[str, Any]()
        if is_array(tools := response.get("tools")) and any(map(_is_expand_tool, tools)):
            changes["tools"] = [tool for tool in tools if not _is_expand_tool(tool)]
        has_hidden_items = len(self._rounds) > 1 or any(map(is_expand_call, current.output_items))
        if response is current.response and has_hidden_items:
            changes |= {"output": self.list_visible_elements(), "usage": self.usage}
        return merge(response, changes) if changes else response

    def _renumber_event(self, raw: bytes, event: Json, **changes: object) -> bytes:
        """Return an event with the client's numbers: the same bytes if nothing changes."""
        number = event.get("sequence_number")
        if isinstance(number, int):
            self._last_sequence_number = self._last_sequence_number + 1 if self._must_renumber else number
            changes["sequence_number"] = self._last_sequence_number
        if all(event.get(name) is value or event.get(name) == value for name, value in changes.items()):
            return raw
        return _encode_event(raw, merge(event, changes))


def filter_stored_response(payload: bytes) -> bytes:
    """Return a response stored by the upstream, or the list of its input items, without the hidden calls."""
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
    return payload if visible is stored else json_codec.dumps(visible)


def _build_step(item: Json) -> _ReplyStep:
    return (item, "", None) if is_expand_call(item) else (None, responses_items.hash_item(item), item.get("id"))


def _is_expand_tool(tool: object) -> bool:
    return is_object(tool) and tool.get("name") == TOOL_NAME


def _encode_event(raw: bytes, event: Json) -> bytes:
    """Return an event with new data between the other lines of the raw event."""
    other_lines = [line for line in raw.splitlines() if line and not line.startswith(b"data:")]
    return b"\n".join([*other_lines, b"data: " + json_codec.dumps(event), b"", b""])
