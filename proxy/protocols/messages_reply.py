"""Reads the replies to one request of Anthropic's and takes out of them what only the proxy asked for.

One object a request, living through all its rounds: to the client they are one message, whose blocks are numbered on.
Events go on at once, as the bytes that came unless they are numbered anew; held back are only those of a call that is
ours, and the end of a round after which the model waits for us alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from . import expand_call, sse
from .expand_call import TOOL_NAME, ExpandCall
from .json_types import Json, is_array, is_object, parse_object
from .messages_blocks import identify_block

_TOOL_USE = "tool_use"  # a block that calls a tool of the client's, and how a reply ends that waits for one
_PARTIAL_JSON = "partial_json"
_DELTA_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": _PARTIAL_JSON}
_INPUT_TOKEN_FIELDS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(slots=True)
class _Round:
    """What one reply of the upstream has said so far: blocks by its own index, `places` by that of the client."""

    first_client_index: int
    started_blocks: dict[int, Json] = field(default_factory=dict[int, Json])
    delta_pieces: dict[tuple[int, str], list[str]] = field(default_factory=dict[tuple[int, str], list[str]])
    client_indexes: dict[int, int] = field(default_factory=dict[int, int])
    usage: Json = field(default_factory=dict[str, Any])
    stop_reason: str | None = None

    def start_block(self, index: int, block: Json) -> None:
        """Note a block that begins; one that is no call of ours has a place at the client's."""
        self.started_blocks[index] = dict(block)
        if not (block.get("type") == _TOOL_USE and block.get("name") == TOOL_NAME):
            self.client_indexes[index] = self.first_client_index + len(self.client_indexes)

    def append_delta(self, index: int, delta: Json) -> None:
        """Note what a block says further."""
        block, kind = self.started_blocks[index], str(delta.get("type"))
        if kind in _DELTA_FIELDS:
            name = _DELTA_FIELDS[kind]
            self.delta_pieces.setdefault((index, name), []).append(str(delta.get(name) or ""))
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        else:  # a signature comes whole, and so does what nobody knows yet
            block.update({name: value for name, value in delta.items() if name != "type"})

    def build_block(self, index: int) -> Json:
        """Return a block as it has been said."""
        block = dict(self.started_blocks[index])
        for name in ("text", "thinking"):
            if (index, name) in self.delta_pieces:
                block[name] = str(block.get(name) or "") + "".join(self.delta_pieces[index, name])
        if said := "".join(self.delta_pieces.get((index, _PARTIAL_JSON), ())):
            block["input"] = parse_object(said.encode("utf-8", "surrogatepass")) or {}
        return block

    @property
    def expand_call_indexes(self) -> list[int]:
        """List the calls of ours, where the model has said that it waits for tools."""
        return (
            [index for index in sorted(self.started_blocks) if index not in self.client_indexes]
            if self.stop_reason == _TOOL_USE
            else []
        )

    @property
    def visible_blocks(self) -> list[Json]:
        """List the blocks that the client sees."""
        return [self.build_block(index) for index in self.client_indexes]

    @property
    def calls_client_tool(self) -> bool:
        """Say whether a tool of the client's is called."""
        return any(self.started_blocks[index].get("type") == _TOOL_USE for index in self.client_indexes)


