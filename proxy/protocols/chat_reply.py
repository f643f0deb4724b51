"""Filters the replies to one chat completion: removes the calls of `clara_expand` and joins the rounds.

A filter lives for one request and all its rounds, which the client sees as one reply. Events pass at once, except those
of a hidden call and the end of a round that may be hidden. The text of a round whose calls were all hidden precedes the
text of the next round.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import chat_calls, json_codec, reply_round, sse, usage_fields
from .api_errors import has_error
from .chat_calls import ChatCalls
from .expand_call import HIDDEN_TOOL_NAMES, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object

_REASONING_PREFIXES = ("reasoning", "thinking", "extra_content")  # of fields that some providers want back


@dataclass(slots=True)
class _Round:
    """One reply of the upstream as far as it has arrived. `contents` are its pieces: texts, or lists of parts.

    `reasoning` holds the fields of the message that some providers require when its calls are sent back to them.
    """

    contents: list[str | list[Any]] = field(default_factory=list[str | list[Any]])
    reasoning: Json = field(default_factory=dict[str, Any])
    calls: ChatCalls = field(default_factory=ChatCalls)
    usage: Json = field(default_factory=dict[str, Any])
    finish_reason: str | None = None
    has_ended: bool = False

    def add_content(self, content: object) -> None:
        if isinstance(content, str) or is_array(content):
            self.contents.append(content)

    def add_reasoning(self, message: Json) -> None:
        """Add the reasoning fields of a message, or of a piece of one, to those received so far."""
        for name, value in message.items():
            if name.startswith(_REASONING_PREFIXES) and value is not None:  # even an empty text may have to go back
                previous = self.reasoning.get(name)
                if isinstance(previous, str) and isinstance(value, str):
                    self.reasoning[name] = previous + value
                elif is_array(previous) and is_array(value):
                    self.reasoning[name] = reply_round.merge_parts(previous, value)
                else:
                    self.reasoning[name] = value


class ChatReplyFilter:
    """Filters a reply over one or several rounds."""

    def __init__(self) -> None:
        self._rounds = [_Round()]
        self._first_chunk_fields: Json = {}
        self._final_chunk: Json = {}
        self._held_events: list[bytes] = []
        self._hidden_messages: list[Json] = []

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        return usage_fields.sum_usages([each_round.usage for each_round in self._rounds])

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool in this round."""
        return self._current_round.calls.list_expand_calls(self._current_round.finish_reason)

    @property
    def awaits_expansion(self) -> bool:
        """Return True if the model waits for the proxy's tool alone, so another round follows."""
        current = self._current_round
        return reply_round.is_round_hidden(
            self.expand_calls, current.finish_reason, calls_client=current.calls.has_visible
        )

    @property
    def has_hidden_rounds(self) -> bool:
        """Return True if a further round has begun."""
        return len(self._rounds) > 1

    @property
    def is_complete(self) -> bool:
        """Return True if this round's reply has reached its end."""
        return bool(self._current_round.finish_reason) or self._current_round.has_ended

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    @property
    def _may_be_hidden(self) -> bool:
        """Return True if the end of this round is held back, because another round may follow."""
        current = self._current_round
        is_cut_off = reply_round.is_cut_off(current.finish_reason)
        return current.calls.has_hidden and not current.calls.has_visible and not is_cut_off

    def filter_event(self, raw: bytes) -> bytes:
        """Process one whole event of a stream and return the part for the client."""
        chunk = sse.parse_data(raw)
        if not chunk and b"[DONE]" not in raw:
            return raw  # a comment
        if is_object(usage := chunk.get("usage")):
            self._current_round.usage = usage_fields.merge_usages(self._current_round.usage, usage)
        if raw.find(b'"error"') >= 0 and has_error(chunk):
            self._current_round.finish_reason = "error"
        choices = _list_choices(chunk)
        if not choices:
            return self._filter_trailing_event(raw, chunk)
        self._first_chunk_fields = self._first_chunk_fields or _pick(chunk, "id", "created")
        visible_choices = [self._filter_choice(choice) for choice in choices]
        if self._current_round.finish_reason and self.awaits_expansion:
            self._final_chunk = chunk
            visible_choices = [
                merge(choice, {"finish_reason": None}) if choice and choice.get("finish_reason") else choice
                for choice in visible_choices
            ]
        if len(self._rounds) == 1 and visible_choices == choices:
            return raw
        visible_choices = [
            visible
            for choice, visible in zip(choices, visible_choices, strict=True)
            if visible and not self._is_empty(choice, visible)
        ]
        if not visible_choices:
            return b""
        return _encode_event(merge(chunk, self._first_chunk_fields, {"choices": visible_choices}))

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply and return it as the client gets it if this is the last round."""
        current = self._current_round
        current.usage = reply["usage"] if is_object(reply.get("usage")) else {}
        current.has_ended = True
        choices = [choice for choice in _list_choices(reply) if is_object(choice.get("message"))]
        if not choices:
            return reply
        for choice in choices:
            message = choice["message"]
            current.finish_reason = _get_finish_reason(choice) or current.finish_reason
            current.add_content(message.get("content"))
            current.add_reasoning(message)
            current.calls.add_pieces(_number_calls(message.get("tool_calls")))
        current.calls.settle()
        if len(self._rounds) == 1 and not current.calls.has_hidden:
            return reply
        earlier = [content for each_round in self._rounds[:-1] for content in each_round.contents]
        visible_choices = [
            self._build_visible_choice(choice, [] if number else earlier) for number, choice in enumerate(choices)
        ]
        return merge(reply, {"choices": visible_choices})

    def end_round(self) -> bytes:
        """Process the end of a stream and return the held bytes, unless another round follows."""
        current = self._current_round
        pieces = self._take_late_pieces()
        current.has_ended = True
        if self.awaits_expansion:
            return b""
        held, self._held_events = b"".join(self._held_events), []
        return pieces + held

    def build_whole_reply(self) -> Json:
        """Return the streamed reply of this round as a whole one."""
        current = self._current_round
        message: Json = {"role": "assistant", "content": _join_contents(current.contents) or None, **current.reasoning}
        if calls := current.calls.build_all():
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": current.finish_reason}
        fields = {**self._first_chunk_fields, "object": "chat.completion", "choices": [choice]}
        return fields | ({"usage": current.usage} if current.usage else {})

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the messages that answer this round's calls."""
        messages = [
            self._build_assistant_message(),
            *chat_calls.build_tool_messages(self._list_hidden_calls(), results),
        ]
        self._hidden_messages += messages
        self._held_events = []
        self._rounds.append(_Round())
        return messages

    def finish_stream(self) -> bytes:
        """Return the end of a stream if the model keeps calling the tool."""
        choices = [merge(choice, {"delta": {}, "finish_reason": "stop"}) for choice in _list_choices(self._final_chunk)]
        choices = choices or [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        last_event = _encode_event(merge(self._final_chunk, self._first_chunk_fields, {"choices": choices}))
        return last_event + b"".join(self._held_events)

    def list_visible_elements(self) -> list[Json]:
        """Return the message that the client sends back later as this reply."""
        contents = [content for each_round in self._rounds for content in each_round.contents]
        content = _join_contents(contents)
        return [{"role": "assistant", "content": content, "tool_calls": self._current_round.calls.visible}]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return the hidden calls and answers for re-insertion. `results` answer the calls of the last round.

        The record holds the messages `before` the client's message, the number of characters to `strip` from that one,
        the hidden `calls` beside the client's own, and the messages `after` it.
        """
        calls = self._list_hidden_calls()
        if not self._hidden_messages and not calls:
            return None
        earlier_texts = [text for each_round in self._rounds[:-1] for text in _iter_texts(each_round.contents)]
        return {
            "before": self._hidden_messages,
            "strip": len(json_codec.join_text(earlier_texts)),
            "calls": [[position, call] for position, call in calls],
            "after": chat_calls.build_tool_messages(calls, results),
        }

    def _list_hidden_calls(self) -> list[tuple[int, Json]]:
        return self._current_round.calls.list_answerable(self._current_round.finish_reason)

    def _filter_choice(self, choice: Json) -> Json:
        """Record a streamed choice and return its visible part: the same object if all of it is visible."""
        current = self._current_round
        current.finish_reason = _get_finish_reason(choice) or current.finish_reason
        changes: Json = {}
        delta, message = choice.get("delta"), choice.get("message")
        if is_object(message):  # some providers send the whole message in each event, or at the end
            if not is_object(delta) and not current.contents and not current.calls:
                current.calls.add_pieces(_number_calls(message.get("tool_calls")))
                current.calls.settle()
                current.add_content(message.get("content"))
            changes["message"] = _hide_calls(message)
        if is_object(delta):
            visible_delta = self._filter_delta(delta, is_last=bool(choice.get("finish_reason")))
            if visible_delta is delta and not changes:
                return choice
            changes["delta"] = visible_delta
        elif choice.get("finish_reason") and (pieces := current.calls.settle()):
            changes["delta"] = {"tool_calls": pieces}
        return merge(choice, changes)

    def _filter_delta(self, delta: Json, *, is_last: bool) -> Json:
        """Record a delta and return its visible part: the same object if all of it is visible."""
        current = self._current_round
        current.add_content(delta.get("content"))
        current.add_reasoning(delta)
        pieces = current.calls.add_pieces(delta["tool_calls"]) if delta.get("tool_calls") else []
        if is_last:
            pieces += current.calls.settle()
        if not pieces and "tool_calls" not in delta and len(self._rounds) == 1:
            return delta  # nearly all of them
        visible = merge(delta, {"tool_calls": pieces} if pieces or delta.get("tool_calls") else {})
        if len(self._rounds) > 1:
            visible.pop("role", None)
        if visible == delta:
            return delta
        if not any(visible.values()):
            return {}
        if visible.get("tool_calls") == []:
            del visible["tool_calls"]
        return visible

    def _is_empty(self, choice: Json, visible: Json) -> bool:
        """Return True if nothing of a streamed choice is left for the client."""
        if visible.get("delta") or visible.get("message") or visible.get("finish_reason"):
            return False
        return bool(choice.get("delta") or choice.get("finish_reason"))

    def _filter_trailing_event(self, raw: bytes, chunk: Json) -> bytes:
        """Process an event without a choice: the usage, or the end of the stream."""
        late_event = b""
        if not chunk:
            late_event = self._take_late_pieces()
            self._current_round.has_ended = True
        event = raw
        if len(self._rounds) > 1 and chunk and "id" in chunk:
            event = _encode_event(merge(chunk, self._first_chunk_fields))
        if self._may_be_hidden:
            self._held_events.append(event)
            return late_event
        held, self._held_events = b"".join(self._held_events), []
        return late_event + held + event

    def _take_late_pieces(self) -> bytes:
        """Return an event with the calls that were held back until the end of the reply."""
        pieces = self._current_round.calls.settle()
        if not pieces:
            return b""
        choice = {"index": 0, "delta": {"tool_calls": pieces}, "finish_reason": None}
        return _encode_event({
            "object": "chat.completion.chunk", **self._first_chunk_fields, "choices": [choice]
        })  # fmt: skip

    def _build_visible_choice(self, choice: Json, earlier_contents: Sequence[str | list[Any]]) -> Json:
        message = _hide_calls(choice["message"])
        content = message.get("content")
        if earlier_contents:
            own_contents = [content] if isinstance(content, str) or is_array(content) else []
            message = merge(message, {"content": _join_contents([*earlier_contents, *own_contents]) or content})
        finish_reason = choice.get("finish_reason")
        if not self._current_round.calls.has_visible and finish_reason == "tool_calls":
            finish_reason = "stop"
        return merge(choice, {"message": message, "finish_reason": finish_reason})

    def _build_assistant_message(self) -> Json:
        current = self._current_round
        calls = [call.build() for call in current.calls.list_returnable(current.finish_reason)]
        content = _join_contents(current.contents) or None
        return {"role": "assistant", "content": content, **current.reasoning, "tool_calls": calls}


def _join_contents(contents: Sequence[str | list[Any]]) -> str | list[Any]:
    """Return one content: a text, or a list of parts if one of the contents is one that is not empty."""
    contents = [content for content in contents if isinstance(content, str) or any(map(_has_content, content))]
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) == len(contents):
        return json_codec.join_text(texts)
    parts: list[Any] = []
    for content in contents:
        pieces = content if is_array(content) else [{"type": "text", "text": content}] if content else []
        parts = reply_round.merge_parts(parts, pieces)
    return parts


def _has_content(part: object) -> bool:
    """Return False for a part with an empty text."""
    return not is_object(part) or part.get("type") != "text" or bool(part.get("text"))


def _iter_texts(contents: Sequence[str | list[Any]]) -> Iterator[str]:
    for content in contents:
        if isinstance(content, str):
            yield content
        else:
            yield from (part["text"] for part in content if is_object(part) and isinstance(part.get("text"), str))


def _number_calls(calls: object) -> list[Json]:
    """Return the calls of a whole message, numbered in order."""
    items = calls if is_array(calls) else [calls]
    return [merge(call, {"index": number}) for number, call in enumerate(filter(is_object, items))]


def _hide_calls(message: Json) -> Json:
    """Return a message without the calls of the proxy's tool."""
    calls = message.get("tool_calls")
    items = calls if is_array(calls) else [calls]
    visible = [call for call in items if not _is_expand_call(call)]
    if len(visible) == len(items):
        return message
    visible_message = merge(message, {"tool_calls": visible})
    if not visible:
        del visible_message["tool_calls"]
    return visible_message


def _is_expand_call(call: object) -> bool:
    function = call.get("function") if is_object(call) else None
    return is_object(function) and function.get("name") in HIDDEN_TOOL_NAMES


def _pick(value: Json, *names: str) -> Json:
    return {name: value[name] for name in names if name in value}


def _list_choices(chunk: Json) -> list[Json]:
    choices = chunk.get("choices")
    return [choice for choice in choices if is_object(choice)] if is_array(choices) else []


def _get_finish_reason(choice: Json) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _encode_event(chunk: Json) -> bytes:
    return sse.encode_event(json_codec.dumps(chunk))
