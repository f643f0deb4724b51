"""Reads the replies to one chat completion and takes out what only the proxy asked for: calls of `clara_expand`.

One object a request, living through all its rounds: to the client they are one reply. Events go on at once; held back
are only those of a call that is ours. What the model said in a round whose calls were all ours stands before what it
says in the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from . import expand_call, sse
from .expand_call import TOOL_NAME, ExpandCall
from .json_types import Json, is_array, is_object

_REASONING_PREFIXES = ("reasoning", "thinking", "extra_content")  # how the fields begin that some providers want back
_TOOL_FINISH_REASONS = frozenset({"tool_calls", "function_call", "stop"})  # how a reply may end that waits for tools
_CALL_FIELDS = frozenset({"index", "id", "type", "function"})


@dataclass(slots=True)
class _Round:
    """What one reply of the upstream has said so far; `calls` in their order, `places` of those that the client sees.

    `thought` is what has to go back with the calls, as the provider would refuse them without it.
    """

    texts: list[str] = field(default_factory=list[str])
    reasoning: Json = field(default_factory=dict[str, Any])
    calls: dict[int, Json] = field(default_factory=dict[int, Json])
    latest_call_numbers: dict[int, int] = field(default_factory=dict[int, int])
    client_indexes: dict[int, int] = field(default_factory=dict[int, int])
    usage: Json = field(default_factory=dict[str, Any])
    finish_reason: str | None = None

    def list_expand_calls(self) -> list[tuple[int, Json]]:
        return [(index, call) for index, call in sorted(self.calls.items()) if index not in self.client_indexes]

    def resolve_call_number(self, piece: Json) -> int:
        """Return which call a piece is of: where a provider gives all of them one index, or none, an id begins one."""
        given = piece.get("index")
        index = given if isinstance(given, int) else 0
        known = self.calls.get(self.latest_call_numbers.get(index, -1))
        if known is None or (_get_function_name(piece) and piece.get("id") not in (None, "", known["id"])):
            self.latest_call_numbers[index] = len(self.calls)
        return self.latest_call_numbers[index]

    def next_client_index(self, piece: Json) -> int:
        """Return the index by which the client knows a call that begins: the provider's, as long as none was hidden."""
        index = piece.get("index")
        all_shown = len(self.calls) == len(self.client_indexes) + 1
        return index if isinstance(index, int) and all_shown else max(self.client_indexes.values(), default=-1) + 1

    def add_reasoning(self, told: Json) -> None:
        """Note what a message, or a piece of one, says of the model's reasoning."""
        for name, value in told.items():
            if name.startswith(_REASONING_PREFIXES) and value:
                before = self.reasoning.get(name)
                pair = (before, value)
                joins = all(isinstance(one, str) for one in pair) or all(map(is_array, pair))
                self.reasoning[name] = before + value if joins else value