class MessagesReplyFilter:
    """A message, in one round or several."""

    def __init__(self) -> None:
        self._rounds = [_Round(0)]
        self._first_reply_fields: Json = {}
        self._final_event: Json = {}
        self._hidden_messages: list[Json] = []

    @property
    def usage(self) -> Json | None:
        """Return what all rounds have used together, as far as they have told."""
        return expand_call.sum_usages([each.usage for each in self._rounds])

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of ours in this round."""
        blocks = map(self._current_round.build_block, self._current_round.expand_call_indexes)
        return [ExpandCall(str(block.get("id")), orjson.dumps(block.get("input")).decode()) for block in blocks]

    @property
    def awaits_expansion(self) -> bool:
        """Say whether the model waits for us alone: then the reply is not at its end."""
        return bool(self._current_round.expand_call_indexes) and not self._current_round.calls_client_tool

    @property
    def is_complete(self) -> bool:
        """Say whether this round's reply has been heard to its end."""
        return bool(self._current_round.stop_reason)

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    def filter_event(self, raw: bytes) -> bytes:
        """Take one whole event and return what the client gets of it."""
        said = sse.parse_data(raw)
        match said.get("type"):
            case "message_start":
                return self._filter_message_start(raw, said)
            case "content_block_start" | "content_block_delta" | "content_block_stop":
                return self._filter_block_event(raw, said)
            case "message_delta":
                return self._filter_message_delta(raw, said)
            case "message_stop" if self.awaits_expansion:
                return b""
            case _:
                return raw

    def filter_reply(self, answer: Json) -> Json:
        """Take a whole reply and return what the client gets, if this was the last round."""
        content = answer.get("content")
        self._record_usage(answer.get("usage"))
        if not is_array(content) or not all(map(is_object, content)):
            return answer
        self._current_round.stop_reason = answer.get("stop_reason")
        for index, block in enumerate(content):
            self._current_round.start_block(index, block)
        if len(self._rounds) == 1:
            self._first_reply_fields = {"id": answer["id"]} if "id" in answer else {}
            if len(self._current_round.client_indexes) == len(content):
                return answer
        shown = [block for each in self._rounds for block in each.visible_blocks]
        stop = "end_turn" if self.awaits_expansion else self._current_round.stop_reason
        usage = self._current_round.usage | (self.usage or {})
        return {**answer, **self._first_reply_fields, "content": shown, "stop_reason": stop, "usage": usage}

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Return the messages that answer this round's calls, and begin the next round."""
        now = self._current_round
        said = [block for block in map(now.build_block, sorted(now.started_blocks)) if not _is_empty_text(block)]
        added: list[Json] = [
            {"role": "assistant", "content": said},
            {"role": "user", "content": self._build_tool_results(results)},
        ]
        self._hidden_messages += added
        self._rounds.append(_Round(now.first_client_index + len(now.client_indexes)))
        return added

    def finish_stream(self) -> bytes:
        """Return what ends a stream whose model would call for ever."""
        given = self._final_event.get("delta")
        delta = {**(given if is_object(given) else {}), "stop_reason": "end_turn"}
        ending = {**self._final_event, "delta": delta, "usage": self._build_total_usage(self._final_event.get("usage"))}
        return _encode_event(ending) + _encode_event({"type": "message_stop"})

    def list_visible_elements(self) -> list[Json]:
        """Return the message that the client will send back as this reply."""
        return [{"role": "assistant", "content": [block for each in self._rounds for block in each.visible_blocks]}]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return what has to be woven in where that message stands; `results` are those of the last round's calls.

        That is the messages `before` it, how many of its blocks (`cut`) and characters (`strip`) are in those, the
        `keys` of all its blocks, our `calls` by the place among them, and the blocks `after` it that answer these.
        """
        now = self._current_round
        if not self._hidden_messages and not now.expand_call_indexes:
            return None
        earlier = [block for each in self._rounds[:-1] for block in each.visible_blocks]
        calls = [
            [now.first_client_index + sum(shown < index for shown in now.client_indexes), now.build_block(index)]
            for index in now.expand_call_indexes
        ]
        return {
            "before": self._hidden_messages,
            "cut": len(earlier),
            "strip": sum(len(str(block.get("text") or "")) for block in earlier if block.get("type") == "text"),
            "keys": [identify_block(block) for block in [*earlier, *now.visible_blocks]],
            "calls": calls,
            "after": self._build_tool_results(results),
        }

    def _filter_message_start(self, raw: bytes, said: Json) -> bytes:
        if is_object(message := said.get("message")):
            self._record_usage(message.get("usage"))
        return raw if len(self._rounds) == 1 else b""

    def _filter_block_event(self, raw: bytes, said: Json) -> bytes:
        index = said.get("index")
        if not isinstance(index, int):
            return raw
        if is_object(block := said.get("content_block")):
            self._current_round.start_block(index, block)
        elif is_object(delta := said.get("delta")) and index in self._current_round.started_blocks:
            self._current_round.append_delta(index, delta)
        place = self._current_round.client_indexes.get(index)
        if place is None:
            return b"" if index in self._current_round.started_blocks else raw
        return raw if place == index else _encode_event({**said, "index": place})

    def _filter_message_delta(self, raw: bytes, said: Json) -> bytes:
        self._record_usage(said.get("usage"))
        if is_object(delta := said.get("delta")):
            self._current_round.stop_reason = delta.get("stop_reason") or self._current_round.stop_reason
        if self.awaits_expansion:
            self._final_event = said
            return b""
        return (
            raw
            if len(self._rounds) == 1
            else _encode_event({**said, "usage": self._build_total_usage(said.get("usage"))})
        )

    def _record_usage(self, usage: object) -> None:
        """Note what a round has used: it is told in instalments, the last word on each figure holds."""
        if is_object(usage):
            self._current_round.usage |= {name: value for name, value in usage.items() if value is not None}

    def _build_total_usage(self, usage: object) -> Json:
        """Return a usage as it is told at the end, for all rounds: what later ones have read is in it, too."""
        given = usage if is_object(usage) else {}
        return given | {
            name: value for name, value in (self.usage or {}).items() if name in (*given, *_INPUT_TOKEN_FIELDS)
        }

    def _build_tool_results(self, results: Sequence[str]) -> list[Json]:
        asked = [
            self._current_round.started_blocks[index].get("id") for index in self._current_round.expand_call_indexes
        ]
        return [
            {"type": "tool_result", "tool_use_id": its_id, "content": result}
            for its_id, result in zip(asked, results, strict=True)
        ]


def _is_empty_text(block: Json) -> bool:
    """Say whether a block is a text that says nothing: in a request it would be refused."""
    return block.get("type") == "text" and not str(block.get("text") or "").strip()


def _encode_event(said: Json) -> bytes:
    return sse.encode_event(orjson.dumps(said), name=str(said.get("type")))
