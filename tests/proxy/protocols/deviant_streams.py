"""Replies of one conversation as servers really send them: every function takes a plan and a table of deviations.

A plan is the output of a model in one round: texts, calls of the client's tools, and calls of the hidden tool.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from hypothesis import strategies as st

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.sse import encode_event

Json = dict[str, Any]
Deviations = dict[str, Any]


class Call(NamedTuple):
    """A call of the model."""

    name: str
    arguments: Json
    id: str


Plan = list[str | Call]

COMMON: dict[str, list[Any]] = {
    "finish": ["correct", "correct", "absent", "null", "empty", "stop", "upper case", "other protocol"],
    "is_whole": [False, False, False, True],
    "content_type": ["correct", "correct", "", "application/json", "text/plain", "application/octet-stream"],
    "line_end": ["\n", "\n", "\r\n"],
    "comments": [False, True],
    "end_marker": ["correct", "correct", "absent"],
    "piece_length": [4, 9, 1000],
}
CHAT: dict[str, list[Any]] = COMMON | {
    "index": ["correct", "correct", "all 0", "absent", "null", "text"],
    "id": ["correct", "correct", "absent", "repeated"],
    "name": ["whole", "whole", "empty first", "null first", "absent first", "split", "repeated", "with arguments"],
    "arguments": ["text", "text", "object"],
    "content": ["text", "text", "parts"],
    "usage": ["absent", "empty choices", "no choices", "null choices", "every chunk"],
    "choice": ["one", "one", "calls in a second one"],
    "finish_twice": [False, False, True],
}
MESSAGES: dict[str, list[Any]] = COMMON | {
    "index": ["correct", "correct", "all 0", "absent", "from 1"],
    "id": ["correct", "correct", "absent"],
    "input": ["pieces", "pieces", "at the start", "both"],
    "block_stop": ["correct", "correct", "absent"],
    "content": ["blocks", "blocks", "text"],
    "event_line": [True, True, False],
}
RESPONSES: dict[str, list[Any]] = COMMON | {
    "output_index": ["correct", "correct", "absent", "all 0"],
    "item_id": ["correct", "correct", "absent"],
    "id": ["correct", "correct", "absent", "changed when done"],
    "output": ["correct", "correct", "absent", "empty"],
    "name": ["whole", "whole", "empty first", "absent first"],
    "added": ["correct", "correct", "absent"],
    "status": ["correct", "absent"],
    "event_line": [True, True, False],
}
DEVIATIONS = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}
_ABSENT = object()
FINISH_WORDS = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}
_OTHER_WORDS = {"chat": "tool_use", "messages": "tool_calls", "responses": "done"}


def draw_deviations(protocol: str) -> st.SearchStrategy[Deviations]:
    """Return a strategy for the deviations of one upstream's reply."""
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in DEVIATIONS[protocol].items()})


def encode_reply(protocol: str, plan: Plan, deviations: Deviations, number: int) -> bytes:
    """Return the body of a reply."""
    build = {"chat": _Chat, "messages": _Messages, "responses": _Responses}[protocol]
    reply = build(plan, deviations, number)
    if deviations["is_whole"]:
        return orjson.dumps(reply.build_whole())
    events = list(reply.iter_events())
    if deviations["comments"]:
        events = [part for event in events for part in (b": heart-beat\n\n", event)]
    return b"".join(events).replace(b"\n", deviations["line_end"].encode())


def _without_absent(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not _ABSENT}


class _Reply:
    """One reply: a plan, and its deviations."""

    protocol = ""

    def __init__(self, plan: Plan, deviations: Deviations, number: int) -> None:
        self.plan, self.deviations, self.number = plan, deviations, number

    @property
    def calls(self) -> list[Call]:
        return [part for part in self.plan if isinstance(part, Call)]

    @property
    def finish(self) -> object:
        """Return the reason for the end of the reply."""
        word = FINISH_WORDS[self.protocol] if self.calls or self.protocol == "responses" else "stop"
        words = {"absent": _ABSENT, "null": None, "empty": "", "stop": "stop", "upper case": word.upper()}
        other = _OTHER_WORDS[self.protocol]
        return {"correct": word, "other protocol": other, **words}[self.deviations["finish"]]

    def build_whole(self) -> Json:
        """Return the reply as a JSON body."""
        raise NotImplementedError

    def iter_events(self) -> Iterator[bytes]:
        """Yield the events of the streamed reply."""
        raise NotImplementedError

    def cut(self, text: str) -> list[str]:
        """Return the pieces in which a text arrives."""
        length = self.deviations["piece_length"]
        return [text[start : start + length] for start in range(0, len(text), length)]


