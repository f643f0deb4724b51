"""Replies of one conversation as servers really send them: every class takes a plan and a table of deviations.

A plan is the output of a model in one round: texts, calls of the client's tools, and calls of the hidden tool.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.proxy.protocols import deviations as arrangement
from clara_proxy.tests.proxy.protocols.deviations import ABSENT, Body, Deviations, Event, Json, without_absent


class Call(NamedTuple):
    """A call of the model."""

    name: str
    arguments: Json
    id: str


Plan = list[str | Call]
FINISH_WORDS = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}
_OTHER_WORDS = {"chat": "tool_use", "messages": "tool_calls", "responses": "done"}


def encode_reply(protocol: str, plan: Plan, deviations: Deviations, number: int) -> Body:
    """Return a reply as bytes."""
    reply = {"chat": _Chat, "messages": _Messages, "responses": _Responses}[protocol](plan, deviations, number)
    if deviations["is_whole"]:
        return arrangement.encode_whole(reply.build_whole(), deviations)
    return arrangement.encode_stream(list(reply.iter_events()), protocol, deviations)


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
        words = {"absent": ABSENT, "null": None, "empty": "", "stop": "stop", "upper case": word.upper()}
        other = _OTHER_WORDS[self.protocol]
        return {"correct": word, "other protocol": other, **words}[self.deviations["finish"]]

    def build_whole(self) -> Json:
        """Return the reply as a JSON body."""
        raise NotImplementedError

    def iter_events(self) -> Iterator[Event]:
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
            without_absent(
                {
                    "id": ABSENT if self.deviations["id"] == "absent" else call.id,
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
            without_absent({"index": 0, "message": message, "finish_reason": self.finish}) for message in messages
        ]
        return {"id": f"chat-{self.number}", "object": "chat.completion", "created": 1, "choices": choices}

    def iter_events(self) -> Iterator[Event]:
        chunks = list(self._iter_chunks())
        where = self.deviations["finish_chunk"]
        for position, (kind, delta, call, index) in enumerate(chunks):
            is_last = position == len(chunks) - 1
            finish = self.finish if is_last and where in ("last piece", "early") else None
            group = call if finish is None else None  # no piece of another call comes after the end
            yield self._build_chunk(kind, self._add_role(delta, position), group, finish=finish, index=index)
        usage = Event("usage", self._build_usage())
        if self.deviations["usage"] == "before the end":
            yield usage
        if where == "early":
            yield self._build_chunk("finish", {}, finish="stop")
        elif where != "last piece":
            for _ in range(2 if where == "twice" else 1):
                yield self._build_chunk("finish", {}, finish=self.finish)
        if self.deviations["usage"].endswith("choices"):
            yield usage
        if self.deviations["end_marker"] == "correct":
            yield Event("end", b"[DONE]")

    def _iter_chunks(self) -> Iterator[tuple[str, Json, int | None, int]]:
        """Yield the kind, the delta, the position of the call, and the index of the choice."""
        yield "start", {"content": ""}, None, 0
        position = 0
        for part in self.plan:
            if isinstance(part, str):
                yield from (("text", {"content": self._build_content(piece)}, None, 0) for piece in self.cut(part))
                continue
            index = 0 if self.deviations["choice"] == "one" else 1
            for piece in self._iter_pieces(part, position):
                is_numbered = self.deviations["index"] in ("correct", "text")
                yield "call", {"tool_calls": [piece]}, position if is_numbered else None, index
            position += 1

    def _add_role(self, delta: Json, position: int) -> Json:
        role = self.deviations["role"]
        has_role = role == "every chunk" or {"first": 0, "late": 2}.get(role) == position
        return {"role": "assistant", **delta} if has_role else delta

    def _build_usage(self) -> Json:
        choices: Json = {"no choices": ABSENT, "null choices": None}
        return without_absent({
            "id": f"chat-{self.number}",
            "choices": choices.get(self.deviations["usage"], []),
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        })  # fmt: skip

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
        indexes = {"correct": position, "all 0": 0, "absent": ABSENT, "null": None, "text": str(position)}
        for order, function in enumerate(functions):
            has_id = self.deviations["id"] == "repeated" or (order == 0 and self.deviations["id"] == "correct")
            fields = {"index": indexes[self.deviations["index"]], "id": call.id if has_id else ABSENT}
            yield without_absent({**fields, "type": "function", "function": function})

    def _build_chunk(
        self, kind: str, delta: Json, call: int | None = None, *, finish: object = None, index: int = 0
    ) -> Event:
        names = ("role", "content", "tool_calls", "function_call", "refusal")
        fillers: Json = {"nulls": dict.fromkeys(names), "empty": {"content": "", "tool_calls": []}}
        delta = {**fillers.get(self.deviations["fillers"], {}), **delta}
        finish = "" if finish is None and self.deviations["fillers"] == "empty" else finish
        choice = without_absent({"index": index, "delta": delta, "finish_reason": finish})
        usage = {"usage": {"prompt_tokens": 7}} if self.deviations["usage"] == "every chunk" else {}
        head = {"id": f"chat-{self.number}", "object": "chat.completion.chunk", "created": 1}
        return Event(kind, {**head, "choices": [choice], **usage}, call)


class _Messages(_Reply):
    protocol = "messages"

    def build_whole(self) -> Json:
        content: list[Json] | str = [self._build_block(part) for part in self.plan]
        if self.deviations["content"] == "text" and not self.calls:
            content = "".join(part for part in self.plan if isinstance(part, str))
        return without_absent({**self._head, "content": content, "stop_reason": self.finish})

    def iter_events(self) -> Iterator[Event]:
        head: Json = {**self._head, "content": [], "stop_reason": None}
        yield Event("start", {"type": "message_start", "message": head})
        stops: list[Event] = []
        for position, part in enumerate(self.plan):
            indexes = {"correct": position, "all 0": 0, "absent": ABSENT, "from 1": position + 1}
            place = without_absent({"index": indexes[self.deviations["index"]]})
            block: Json = self._build_block(part)
            deltas = self._list_deltas(part)
            if deltas and isinstance(part, str):
                block = {**block, "text": ""}
            elif deltas and self.deviations["input"] == "pieces":
                block = {**block, "input": {}}
            is_numbered = self.deviations["index"] in ("correct", "from 1")
            call = position if isinstance(part, Call) and is_numbered else None
            kind = "text" if isinstance(part, str) else "call"
            yield Event("block", {"type": "content_block_start", **place, "content_block": block}, call)
            for delta in deltas:
                yield Event(kind, {"type": "content_block_delta", **place, "delta": delta}, call)
            stop = Event("call end", {"type": "content_block_stop", **place}, call)
            if self.deviations["block_stop"] == "correct":
                yield stop
            stops.append(stop._replace(call=None))
        delta = without_absent({"stop_reason": self.finish, "stop_sequence": None})
        if self.finish is not ABSENT:
            yield Event("finish", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})
        if self.deviations["block_stop"] == "after the end":
            yield stops[-1]
        if self.deviations["end_marker"] == "correct":
            yield Event("end", {"type": "message_stop"})

    @property
    def _head(self) -> Json:
        usage = {"input_tokens": 7, "output_tokens": 1}
        return {"id": f"msg-{self.number}", "type": "message", "role": "assistant", "usage": usage}

    def _build_block(self, part: str | Call) -> Json:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        call_id = ABSENT if self.deviations["id"] == "absent" else part.id
        return without_absent({"type": "tool_use", "id": call_id, "name": part.name, "input": part.arguments})

    def _list_deltas(self, part: str | Call) -> list[Json]:
        if isinstance(part, str):
            return [{"type": "text_delta", "text": piece} for piece in self.cut(part)]
        if self.deviations["input"] == "at the start":
            return []
        pieces = ["", *self.cut(orjson.dumps(part.arguments).decode())]
        return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


class _Responses(_Reply):
    protocol = "responses"

    def build_whole(self) -> Json:
        items = [self._build_item(position, part, is_done=True) for position, part in enumerate(self.plan)]
        return without_absent({**self._head, "status": self.finish, "output": items})

    def iter_events(self) -> Iterator[Event]:
        for number, event in enumerate(self._iter_plain_events()):
            assert isinstance(event.data, dict)
            yield event._replace(data={**event.data, "sequence_number": number})
        if self.deviations["heart_beat"] == "comment":
            yield Event("end", b"[DONE]")

    def _iter_plain_events(self) -> Iterator[Event]:
        start: Json = {**self._head, "status": "in_progress", "output": []}
        yield Event("start", {"type": "response.created", "response": start})
        for position, part in enumerate(self.plan):
            yield from self._iter_item_events(position, part)
        if self.deviations["end_marker"] != "correct":
            return
        outputs: Json = {"absent": ABSENT, "empty": []}
        items = [self._build_item(position, part, is_done=True) for position, part in enumerate(self.plan)]
        output = outputs.get(self.deviations["output"], items)
        event_type = "response.done" if self.deviations["finish"] == "other protocol" else "response.completed"
        response = without_absent({**self._head, "status": "completed", "output": output})
        yield Event("finish", {"type": event_type, "response": response})

    @property
    def _head(self) -> Json:
        usage = {"input_tokens": 7, "output_tokens": 1, "total_tokens": 8}
        tools = [{"type": "function", "name": TOOL_NAME}, {"type": "function", "name": "client0"}]
        return {"id": f"resp-{self.number}", "object": "response", "tools": tools, "usage": usage}

    def _build_item(self, position: int, part: str | Call, *, is_done: bool) -> Json:
        ids = {"absent": ABSENT, "changed when done": f"item-{self.number}-{position}{is_done}"}
        status = ABSENT if self.deviations["status"] == "absent" else "completed" if is_done else "in_progress"
        fields = {"id": ids.get(self.deviations["id"], f"item-{self.number}-{position}"), "status": status}
        if isinstance(part, str):
            content = [{"type": "output_text", "text": part}] if is_done else []
            return without_absent({"type": "message", "role": "assistant", **fields, "content": content})
        names: Json = {} if is_done else {"empty first": "", "absent first": ABSENT}
        name = names.get(self.deviations["name"], part.name)
        arguments = orjson.dumps(part.arguments).decode() if is_done else ""
        return without_absent({
            "type": "function_call", **fields, "call_id": part.id, "name": name, "arguments": arguments,
        })  # fmt: skip

    def _iter_item_events(self, position: int, part: str | Call) -> Iterator[Event]:
        indexes = {"correct": position, "absent": ABSENT, "all 0": 0}
        place = without_absent({"output_index": indexes[self.deviations["output_index"]]})
        item = self._build_item(position, part, is_done=False)
        item_id = ABSENT if self.deviations["item_id"] == "absent" else item.get("id", ABSENT)
        item_place = without_absent({**place, "item_id": item_id})
        is_placed = isinstance(part, Call) and (self.deviations["output_index"] == "correct")
        call = position if is_placed else None
        is_added = self.deviations["added"] == "correct"
        *deltas, last = self._list_deltas(part, item_place)
        done = {"type": "response.output_item.done", **place, "item": self._build_item(position, part, is_done=True)}
        if is_added:
            yield Event("block", {"type": "response.output_item.added", **place, "item": item}, call)
            yield from (Event("call" if isinstance(part, Call) else "text", delta, call) for delta in deltas)
        ends = [Event("call", last, call)] if is_added else []
        position = 0 if self.deviations["done"] == "before the arguments" else len(ends)
        ends.insert(position, Event("call end" if isinstance(part, Call) else "text end", done, call))
        yield from ends

    def _list_deltas(self, part: str | Call, place: Json) -> list[Json]:
        if isinstance(part, str):
            kind, last, text = "response.output_text", {"text": part}, part
            place = {**place, "content_index": 0}
        else:
            text = orjson.dumps(part.arguments).decode()
            kind, last = "response.function_call_arguments", {"arguments": text}
        deltas: list[Json] = [{"type": f"{kind}.delta", **place, "delta": piece} for piece in self.cut(text)]
        return [*deltas, {"type": f"{kind}.done", **place, **last}]


def list_client_calls(plan: Sequence[str | Call]) -> list[Call]:
    """List the calls of the client's own tools."""
    return [part for part in plan if isinstance(part, Call) and part.name != TOOL_NAME]
