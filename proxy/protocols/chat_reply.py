"""Filters the replies to one chat completion: removes the calls of `clara_expand` and joins the rounds.

A filter lives for one request and all its rounds, which the client sees as one reply. Events pass at once, except those
of a hidden call. The text of a round whose calls were all hidden precedes the text of the next round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import expand_call, json_codec, sse
from .expand_call import TOOL_NAME, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object

_REASONING_PREFIXES = ("reasoning", "thinking", "extra_content")  # of fields that some providers want back
_TOOL_FINISH_REASONS = frozenset({"tool_calls", "function_call", "stop"})  # of replies that wait for tools
_CALL_FIELDS = frozenset({"index", "id", "type", "function"})


@dataclass(slots=True)
class _Round:
    """One reply of the upstream so far: its calls by number, and the index at the client of those that it sees.

    `reasoning` goes back to the provider with the calls, which it rejects without it.
    """

    texts: list[str] = field(default_factory=list[str])
    reasoning: Json = field(default_factory=dict[str, Any])
    calls: dict[int, Json] = field(default_factory=dict[int, Json])
    latest_call_numbers: dict[int, int] = field(default_factory=dict[int, int])
    client_indexes: dict[int, int] = field(default_factory=dict[int, int])
    usage: Json = field(default_factory=dict[str, Any])
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return json_codec.join_text(self.texts)

    @property
    def visible_calls(self) -> list[Json]:
        return [self.calls[number] for number in self.client_indexes]

    def list_expand_calls(self) -> list[tuple[int, Json]]:
        return [(number, call) for number, call in sorted(self.calls.items()) if number not in self.client_indexes]

    def resolve_call_number(self, piece: Json) -> int:
        """Return the number of the call that a piece belongs to.

        Some providers give all calls the same index, or none. There a new id begins a new call.
        """
        value = piece.get("index")
        index = value if isinstance(value, int) else 0
        call = self.calls.get(self.latest_call_numbers.get(index, -1))
        if call is None or (_get_function_name(piece) and piece.get("id") not in (None, "", call["id"])):
            self.latest_call_numbers[index] = len(self.calls)
        return self.latest_call_numbers[index]

    def next_client_index(self, piece: Json) -> int:
        """Return the index of a new call at the client: the provider's own until a call has been hidden."""
        index = piece.get("index")
        all_visible = len(self.calls) == len(self.client_indexes) + 1
        return index if isinstance(index, int) and all_visible else max(self.client_indexes.values(), default=-1) + 1

    def add_reasoning(self, message: Json) -> None:
        """Record the reasoning in a message or in a piece of one."""
        for name, value in message.items():
            if name.startswith(_REASONING_PREFIXES) and value:
                previous = self.reasoning.get(name)
                pair = (previous, value)
                is_piece = all(isinstance(part, str) for part in pair) or all(map(is_array, pair))
                self.reasoning[name] = previous + value if is_piece else value