class _Chat(_Reply):
    protocol = "chat"

    def build_whole(self) -> Json:
        calls = [
            _without_absent(
                {
                    "id": _ABSENT if self.deviations["id"] == "absent" else call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": self._encode_arguments(call)},
                }
            )
            for call in self.calls
        ]
        text = "".join(part for part in self.plan if isinstance(part, str))
        message: Json = {"role": "assistant", "content": self._build_content(text)}
        messages = [message]
        if calls and self.deviations["choice"] != "one":
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        elif calls:
            message["tool_calls"] = calls
        choices = [
            _without_absent({"index": 0, "message": message, "finish_reason": self.finish}) for message in messages
        ]
        return {"id": f"chat-{self.number}", "object": "chat.completion", "created": 1, "choices": choices}

    def iter_events(self) -> Iterator[bytes]:
        yield self._encode({"role": "assistant", "content": ""})
        position = 0
        for part in self.plan:
            if isinstance(part, str):
                yield from (self._encode({"content": self._build_content(piece)}) for piece in self.cut(part))
                continue
            choice = 0 if self.deviations["choice"] == "one" else 1
            for piece in self._iter_pieces(part, position):
                yield self._encode({"tool_calls": [piece]}, index=choice)
            position += 1
        for _ in range(2 if self.deviations["finish_twice"] else 1):
            yield self._encode({}, finish=self.finish)
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        choices: Json = {"empty choices": [], "no choices": _ABSENT, "null choices": None}
        if self.deviations["usage"] in choices:
            fields = {"id": f"chat-{self.number}", "choices": choices[self.deviations["usage"]], "usage": usage}
            yield encode_event(orjson.dumps(_without_absent(fields)))
        if self.deviations["end_marker"] == "correct":
            yield encode_event(b"[DONE]")

    def _build_content(self, text: str) -> object:
        return text if self.deviations["content"] == "text" else [{"type": "text", "text": text}]

    def _encode_arguments(self, call: Call) -> Any:
        is_object = self.deviations["arguments"] == "object"
        return call.arguments if is_object else orjson.dumps(call.arguments).decode()

    def _iter_pieces(self, call: Call, position: int) -> Iterator[Json]:
        kind, arguments = self.deviations["name"], self._encode_arguments(call)
        starts: dict[str, list[Json]] = {
            "empty first": [{"name": ""}, {"name": call.name}],
            "null first": [{"name": None}, {"name": call.name}],
            "absent first": [{}, {"name": call.name}],
            "split": [{"name": call.name[:6]}, {"name": call.name[6:]}],
        }
        functions = starts.get(kind, [{"name": call.name}])
        pieces: list[Any] = self.cut(arguments) if isinstance(arguments, str) else [arguments]
        if kind == "with arguments":
            functions = [{"name": call.name, "arguments": pieces.pop(0)}]
        name = {"name": call.name} if kind == "repeated" else {}
        functions = [*functions, *({**name, "arguments": piece} for piece in pieces)]
        indexes = {"correct": position, "all 0": 0, "absent": _ABSENT, "null": None, "text": str(position)}
        for order, function in enumerate(functions):
            has_id = self.deviations["id"] == "repeated" or (order == 0 and self.deviations["id"] == "correct")
            fields = {"index": indexes[self.deviations["index"]], "id": call.id if has_id else _ABSENT}
            yield _without_absent({**fields, "type": "function", "function": function})

    def _encode(self, delta: Json, *, finish: object = None, index: int = 0) -> bytes:
        choice = _without_absent({"index": index, "delta": delta, "finish_reason": finish})
        usage = {"usage": {"prompt_tokens": 7}} if self.deviations["usage"] == "every chunk" else {}
        head = {"id": f"chat-{self.number}", "object": "chat.completion.chunk", "created": 1}
        return encode_event(orjson.dumps({**head, "choices": [choice], **usage}))


class _Messages(_Reply):
    protocol = "messages"

    def build_whole(self) -> Json:
        content: list[Json] | str = [self._build_block(part) for part in self.plan]
        if self.deviations["content"] == "text" and not self.calls:
            content = "".join(part for part in self.plan if isinstance(part, str))
        return _without_absent({**self._head, "content": content, "stop_reason": self.finish})

    def iter_events(self) -> Iterator[bytes]:
        yield self._encode({"type": "message_start", "message": {**self._head, "content": [], "stop_reason": None}})
        for position, part in enumerate(self.plan):
            indexes = {"correct": position, "all 0": 0, "absent": _ABSENT, "from 1": position + 1}
            place = _without_absent({"index": indexes[self.deviations["index"]]})
            block: Json = self._build_block(part)
            deltas = self._list_deltas(part)
            if deltas and isinstance(part, str):
                block = {**block, "text": ""}
            elif deltas and self.deviations["input"] == "pieces":
                block = {**block, "input": {}}
            yield self._encode({"type": "content_block_start", **place, "content_block": block})
            for delta in deltas:
                yield self._encode({"type": "content_block_delta", **place, "delta": delta})
            if self.deviations["block_stop"] == "correct":
                yield self._encode({"type": "content_block_stop", **place})
        delta = _without_absent({"stop_reason": self.finish, "stop_sequence": None})
        if self.finish is not _ABSENT:
            yield self._encode({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})
        if self.deviations["end_marker"] == "correct":
            yield self._encode({"type": "message_stop"})

    @property
    def _head(self) -> Json:
        usage = {"input_tokens": 7, "output_tokens": 1}
        return {"id": f"msg-{self.number}", "type": "message", "role": "assistant", "usage": usage}

    def _build_block(self, part: str | Call) -> Json:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        call_id = _ABSENT if self.deviations["id"] == "absent" else part.id
        return _without_absent({"type": "tool_use", "id": call_id, "name": part.name, "input": part.arguments})

    def _list_deltas(self, part: str | Call) -> list[Json]:
        if isinstance(part, str):
            return [{"type": "text_delta", "text": piece} for piece in self.cut(part)]
        if self.deviations["input"] == "at the start":
            return []
        pieces = ["", *self.cut(orjson.dumps(part.arguments).decode())]
        return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]

    def _encode(self, event: Json) -> bytes:
        return encode_event(orjson.dumps(event), str(event["type"]) if self.deviations["event_line"] else "")


