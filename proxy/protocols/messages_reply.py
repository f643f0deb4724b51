"""Filters the replies to one Anthropic request: removes the calls of `clara_expand` and joins the rounds.

A filter lives for one request and all its rounds, which the client sees as one message with consecutive block indexes.
Events pass at once, as the same bytes unless their index changes. Two kinds are held back: the events of a hidden call,
and the end of a round that may be hidden.
"""

from collections.abc import Sequence

from . import json_codec, sse, usage_fields
from .api_errors import has_error
from .expand_call import ExpandCall
from .json_codec import merge
from .json_types import Json, is_object
from .messages_blocks import identify_block
from .messages_round import Block, MessagesRound, list_content_blocks

_INPUT_TOKEN_FIELDS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class MessagesReplyFilter:
    """Filters a message over one or several rounds."""

    def __init__(self) -> None:
        self._rounds = [MessagesRound(0)]
        self._first_reply_fields: Json = {}
        self._final_event: Json = {}
        self._held_events: list[bytes] = []
        self._hidden_messages: list[Json] = []

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        return usage_fields.sum_usages([each_round.usage for each_round in self._rounds])

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
        return bool(self._current_round.stop_reason) or self._current_round.has_ended

    @property
    def _current_round(self) -> MessagesRound:
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
            case "message_stop":
                self._current_round.has_ended = True
                return self._hold_or_pass(raw)
            case _ if has_error(event):
                self._current_round.stop_reason = "error"
                return self._hold_or_pass(raw)
            case _:
                return raw

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply and return it as the client gets it if this is the last round."""
        current, content = self._current_round, list_content_blocks(reply.get("content"))
        self._record_usage(reply.get("usage"))
        current.has_ended = True
        if content is None or "content" not in reply:
            return reply
        stop_reason = reply.get("stop_reason")
        current.stop_reason = stop_reason if isinstance(stop_reason, str) else None
        for index, block in enumerate(content):
            current.start_block(index, block)
        if len(self._rounds) == 1:
            self._first_reply_fields = {"id": reply["id"]} if "id" in reply else {}
            if not current.has_hidden:
                return reply
        changes: Json = {"content": [block for each_round in self._rounds for block in each_round.visible_blocks]}
        if self.awaits_expansion:
            changes["stop_reason"] = "end_turn"
        return merge(reply, self._first_reply_fields, changes)

    def end_round(self) -> bytes:
        """Process the end of a stream and return the held bytes, unless another round follows."""
        self._current_round.has_ended = True
        if self.awaits_expansion:
            return b""
        held, self._held_events = b"".join(self._held_events), []
        return held

    def build_whole_reply(self) -> Json:
        """Return the streamed reply of this round as a whole one."""
        current = self._current_round
        fields: Json = {"type": "message", "role": "assistant", "stop_sequence": None, **current.message}
        content = [block.build() for block in current.blocks]
        return fields | {"content": content, "stop_reason": current.stop_reason, "usage": current.usage}

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the messages that answer this round's calls."""
        current = self._current_round
        messages: list[Json] = [
            {"role": "assistant", "content": current.list_returnable_blocks()},
            {"role": "user", "content": current.build_tool_results(results)},
        ]
        self._hidden_messages += messages
        self._held_events = []
        self._rounds.append(MessagesRound(current.first_client_index + current.visible_count))
        return messages

    def finish_stream(self) -> bytes:
        """Return the end of a stream if the model keeps calling the tool."""
        delta = self._final_event.get("delta")
        changes = {
            "type": "message_delta",
            "delta": merge(delta if is_object(delta) else {}, {"stop_reason": "end_turn"}),
            "usage": self._build_final_usage(self._final_event.get("usage")),
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
        calls = current.list_positioned_calls()
        if not self._hidden_messages and not calls:
            return None
        earlier = [block for each_round in self._rounds[:-1] for block in each_round.visible_blocks]
        keys = [identify_block(block) for block in [*earlier, *current.visible_blocks]]
        return {
            "before": self._hidden_messages,
            "cut": len(earlier),
            "strip": sum(len(str(block.get("text") or "")) for block in earlier if block.get("type") == "text"),
            "keys": json_codec.loads_readable(json_codec.dumps(keys)),  # clients' texts are read in the same way
            "calls": calls,
            "after": current.build_tool_results(results),
        }

    def _filter_message_start(self, raw: bytes, event: Json) -> bytes:
        if is_object(message := event.get("message")):
            self._record_usage(message.get("usage"))
            self._current_round.message = message
        return raw if len(self._rounds) == 1 else b""

    def _filter_block_event(self, raw: bytes, event: Json) -> bytes:
        current, index = self._current_round, event.get("index")
        if is_object(start := event.get("content_block")):
            block: Block | None = current.start_block(index, start)
        else:
            block = current.find_block(index)
        if block is None:
            return raw
        if is_object(delta := event.get("delta")):
            block.add_delta(delta)
        if block.client_index is None:
            return b""
        is_renumbered = len(self._rounds) > 1 or current.has_hidden
        if not is_renumbered or block.client_index == index:
            return raw
        return _encode_event(merge(event, {"index": block.client_index}))

    def _filter_message_delta(self, raw: bytes, event: Json) -> bytes:
        current = self._current_round
        self._record_usage(event.get("usage"))
        if is_object(delta := event.get("delta")) and isinstance(reason := delta.get("stop_reason"), str) and reason:
            current.stop_reason = reason
        if current.may_be_hidden:
            self._final_event = event
        if len(self._rounds) > 1:
            raw = _encode_event(merge(event, {"usage": self._build_final_usage(event.get("usage"))}))
        return self._hold_or_pass(raw)

    def _hold_or_pass(self, raw: bytes) -> bytes:
        """Hold back a part of the end of a round that may be hidden. Otherwise return all parts."""
        self._held_events.append(raw)
        if self._current_round.may_be_hidden:
            return b""
        held, self._held_events = b"".join(self._held_events), []
        return held

    def _record_usage(self, usage: object) -> None:
        """Record a part of a round's usage, whose counts are cumulative."""
        if is_object(usage):
            self._current_round.usage = usage_fields.merge_usages(self._current_round.usage, usage)

    def _build_final_usage(self, usage: object) -> Json:
        """Return the usage of the last round, input tokens included: the client has seen those of the first."""
        fields = usage if is_object(usage) else {}
        recorded = self._current_round.usage
        return fields | {name: value for name, value in recorded.items() if name in (*fields, *_INPUT_TOKEN_FIELDS)}


def _encode_event(event: Json) -> bytes:
    return sse.encode_event(json_codec.dumps(event), name=str(event.get("type")))