class ChatReplyFilter:
    """Filters a reply with one choice, over one or several rounds."""

    def __init__(self) -> None:
        self._rounds = [_Round()]
        self._first_chunk_fields: Json = {}
        self._final_chunk: Json = {}
        self._held_events: list[bytes] = []
        self._hidden_messages: list[Json] = []

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        return expand_call.sum_usages([each_round.usage for each_round in self._rounds])

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool in this round."""
        return [_build_expand_call(call) for _, call in self._current_round.list_expand_calls()]

    @property
    def awaits_expansion(self) -> bool:
        """Return True if the model waits for the proxy's tool alone, so another round follows."""
        current = self._current_round
        is_waiting = current.finish_reason in _TOOL_FINISH_REASONS
        return is_waiting and bool(current.list_expand_calls()) and not current.client_indexes

    @property
    def is_complete(self) -> bool:
        """Return True if this round's reply has reached its end."""
        return self._current_round.finish_reason is not None

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    @property
    def _text(self) -> str:
        """Return the text of all rounds."""
        return json_codec.join_text(text for each_round in self._rounds for text in each_round.texts)

    def filter_event(self, raw: bytes) -> bytes:
        """Process one whole event of a stream and return the part for the client."""
        chunk = sse.parse_data(raw)
        if is_object(usage := chunk.get("usage")):
            self._current_round.usage = usage
        choice = _get_choice(chunk)
        if choice is None:
            if self.awaits_expansion:
                self._held_events.append(raw)
                return b""
            return self._rewrite_trailing_event(raw)
        delta = choice.get("delta")
        if not is_object(delta):
            delta = {}
        visible_delta = self._filter_delta(delta)
        self._current_round.finish_reason = _get_finish_reason(choice) or self._current_round.finish_reason
        if choice.get("finish_reason") and self.awaits_expansion:
            self._final_chunk, self._held_events = chunk, []
            choice = merge(choice, {"finish_reason": None})
        if len(self._rounds) == 1:
            self._first_chunk_fields = self._first_chunk_fields or _pick(chunk, "id", "created")
            if visible_delta is delta and choice is _get_choice(chunk):
                return raw
        if not visible_delta and (delta or self.awaits_expansion) and not choice.get("finish_reason"):
            return b""
        changes: Json = {"choices": [merge(choice, {"delta": visible_delta})]}
        if chunk.get("usage") and len(self._rounds) > 1:
            changes["usage"] = self.usage
        return _encode_event(merge(chunk, self._first_chunk_fields, changes))

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply and return it as the client gets it if this is the last round."""
        current, choice = self._current_round, _get_choice(reply)
        current.usage = reply["usage"] if is_object(reply.get("usage")) else {}
        if choice is None or not is_object(message := choice.get("message")):
            return reply
        current.finish_reason = _get_finish_reason(choice)
        if isinstance(content := message.get("content"), str):
            current.texts.append(content)
        current.add_reasoning(message)
        calls = message.get("tool_calls")
        for number, call in enumerate(filter(is_object, calls) if is_array(calls) else ()):
            current.calls[number] = call
            if _get_function_name(call) != TOOL_NAME:
                current.client_indexes[number] = len(current.client_indexes)
        if len(self._rounds) == 1 and not current.list_expand_calls():
            return reply
        visible = merge(message, {"content": self._text or content, "tool_calls": current.visible_calls})
        finish_reason = choice.get("finish_reason")
        if not visible["tool_calls"]:
            del visible["tool_calls"]
            finish_reason = "stop" if finish_reason == "tool_calls" else finish_reason
        choice = merge(choice, {"message": visible, "finish_reason": finish_reason})
        return merge(reply, {"usage": self.usage, "choices": [choice]})

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the messages that answer this round's calls."""
        messages = [self._build_assistant_message(), *_build_tool_messages(self._current_round, results)]
        self._hidden_messages += messages
        self._rounds.append(_Round())
        return messages

    def finish_stream(self) -> bytes:
        """Return the end of a stream whose model keeps calling the tool."""
        choice = merge(_get_choice(self._final_chunk) or {}, {"delta": {}, "finish_reason": "stop"})
        last_event = _encode_event(merge(self._final_chunk, self._first_chunk_fields, {"choices": [choice]}))
        return last_event + b"".join(map(self._rewrite_trailing_event, self._held_events))

    def list_visible_elements(self) -> list[Json]:
        """Return the message that the client sends back later as this reply."""
        return [{"role": "assistant", "content": self._text, "tool_calls": self._current_round.visible_calls}]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return the hidden calls and answers for re-insertion. `results` answer the calls of the last round.

        The record holds the messages `before` the client's message, the number of characters to `strip` from that one,
        the hidden `calls` beside the client's own, and the messages `after` it.
        """
        calls = self._current_round.list_expand_calls()
        if not self._hidden_messages and not calls:
            return None
        earlier_texts = [text for each_round in self._rounds[:-1] for text in each_round.texts]
        return {
            "before": self._hidden_messages,
            "strip": len(json_codec.join_text(earlier_texts)),
            "calls": [[number, call] for number, call in calls],
            "after": _build_tool_messages(self._current_round, results),
        }

    def _filter_delta(self, delta: Json) -> Json:
        """Record a delta and return its visible part: the same object if all of it is visible."""
        if isinstance(content := delta.get("content"), str):
            self._current_round.texts.append(content)
        self._current_round.add_reasoning(delta)
        visible = merge(delta)
        if len(self._rounds) > 1:
            visible.pop("role", None)
        if is_array(pieces := delta.get("tool_calls")):
            visible["tool_calls"] = [
                self._renumber_piece(piece)
                for piece in pieces
                if is_object(piece) and not self._record_call_piece(piece)
            ]
        if visible == delta:
            return delta
        if not any(visible.values()):
            return {}
        if visible.get("tool_calls") == []:
            del visible["tool_calls"]
        return visible

    def _record_call_piece(self, piece: Json) -> bool:
        """Record a piece of a call and return True if the call is hidden; the first piece has its name."""
        current = self._current_round
        number = current.resolve_call_number(piece)
        if number not in current.calls:
            call: Json = {"id": piece.get("id"), "type": "function", "function": _start_function(piece)}
            current.calls[number] = call
            if _get_function_name(call) != TOOL_NAME:
                current.client_indexes[number] = current.next_client_index(piece)
        call = current.calls[number]
        call |= {name: value for name, value in piece.items() if name not in _CALL_FIELDS}
        function = piece.get("function")
        if is_object(function) and isinstance(arguments := function.get("arguments"), str):
            call["function"]["arguments"] += arguments
        return number not in current.client_indexes

    def _renumber_piece(self, piece: Json) -> Json:
        current = self._current_round
        if not current.list_expand_calls():  # the indexes are still the provider's
            return piece
        number = current.resolve_call_number(merge(piece, {"id": None}))
        return merge(piece, {"index": current.client_indexes[number]})

    def _rewrite_trailing_event(self, raw: bytes) -> bytes:
        """Return an event behind the last choice, with the usage of all rounds."""
        chunk = sse.parse_data(raw)
        if len(self._rounds) == 1 or not chunk:
            return raw
        usage = {"usage": self.usage} if chunk.get("usage") else {}
        return _encode_event(merge(chunk, self._first_chunk_fields, usage))

    def _build_assistant_message(self) -> Json:
        current = self._current_round
        calls = [call for _, call in sorted(current.calls.items())]
        return {"role": "assistant", "content": current.text or None, **current.reasoning, "tool_calls": calls}


def _pick(value: Json, *names: str) -> Json:
    return {name: value[name] for name in names if name in value}


def _get_choice(chunk: Json) -> Json | None:
    choices = chunk.get("choices")
    return choices[0] if is_array(choices) and choices and is_object(choices[0]) else None


def _get_finish_reason(choice: Json) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _start_function(piece: Json) -> Json:
    function = piece.get("function")
    return {"name": function.get("name") if is_object(function) else None, "arguments": ""}


def _get_function_name(call: Json) -> object:
    function = call.get("function")
    return function.get("name") if is_object(function) else None


def _build_expand_call(call: Json) -> ExpandCall:
    return ExpandCall(str(call.get("id")), json_codec.join_text([str(call["function"].get("arguments"))]))


def _build_tool_messages(each_round: _Round, results: Sequence[str]) -> list[Json]:
    return [
        {"role": "tool", "tool_call_id": call.get("id"), "content": result}
        for (_, call), result in zip(each_round.list_expand_calls(), results, strict=True)
    ]


def _encode_event(chunk: Json) -> bytes:
    return sse.encode_event(json_codec.dumps(chunk))