class _Responses(_Reply):
    protocol = "responses"

    def build_whole(self) -> Json:
        items = [self._build_item(position, part, is_done=True) for position, part in enumerate(self.plan)]
        return _without_absent({**self._head, "status": self.finish, "output": items})

    def iter_events(self) -> Iterator[bytes]:
        for number, event in enumerate(self._iter_plain_events()):
            name = str(event["type"]) if self.deviations["event_line"] else ""
            yield encode_event(orjson.dumps({**event, "sequence_number": number}), name)
        if self.deviations["comments"]:
            yield encode_event(b"[DONE]")

    def _iter_plain_events(self) -> Iterator[Json]:
        yield {"type": "response.created", "response": {**self._head, "status": "in_progress", "output": []}}
        for position, part in enumerate(self.plan):
            yield from self._iter_item_events(position, part)
        if self.deviations["end_marker"] != "correct":
            return
        outputs: Json = {"absent": _ABSENT, "empty": []}
        items = [self._build_item(position, part, is_done=True) for position, part in enumerate(self.plan)]
        output = outputs.get(self.deviations["output"], items)
        event_type = "response.done" if self.deviations["finish"] == "other protocol" else "response.completed"
        response = _without_absent({**self._head, "status": "completed", "output": output})
        yield {"type": event_type, "response": response}

    @property
    def _head(self) -> Json:
        usage = {"input_tokens": 7, "output_tokens": 1, "total_tokens": 8}
        tools = [{"type": "function", "name": TOOL_NAME}, {"type": "function", "name": "client0"}]
        return {"id": f"resp-{self.number}", "object": "response", "tools": tools, "usage": usage}

    def _build_item(self, position: int, part: str | Call, *, is_done: bool) -> Json:
        ids = {"absent": _ABSENT, "changed when done": f"item-{self.number}-{position}{is_done}"}
        status = _ABSENT if self.deviations["status"] == "absent" else "completed" if is_done else "in_progress"
        fields = {"id": ids.get(self.deviations["id"], f"item-{self.number}-{position}"), "status": status}
        if isinstance(part, str):
            content = [{"type": "output_text", "text": part}] if is_done else []
            return _without_absent({"type": "message", "role": "assistant", **fields, "content": content})
        names: Json = {} if is_done else {"empty first": "", "absent first": _ABSENT}
        name = names.get(self.deviations["name"], part.name)
        arguments = orjson.dumps(part.arguments).decode() if is_done else ""
        return _without_absent({
            "type": "function_call", **fields, "call_id": part.id, "name": name, "arguments": arguments,
        })  # fmt: skip

    def _iter_item_events(self, position: int, part: str | Call) -> Iterator[Json]:
        indexes = {"correct": position, "absent": _ABSENT, "all 0": 0}
        place = _without_absent({"output_index": indexes[self.deviations["output_index"]]})
        item = self._build_item(position, part, is_done=False)
        if self.deviations["added"] == "correct":
            yield {"type": "response.output_item.added", **place, "item": item}
            item_id = _ABSENT if self.deviations["item_id"] == "absent" else item.get("id", _ABSENT)
            item_place = _without_absent({**place, "item_id": item_id})
            yield from self._iter_deltas(part, item_place)
        yield {"type": "response.output_item.done", **place, "item": self._build_item(position, part, is_done=True)}

    def _iter_deltas(self, part: str | Call, place: Json) -> Iterator[Json]:
        if isinstance(part, str):
            for piece in self.cut(part):
                yield {"type": "response.output_text.delta", **place, "content_index": 0, "delta": piece}
            return
        arguments = orjson.dumps(part.arguments).decode()
        for piece in self.cut(arguments):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments}


def list_client_calls(plan: Sequence[str | Call]) -> list[Call]:
    """List the calls of the client's own tools."""
    return [part for part in plan if isinstance(part, Call) and part.name != TOOL_NAME]