class ChatReplyFilter:
    """A reply of one choice, in one round or several."""

    def __init__(self) -> None:
        self._rounds = [_Round()]
        self._first_chunk_fields: Json = {}
        self._final_chunk: Json = {}
        self._held_events: list[bytes] = []
        self._hidden_messages: list[Json] = []

    @property
    def usage(self) -> Json | None:
        """Return what all rounds have used together, as far as they have told."""
        return expand_call.sum_usages([each.usage for each in self._rounds])

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of ours in this round."""
        return [_build_expand_call(call) for _, call in self._current_round.list_expand_calls()]

    @property
    def awaits_expansion(self) -> bool:
        """Say whether the model waits for us alone: then the reply is not at its end."""
        return (
            bool(self._current_round.list_expand_calls())
            and not self._current_round.client_indexes
            and self._current_round.finish_reason in _TOOL_FINISH_REASONS
        )

    @property
    def is_complete(self) -> bool:
        """Say whether this round's reply has been heard to its end."""
        return self._current_round.finish_reason is not None

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    def filter_event(self, raw: bytes) -> bytes:
        """Take one whole event and return what the client gets of it."""
        chunk = sse.parse_data(raw)
        if is_object(usage := chunk.get("usage")):
            self._current_round.usage = usage
        choice = _get_choice(chunk)
        if choice is None:
            if self.awaits_expansion:
                self._held_events.append(raw)
                return b""
            return self._rewrite_trailing_event(raw)
        found = choice.get("delta")
        delta: Json = found if is_object(found) else {}
        kept = self._filter_delta(delta)
        self._current_round.finish_reason = _get_finish_reason(choice) or self._current_round.finish_reason
        if choice.get("finish_reason") and self.awaits_expansion:
            self._final_chunk, self._held_events = chunk, []
            choice = {**choice, "finish_reason": None}
        if len(self._rounds) == 1:
            self._first_chunk_fields = self._first_chunk_fields or {
                name: chunk[name] for name in ("id", "created") if name in chunk
            }
            if kept is delta and choice is _get_choice(chunk):
                return raw
        if not kept and (delta or self.awaits_expansion) and not choice.get("finish_reason"):
            return b""
        usages = {"usage": self.usage} if chunk.get("usage") and len(self._rounds) > 1 else {}
        return _encode_event({**chunk, **self._first_chunk_fields, **usages, "choices": [{**choice, "delta": kept}]})

    def filter_reply(self, answer: Json) -> Json:
        """Take a whole reply and return what the client gets, if this was the last round."""
        choice = _get_choice(answer)
        self._current_round.usage = answer["usage"] if is_object(answer.get("usage")) else {}
        if choice is None or not is_object(message := choice.get("message")):
            return answer
        self._current_round.finish_reason = _get_finish_reason(choice)
        if isinstance(content := message.get("content"), str):
            self._current_round.texts.append(content)
        self._current_round.add_reasoning(message)
        listed = message.get("tool_calls")
        for index, call in enumerate(filter(is_object, listed) if is_array(listed) else ()):
            self._current_round.calls[index] = call
            if _get_function_name(call) != TOOL_NAME:
                self._current_round.client_indexes[index] = len(self._current_round.client_indexes)
        if len(self._rounds) == 1 and not self._current_round.list_expand_calls():
            return answer
        said = "".join(text for each in self._rounds for text in each.texts)
        shown: Json = {**message, "content": said or content}
        shown["tool_calls"] = [self._current_round.calls[index] for index in self._current_round.client_indexes]
        finish = choice.get("finish_reason")
        if not shown["tool_calls"]:
            del shown["tool_calls"]
            finish = "stop" if finish == "tool_calls" else finish
        return {**answer, "usage": self.usage, "choices": [{**choice, "message": shown, "finish_reason": finish}]}

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Return the messages that answer this round's calls, and begin the next round."""
        added = [self._build_assistant_message(), *_build_tool_messages(self._current_round, results)]
        self._hidden_messages += added
        self._rounds.append(_Round())
        return added

    def finish_stream(self) -> bytes:
        """Return what ends a stream whose model would call for ever."""
        choice: Json = {**(_get_choice(self._final_chunk) or {}), "delta": {}, "finish_reason": "stop"}
        ending = _encode_event({**self._final_chunk, **self._first_chunk_fields, "choices": [choice]})
        return ending + b"".join(map(self._rewrite_trailing_event, self._held_events))

    def list_visible_elements(self) -> list[Json]:
        """Return the message that the client will send back as this reply."""
        said = "".join(text for each in self._rounds for text in each.texts)
        calls = [self._current_round.calls[index] for index in self._current_round.client_indexes]
        return [{"role": "assistant", "content": said, "tool_calls": calls}]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return what has to be woven in where that message stands; `results` are those of the last round's calls."""
        ours = self._current_round.list_expand_calls()
        if not self._hidden_messages and not ours:
            return None
        strip = sum(len(text) for each in self._rounds[:-1] for text in each.texts)
        calls = [[index, call] for index, call in ours]
        return {
            "before": self._hidden_messages,
            "strip": strip,
            "calls": calls,
            "after": _build_tool_messages(self._current_round, results),
        }

    def _filter_delta(self, delta: Json) -> Json:
        """Note what a delta says and return it without what is ours: the same object if that changes nothing."""
        if isinstance(content := delta.get("content"), str):
            self._current_round.texts.append(content)
        self._current_round.add_reasoning(delta)
        kept = {name: value for name, value in delta.items() if len(self._rounds) == 1 or name != "role"}
        if is_array(pieces := delta.get("tool_calls")):
            shown = [
                self._renumber_piece(piece)
                for piece in pieces
                if is_object(piece) and not self._record_call_piece(piece)
            ]
            kept["tool_calls"] = shown
        if kept == delta:
            return delta
        return {name: value for name, value in kept.items() if value != []} if any(kept.values()) else {}

    def _record_call_piece(self, piece: Json) -> bool:
        """Note a piece of a call and say whether the call is ours: its name comes in its first piece."""
        index = self._current_round.resolve_call_number(piece)
        call = self._current_round.calls.get(index)
        if call is None:
            call = self._current_round.calls[index] = {
                "id": piece.get("id"),
                "type": "function",
                "function": _start_function(piece),
            }
            if _get_function_name(call) != TOOL_NAME:
                self._current_round.client_indexes[index] = self._current_round.next_client_index(piece)
        call |= {name: value for name, value in piece.items() if name not in _CALL_FIELDS}
        function = piece.get("function")
        if is_object(function) and isinstance(more := function.get("arguments"), str):
            call["function"]["arguments"] += more
        return index not in self._current_round.client_indexes

    def _renumber_piece(self, piece: Json) -> Json:
        if not self._current_round.list_expand_calls():
            return piece  # nothing was hidden so far
        return {
            **piece,
            "index": self._current_round.client_indexes[self._current_round.resolve_call_number({**piece, "id": None})],
        }

    def _rewrite_trailing_event(self, raw: bytes) -> bytes:
        """Pass on what comes after the last choice: the usage, which is that of all rounds."""
        chunk = sse.parse_data(raw)
        if len(self._rounds) == 1 or not chunk:
            return raw
        usage = {"usage": self.usage} if chunk.get("usage") else {}
        return _encode_event({**chunk, **self._first_chunk_fields, **usage})

    def _build_assistant_message(self) -> Json:
        said = "".join(self._current_round.texts)
        calls = [call for _, call in sorted(self._current_round.calls.items())]
        return {"role": "assistant", "content": said or None, **self._current_round.reasoning, "tool_calls": calls}


def _get_choice(chunk: Json) -> Json | None:
    choices = chunk.get("choices")
    return choices[0] if is_array(choices) and choices and is_object(choices[0]) else None


def _get_finish_reason(choice: Json) -> str | None:
    told = choice.get("finish_reason")
    return told if isinstance(told, str) else None


def _start_function(piece: Json) -> Json:
    function = piece.get("function")
    return {"name": function.get("name") if is_object(function) else None, "arguments": ""}


def _get_function_name(call: Json) -> object:
    function = call.get("function")
    return function.get("name") if is_object(function) else None


def _build_expand_call(call: Json) -> ExpandCall:
    return ExpandCall(str(call.get("id")), str(call["function"].get("arguments")))


def _build_tool_messages(made: _Round, results: Sequence[str]) -> list[Json]:
    return [
        {"role": "tool", "tool_call_id": call.get("id"), "content": result}
        for (_, call), result in zip(made.list_expand_calls(), results, strict=True)
    ]


def _encode_event(chunk: Json) -> bytes:
    return sse.encode_event(orjson.dumps(chunk))
