"""Reads the replies to one request of the Responses API, and takes out what only the proxy asked for.

One object a request, living through all its rounds: to the client they are one reply, which begins as the first and
ends as the last. Events go on at once; held back are only those of a call that is ours, and the end of a round in which
the model waits for nobody else. Nothing here knows where a hidden call is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from . import expand_call, responses_items, sse
from .expand_call import TOOL_NAME, ExpandCall
from .json_types import Json, is_array, is_object, parse_object
from .responses_items import is_expand_call

_START_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress"})
_END_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


_ReplyStep = tuple[
    Json | None, str, object
]  # an item that the client does not see; or the key and the id of one that it does


@dataclass(slots=True)
class _Round:
    """What one reply of the upstream holds so far; items by the provider's index, with the index the client knows."""

    items: dict[int, Json] = field(default_factory=dict[int, Json])
    client_indexes: dict[int, int] = field(default_factory=dict[int, int])
    response: Json = field(default_factory=dict[str, Any])
    results: Sequence[str] = ()
    end_status: str = ""

    @property
    def output_items(self) -> list[Json]:
        """List its items, as its end tells them or else as they came."""
        told = self.response.get("output")
        listed = told if is_array(told) and told else [item for _, item in sorted(self.items.items())]
        return [item for item in listed if is_object(item)]

    @property
    def answerable_items(self) -> list[Json]:
        """List its items but for a call of ours that was cut off: nobody can answer that."""
        cut_off = {"incomplete"} if self.end_status == "completed" else {"incomplete", "in_progress"}
        return [item for item in self.output_items if not (is_expand_call(item) and str(item.get("status")) in cut_off)]

    @property
    def visible_items(self) -> list[Json]:
        return [item for item in self.output_items if not is_expand_call(item)]

    @property
    def expand_calls(self) -> list[Json]:
        return [item for item in self.answerable_items if is_expand_call(item)]

    def build_call_outputs(self) -> list[Json]:
        """Return what answers the calls of ours, as far as they have been answered."""
        return [
            responses_items.build_call_output(item, said)
            for item, said in zip(self.expand_calls, self.results, strict=False)
        ]

    def list_returnable_items(self) -> list[Json]:
        """List its items as the upstream can take them back."""
        stored = self.response.get("store") is not False
        return [item for item in self.answerable_items if stored or not responses_items.is_unresolvable_reasoning(item)]


