"""One reply to a Responses request as far as it has arrived: its items, and those that the client sees.

Upstreams number items correctly, all alike, or not at all. An event belongs to the item with its `item_id`, else to
the latest item with its `output_index`, else to the last item that was added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import json_codec, reply_round, responses_items
from .expand_call import ExpandCall
from .json_types import Json, is_array, is_object
from .responses_items import get_item_type, is_expand_call

_ADDED_EVENT, _DONE_EVENT = "response.output_item.added", "response.output_item.done"


@dataclass(slots=True)
class StreamedItem:
    """An item of a stream. Until the client sees it, its `client_index` is unset (None)."""

    fields: Json
    is_done: bool = False
    client_index: int | None = None
    argument_pieces: list[str] = field(default_factory=list[str])
    held_events: list[tuple[bytes, Json]] = field(default_factory=list[tuple[bytes, Json]])

    @property
    def is_undecided(self) -> bool:
        """Return True while the name of a call can still become the name of the proxy's tool."""
        name = self.fields.get("name") or ""
        is_call = get_item_type(self.fields) == "function_call"
        is_partial = isinstance(name, str) and reply_round.may_be_expand_name(name)
        return is_call and not self.is_done and is_partial and not is_expand_call(self.fields)

    def update(self, event: Json) -> None:
        """Record what an event says about the item."""
        event_type, item = str(event.get("type")), event.get("item")
        if is_object(item):
            self.fields = item
            self.is_done = self.is_done or event_type == _DONE_EVENT
        elif get_item_type(self.fields) == "function_call":
            self._update_call(event_type, event)

    def _update_call(self, event_type: str, event: Json) -> None:
        if event_type.endswith("arguments.delta") and isinstance(delta := event.get("delta"), str):
            self.argument_pieces.append(delta)
        elif event_type.endswith("arguments.done") and isinstance(arguments := event.get("arguments"), str):
            self.argument_pieces = [arguments]
        if isinstance(name := event.get("name"), str) and not self.fields.get("name"):
            self.fields = {**self.fields, "name": name}

    def build(self) -> Json:
        """Return the item with the arguments received so far."""
        if not self.argument_pieces or self.fields.get("arguments"):
            return self.fields
        return {**self.fields, "arguments": json_codec.join_text(self.argument_pieces)}


@dataclass(slots=True)
class ResponsesRound:
    """One reply. `response` is the one at its end; `results` answer its hidden calls."""

    items: list[StreamedItem] = field(default_factory=list[StreamedItem])
    response: Json = field(default_factory=dict[str, Any])
    results: Sequence[str] = ()
    end_status: str = ""
    _latest_by_index: dict[int, StreamedItem] = field(default_factory=dict[int, StreamedItem])

    def find_item(self, event: Json) -> StreamedItem | None:
        """Return the item that an event belongs to; an item that is added, or done for the first time, is new."""
        item, index = event.get("item"), event.get("output_index")
        fields: Json = item if is_object(item) else {}
        match = self._find_by_id(event.get("item_id") or fields.get("id")) or self._find_by_id(fields.get("call_id"))
        if match is None and event.get("type") != _ADDED_EVENT:
            match = self._latest_by_index.get(index) if isinstance(index, int) else self._find_latest(fields)
            if match is not None and match.is_done and event.get("type") == _DONE_EVENT:
                match = None  # all items have the same index
        if match is None and fields:
            match = StreamedItem(fields)
            self.items.append(match)
        if match is not None and isinstance(index, int):
            self._latest_by_index[index] = match
        return match

    def _find_by_id(self, item_id: object) -> StreamedItem | None:
        if not isinstance(item_id, str) or not item_id:
            return None
        ids = ((item, (item.fields.get("id"), item.fields.get("call_id"))) for item in reversed(self.items))
        return next((item for item, item_ids in ids if item_id in item_ids), None)

    def _find_latest(self, fields: Json) -> StreamedItem | None:
        """Return the last item; for an item that is done the last one of its type that is not."""
        if not fields:
            return self.items[-1] if self.items else None
        matches = (item for item in reversed(self.items) if get_item_type(item.fields) == get_item_type(fields))
        return next((item for item in matches if not item.is_done), None)

    @property
    def visible_streamed_count(self) -> int:
        """Return the number of items that the client has seen in this stream."""
        return sum(item.client_index is not None for item in self.items)

    @property
    def output_items(self) -> list[Json]:
        """List the items as the end of the reply lists them, or else as they came."""
        output = self.response.get("output")
        items = output if is_array(output) and output else [item.build() for item in self.items]
        return [item for item in items if is_object(item)]

    @property
    def answerable_items(self) -> list[Json]:
        """List the items without a truncated call of the proxy's tool, which cannot be answered."""
        truncated = {"incomplete"} if self.end_status == "completed" else {"incomplete", "in_progress"}
        if self.end_status:
            return [
                item
                for item in self.output_items
                if not (is_expand_call(item) and str(item.get("status")) in truncated)
            ]
        return [
            item
            for item in self.output_items
            if not is_expand_call(item) or reply_round.is_answerable(str(item.get("arguments")), None)
        ]

    @property
    def visible_items(self) -> list[Json]:
        """List the items that the client sees."""
        return [item for item in self.output_items if not is_expand_call(item)]

    @property
    def hidden_items(self) -> list[Json]:
        """List the calls of the proxy's tool that can be answered."""
        return [item for item in self.answerable_items if is_expand_call(item)]

    @property
    def has_hidden_items(self) -> bool:
        """Return True if the proxy's tool is called, even if the call cannot be answered."""
        return any(map(is_expand_call, self.output_items))

    @property
    def calls_client(self) -> bool:
        """Return True if the reply calls a tool of the client."""
        return responses_items.awaits_client(self.answerable_items)

    @property
    def is_hidden(self) -> bool:
        """Return True if the model waits for the proxy's tool alone."""
        calls = self.list_expand_calls()
        return reply_round.is_round_hidden(calls, self.end_status, calls_client=bool(calls) and self.calls_client)

    @property
    def may_be_hidden(self) -> bool:
        """Return True if the end of this round is held back, because another round may follow."""
        return self.has_hidden_items and not self.calls_client and not reply_round.is_cut_off(self.end_status)

    def list_expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool that can be answered."""
        return [
            ExpandCall(
                str(item.get("call_id")), reply_round.encode_arguments(item.get("arguments")), str(item.get("name"))
            )
            for item in self.hidden_items
        ]

    def build_call_outputs(self) -> list[Json]:
        """Return the outputs of the hidden calls that have results."""
        return [
            responses_items.build_call_output(item, result)
            for item, result in zip(self.hidden_items, self.results, strict=False)
        ]

    def list_returnable_items(self) -> list[Json]:
        """List the items that the upstream accepts as input."""
        is_stored = self.response.get("store") is not False
        return [
            item for item in self.answerable_items if is_stored or not responses_items.is_unresolvable_reasoning(item)
        ]
