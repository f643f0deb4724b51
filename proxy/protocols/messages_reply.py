"""Filters the replies to one Anthropic request: removes the calls of `clara_expand` and joins the rounds.

A filter lives for one request and all its rounds, which the client sees as one message with consecutive block indexes.
Events pass at once, as the same bytes unless their index changes. Two kinds are held back: the events of a hidden call,
and the end of a round after which the model waits for the proxy's tool alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import expand_call, json_codec, sse
from .expand_call import TOOL_NAME, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object, parse_object_exactly
from .messages_blocks import identify_block

_TOOL_USE = "tool_use"  # the type of a block that calls a tool, and the stop reason of a reply that waits for one
_PARTIAL_JSON = "partial_json"
_DELTA_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": _PARTIAL_JSON}
_INPUT_TOKEN_FIELDS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(slots=True)
class _Round:
    """One reply of the upstream so far: its blocks by index, and the index at the client of those that it sees."""

    first_client_index: int
    started_blocks: dict[int, Json] = field(default_factory=dict[int, Json])
    delta_pieces: dict[tuple[int, str], list[str]] = field(default_factory=dict[tuple[int, str], list[str]])
    client_indexes: dict[int, int] = field(default_factory=dict[int, int])
    usage: Json = field(default_factory=dict[str, Any])
    stop_reason: str | None = None

    def start_block(self, index: int, block: Json) -> None:
        """Record the start of a block. It gets an index at the client unless it is a hidden call."""
        self.started_blocks[index] = merge(block)
        if not (block.get("type") == _TOOL_USE and block.get("name") == TOOL_NAME):
            self.client_indexes[index] = self.first_client_index + len(self.client_indexes)

    def append_delta(self, index: int, delta: Json) -> None:
        """Record a delta of a block."""
        block, delta_type = self.started_blocks[index], str(delta.get("type"))
        if delta_type in _DELTA_FIELDS:
            name = _DELTA_FIELDS[delta_type]
            self.delta_pieces.setdefault((index, name), []).append(str(delta.get(name) or ""))
        elif delta_type == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        else:  # a signature comes whole; an unknown delta is taken for one that does
            block.update({name: value for name, value in delta.items() if name != "type"})

    def build_block(self, index: int) -> Json:
        """Return a block with the deltas received so far."""
        block = merge(self.started_blocks[index])
        for name in ("text", "thinking"):
            if (index, name) in self.delta_pieces:
                block[name] = json_codec.join_text([str(block.get(name) or ""), *self.delta_pieces[index, name]])
        if arguments := json_codec.join_text(self.delta_pieces.get((index, _PARTIAL_JSON), ())):
            block["input"] = parse_object_exactly(arguments.encode("utf-8", "backslashreplace")) or {}
        return block

    @property
    def expand_call_indexes(self) -> list[int]:
        """List the hidden calls of a reply that waits for tools."""
        if self.stop_reason != _TOOL_USE:
            return []
        return [index for index in sorted(self.started_blocks) if index not in self.client_indexes]

    @property
    def visible_blocks(self) -> list[Json]:
        """List the blocks that the client sees."""
        return [self.build_block(index) for index in self.client_indexes]

    @property
    def calls_client_tool(self) -> bool:
        """Return True if the reply calls a tool of the client."""
        return any(self.started_blocks[index].get("type") == _TOOL_USE for index in self.client_indexes)


class MessagesReplyFilter:
    """Filters a message over one or several rounds."""

    def __init__(self) -> None:
        self._rounds = [_Round(0)]
        self._first_reply_fields: Json = {}
        self._final_event: Json = {}
        self._hidden_messages: list[Json] = []

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        return expand_call.sum_usages([each_round.usage for each_round in self._rounds])

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool in this round."""
        blocks = map(self._current_round.build_block, self._current_round.expand_call_indexes)
        return [ExpandCall(str(block.get("id")), json_codec.dumps(block.get("input")).decode()) for block in blocks]

    @property
    def awaits_expansion(self) -> bool:
        """Return True if the model waits for the proxy's tool alone, so another round follows."""
        return bool(self._current_round.expand_call_indexes) and not self._current_round.calls_client_tool

    @property
    def is_complete(self) -> bool:
        """Return True if this round's reply has reached its end."""
        return bool(self._current_round.stop_reason)

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    def filter_event(self, raw: bytes) -> bytes:
        """Process one whole event of a stream and return the part for the client."""
        event = sse.parse_data(raw)
        match event.get("type"):
            case "message_start":
                return self._filter_message_start(raw, event)
            case "content_block_start" | "content_block_delta" | "content_block_stop":
                return self._filter_block_event(raw, event)
            case "message_delta":
                return self._filter_message_delta(raw, event)
            case "message_stop" if self.awaits_expansion:
                return b""
            case _:
                return raw

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply and return it as the client gets it if this is the last round."""
        current, content = self._current_round, reply.get("content")
        self._record_usage(reply.get("usage"))
        if not is_array(content) or not all(map(is_object, content)):
            return reply
        current.stop_reason = reply.get("stop_reason")
        for index, block in enumerate(content):
            current.start_block(index, block)
        if len(self._rounds) == 1:
            self._first_reply_fields = {"id": reply["id"]} if "id" in reply else {}
            if len(current.client_indexes) == len(content):
                return reply
        changes = {
            "content": [block for each_round in self._rounds for block in each_round.visible_blocks],
            "stop_reason": "end_turn" if self.awaits_expansion else current.stop_reason,
            "usage": current.usage | (self.usage or {}),
        }
        return merge(reply, self._first_reply_fields, changes)

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the messages that answer this round's calls."""
        current = self._current_round
        blocks = [current.build_block(index) for index in sorted(current.started_blocks)]
        messages: list[Json] = [
            {"role": "assistant", "content": [block for block in blocks if not _is_empty_text(block)]},
            {"role": "user", "content": self._build_tool_results(results)},
        ]
        self._hidden_messages += messages
        self._rounds.append(_Round(current.first_client_index + len(current.client_indexes)))
        return messages

    def finish_stream(self) -> bytes:
        """Return the end of a stream whose model keeps calling the tool."""
        delta = self._final_event.get("delta")
        changes = {
            "delta": merge(delta if is_object(delta) else {}, {"stop_reason": "end_turn"}),
            "usage": self._build_total_usage(self._final_event.get("usage")),
        }
        return _encode_event(merge(self._final_event, changes)) + _encode_event({"type": "message_stop"})

    def list_visible_elements(self) -> list[Json]:
        """Return the message that the client sends back later as this reply."""
        content = [block for each_round in self._rounds for block in each_round.visible_blocks]
        return [{"role": "assistant", "content": content}]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return the hidden calls and answers for re-insertion. `results` answer the calls of the last round.

        The record holds the messages `before` the client's message, the number of its blocks (`cut`) and characters
        (`strip`) that these contain, the `keys` of all its blocks, the hidden `calls` with their positions among them,
        and the blocks `after` it that answer the calls.
        """
        current = self._current_round
        if not self._hidden_messages and not current.expand_call_indexes:
            return None
        earlier = [block for each_round in self._rounds[:-1] for block in each_round.visible_blocks]
        keys = [identify_block(block) for block in [*earlier, *current.visible_blocks]]
        calls = [
            [
                current.first_client_index + sum(visible < index for visible in current.client_indexes),
                current.build_block(index),
            ]
            for index in current.expand_call_indexes
        ]
        return {
            "before": self._hidden_messages,
            "cut": len(earlier),
            "strip": sum(len(str(block.get("text") or "")) for block in earlier if block.get("type") == "text"),
            "keys": json_codec.loads_readable(json_codec.dumps(keys)),  # clients' texts are read in the same way
            "calls": calls,
            "after": self._build_tool_results(results),
        }

    def _filter_message_start(self, raw: bytes, event: Json) -> bytes:
        if is_object(message := event.get("message")):
            self._record_usage(message.get("usage"))
        return raw if len(self._rounds) == 1 else b""

    def _filter_block_event(self, raw: bytes, event: Json) -> bytes:
        current, index = self._current_round, event.get("index")
        if not isinstance(index, int):
            return raw
        if is_object(block := event.get("content_block")):
            current.start_block(index, block)
        elif is_object(delta := event.get("delta")) and index in current.started_blocks:
            current.append_delta(index, delta)
        client_index = current.client_indexes.get(index)
        if client_index is None:
            return b"" if index in current.started_blocks else raw
        return raw if client_index == index else _encode_event(merge(event, {"index": client_index}))

    def _filter_message_delta(self, raw: bytes, event: Json) -> bytes:
        self._record_usage(event.get("usage"))
        if is_object(delta := event.get("delta")):
            self._current_round.stop_reason = delta.get("stop_reason") or self._current_round.stop_reason
        if self.awaits_expansion:
            self._final_event = event
            return b""
        if len(self._rounds) == 1:
            return raw
        return _encode_event(merge(event, {"usage": self._build_total_usage(event.get("usage"))}))

    def _record_usage(self, usage: object) -> None:
        """Record a part of a round's usage. For each field the last value counts."""
        if is_object(usage):
            self._current_round.usage |= {name: value for name, value in usage.items() if value is not None}

    def _build_total_usage(self, usage: object) -> Json:
        """Return a final usage over all rounds, input tokens included."""
        fields = usage if is_object(usage) else {}
        total = self.usage or {}
        return fields | {name: value for name, value in total.items() if name in (*fields, *_INPUT_TOKEN_FIELDS)}

    def _build_tool_results(self, results: Sequence[str]) -> list[Json]:
        current = self._current_round
        call_ids = [current.started_blocks[index].get("id") for index in current.expand_call_indexes]
        return [
            {"type": "tool_result", "tool_use_id": call_id, "content": result}
            for call_id, result in zip(call_ids, results, strict=True)
        ]


def _is_empty_text(block: Json) -> bool:
    """Return True for a text block without text, which the API rejects in a request."""
    return block.get("type") == "text" and not str(block.get("text") or "").strip()


def _encode_event(event: Json) -> bytes:
    return sse.encode_event(json_codec.dumps(event), name=str(event.get("type")))