class ResponsesReplyFilter:
    """A response, in one round or several."""

    def __init__(self) -> None:
        self._rounds = [_Round()]
        self._held_events: list[bytes] = []
        self._earlier_item_count = 0  # items of earlier rounds
        self._last_sequence_number = -1  # the number of the last event that the client got
        self._must_renumber = False

    @property
    def usage(self) -> Json | None:
        """Return what all rounds have used together, as far as they have told."""
        told = [usage for each in self._rounds if is_object(usage := each.response.get("usage"))]
        return expand_call.sum_usages(told)

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of ours in this round."""
        return [
            ExpandCall(str(item.get("call_id")), str(item.get("arguments")))
            for item in self._current_round.expand_calls
        ]

    @property
    def awaits_expansion(self) -> bool:
        """Say whether the model waits for us alone: then the reply is not at its end."""
        return (
            self._current_round.end_status == "completed"
            and bool(self._current_round.expand_calls)
            and not responses_items.awaits_client(self._current_round.answerable_items)
        )

    @property
    def is_complete(self) -> bool:
        """Say whether this round's reply has been heard to its end."""
        return bool(self._current_round.end_status)

    @property
    def _current_round(self) -> _Round:
        return self._rounds[-1]

    def filter_event(self, raw: bytes) -> bytes:
        """Take one whole event and return what the client gets of it."""
        if self._held_events:
            self._held_events.append(raw)  # whatever comes behind the end
            return b""
        found = sse.parse_data(raw)
        its_kind = str(found.get("type"))
        if is_object(reply := found.get("response")):
            return self._filter_lifecycle_event(raw, found, reply)
        if its_kind in _START_EVENTS and len(self._rounds) > 1:
            return b""
        index = found.get("output_index")
        if not isinstance(index, int):
            return self._renumber_event(raw, found)
        if is_object(item := found.get("item")):
            self._current_round.items[index] = item
        if is_expand_call(self._current_round.items.get(index, {})):
            self._must_renumber = True
            return b""
        place = self._current_round.client_indexes.setdefault(
            index, self._earlier_item_count + len(self._current_round.client_indexes)
        )
        return self._renumber_event(raw, found, output_index=place)

    def filter_reply(self, answer: Json) -> Json:
        """Take a whole reply and return what the client gets, if this was the last round."""
        self._current_round.response, self._current_round.end_status = answer, str(answer.get("status") or "completed")
        return self._filter_response(answer)

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Return the items that answer this round's calls, after all that the model said, and begin the next round."""
        self._current_round.results = results
        added = [*self._current_round.list_returnable_items(), *self._current_round.build_call_outputs()]
        self._earlier_item_count += len(self._current_round.visible_items)
        self._rounds.append(_Round())
        self._held_events, self._must_renumber = [], True
        return added

    def finish_stream(self) -> bytes:
        """Return what ends a stream whose model would call for ever."""
        (end, *rest), self._held_events = self._held_events, []
        return self._renumber_event(
            end, sse.parse_data(end), response=self._filter_response(self._current_round.response)
        ) + b"".join(rest)

    def list_visible_elements(self) -> list[Json]:
        """Return the items that the client will send back as this reply."""
        return [item for each in self._rounds for item in each.visible_items]

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return what has to be woven in there: all steps of the reply, those of the client by their keys alone.

        `results` are those of the last round's calls. `ids` are what the client may say instead of the reply: the id of
        its last item, or, where the upstream knows nothing of the results only, that of the reply as a whole.
        """
        self._current_round.results = results
        if not any(each.expand_calls for each in self._rounds):
            return None
        steps: list[_ReplyStep] = []
        for each in self._rounds:
            steps += [_build_step(item) for item in each.answerable_items]
            if each is not self._current_round:
                steps += [(answer, "", None) for answer in each.build_call_outputs()]
        answers = self._current_round.build_call_outputs()
        ids = [item.get("id") for item in self.list_visible_elements()[-1:]] + [
            self._current_round.response.get("id")
        ] * bool(answers)
        return {"ids": [one for one in ids if isinstance(one, str)], "steps": steps, "results": answers}

    def _filter_lifecycle_event(self, raw: bytes, found: Json, reply: Json) -> bytes:
        """Take an event that tells of the response as a whole: its beginning, or its end."""
        its_kind = str(found.get("type"))
        if its_kind in _END_EVENTS:
            self._current_round.response, self._current_round.end_status = reply, its_kind.removeprefix("response.")
            if self.awaits_expansion:
                self._held_events = [raw]
                return b""
        elif len(self._rounds) > 1:
            return b""
        return self._renumber_event(raw, found, response=self._filter_response(reply))

    def _filter_response(self, reply: Json) -> Json:
        """Return a response as the client gets it: the very same object if nothing of ours is in it."""
        changes: Json = {}
        if is_array(tools := reply.get("tools")) and any(map(_is_expand_tool, tools)):
            changes["tools"] = [tool for tool in tools if not _is_expand_tool(tool)]
        if reply is self._current_round.response and (
            len(self._rounds) > 1 or any(map(is_expand_call, self._current_round.output_items))
        ):
            changes |= {"output": self.list_visible_elements(), "usage": self.usage}
        return {**reply, **changes} if changes else reply

    def _renumber_event(self, raw: bytes, found: Json, **changes: object) -> bytes:
        """Number an event as the client counts them: the very same bytes if that changes nothing."""
        number = found.get("sequence_number")
        if isinstance(number, int):
            self._last_sequence_number = self._last_sequence_number + 1 if self._must_renumber else number
            changes["sequence_number"] = self._last_sequence_number
        if all(found.get(name) is value or found.get(name) == value for name, value in changes.items()):
            return raw
        return _encode_event(raw, {**found, **changes})


def filter_stored_response(payload: bytes) -> bytes:
    """Return what the upstream keeps of a response, or of its input, as the client knows it."""
    found = parse_object(payload)
    if found is None:
        return payload
    listed = found.get("data")
    if is_array(listed):
        hidden = {item.get("call_id") for item in listed if is_object(item) and is_expand_call(item)}
        kept = [item for item in listed if not (is_object(item) and item.get("call_id", "") in hidden)]
        shown: Json = found if len(kept) == len(listed) else {**found, "data": kept}
    else:
        shown = ResponsesReplyFilter().filter_reply(found)
    return payload if shown is found else orjson.dumps(shown)


def _build_step(item: Json) -> _ReplyStep:
    return (item, "", None) if is_expand_call(item) else (None, responses_items.hash_item(item), item.get("id"))


def _is_expand_tool(tool: object) -> bool:
    return is_object(tool) and tool.get("name") == TOOL_NAME


def _encode_event(raw: bytes, found: Json) -> bytes:
    """Write an event anew, with the lines around its data as they came."""
    named = [line for line in raw.splitlines() if line and not line.startswith(b"data:")]
    return b"\n".join([*named, b"data: " + orjson.dumps(found), b"", b""])
