"""The tool calls of one chat reply: pieces are assigned to calls, and a call is shown once its name is whole.

Providers number calls correctly, all alike, or not at all. A call is held back while its name can become the name of
the proxy's tool; later calls wait for it, so that the client sees them in order.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import json_codec
from .expand_call import HIDDEN_TOOL_NAMES, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object, parse_object
from .reply_round import encode_arguments, extend_name, is_answerable, may_be_expand_name

_CALL_FIELDS = frozenset({"index", "id", "type", "function"})


@dataclass(slots=True)
class ChatCall:
    """One call as far as it has arrived. Until the client sees it, its `client_index` is unset (None)."""

    index: int | None
    id: object
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    extra_fields: Json = field(default_factory=dict[str, Any])
    held_pieces: list[Json] = field(default_factory=list[Json])
    client_index: int | None = None
    is_name_whole: bool = False
    type: object = "function"

    @property
    def is_expand_call(self) -> bool:
        """Return True for a call of the proxy's tool."""
        return self.client_index is None and self.name in HIDDEN_TOOL_NAMES and self.type == "function"

    @property
    def is_undecided(self) -> bool:
        """Return True while the name can still become the name of the proxy's tool."""
        return self.client_index is None and not self.is_name_whole and may_be_expand_name(self.name)

    @property
    def arguments_text(self) -> str:
        """Return the arguments received so far."""
        return json_codec.join_text(self.arguments)

    def add(self, piece: Json) -> None:
        """Add a piece. Arguments begin after the name."""
        function = _get_function(piece)
        if not self.arguments and (name := _get_name(function)):
            self.name = extend_name(self.name, name)
        if arguments := encode_arguments(function.get("arguments")):
            self.arguments.append(arguments)
            self.is_name_whole = bool(self.name) and self.name not in HIDDEN_TOOL_NAMES
        if str(piece.get("type") or "function").lower() != "function":
            self.type, self.is_name_whole = piece["type"], True
        self.id = self.id or piece.get("id")
        self.extra_fields |= {name: value for name, value in piece.items() if name not in _CALL_FIELDS}

    def is_followed_by_another(self, piece: Json) -> bool:
        """Return True if a piece with the same index, or without one, begins another call."""
        function = _get_function(piece)
        name, piece_id = _get_name(function), piece.get("id")
        if piece_id and self.id:
            return piece_id != self.id and bool(name or self._has_whole_arguments)
        if not name:
            return False
        if self._has_whole_arguments:
            return True
        is_unnumbered = _get_index(piece) is None and not self.arguments
        return (
            is_unnumbered
            and bool(self.name)
            and name != self.name
            and any(hidden in (self.name, name) for hidden in HIDDEN_TOOL_NAMES)
        )

    @property
    def _has_whole_arguments(self) -> bool:
        text = self.arguments_text.rstrip() if self.arguments and self.arguments[-1].rstrip().endswith("}") else ""
        return parse_object(text.encode("utf-8", "backslashreplace")) is not None

    def build(self) -> Json:
        """Return the call as a message has it."""
        call = {"id": self.id, "type": self.type, **self.extra_fields}
        return call | ({"function": self._function} if self.type == "function" else {})

    @property
    def _function(self) -> Json:
        return {"name": self.name, "arguments": self.arguments_text}

    def take_held_piece(self) -> Json:
        """Return the pieces that were held back as one piece."""
        (first, *rest), self.held_pieces = self.held_pieces, []
        if not rest:
            return first
        function = {**_get_function(first), **self._function}
        return merge(first, *rest, {"id": self.id} if self.id else {}, {"function": function})


class ChatCalls:
    """The calls of one reply in order."""

    def __init__(self) -> None:
        self._calls: list[ChatCall] = []
        self._latest_by_index: dict[int | None, ChatCall] = {}

    def __len__(self) -> int:
        """Return the number of calls so far."""
        return len(self._calls)

    @property
    def visible(self) -> list[Json]:
        """List the calls that the client sees."""
        return [call.build() for call in self._calls if call.client_index is not None]

    @property
    def has_visible(self) -> bool:
        """Return True if the client sees a call."""
        return any(call.client_index is not None for call in self._calls)

    @property
    def has_hidden(self) -> bool:
        """Return True if a call is hidden, or held back."""
        return any(call.client_index is None for call in self._calls)

    def build_all(self) -> list[Json]:
        """List all calls, hidden ones too."""
        return [call.build() for call in self._calls]

    def list_answerable(self, reason: object) -> list[tuple[int, Json]]:
        """List the calls of the proxy's tool that are whole, with their positions among all calls."""
        calls = self.list_returnable(reason)
        return [(position, call.build()) for position, call in enumerate(calls) if call.is_expand_call]

    def list_expand_calls(self, reason: object) -> list[ExpandCall]:
        """List the calls of the proxy's tool that are whole."""
        return [
            ExpandCall(str(call.id), call.arguments_text, call.name)
            for call in self.list_returnable(reason)
            if call.is_expand_call
        ]

    def list_returnable(self, reason: object) -> list[ChatCall]:
        """List the calls without those of the proxy's tool that cannot be answered."""
        self._complete_ids()
        has_arguments = any(call.is_expand_call and call.arguments for call in self._calls)
        return [
            call
            for call in self._calls
            if not call.is_expand_call
            or (is_answerable(call.arguments_text, reason) and (call.arguments or not has_arguments))
        ]

    def add_pieces(self, pieces: object) -> list[Json]:
        """Record the pieces in a delta and return those for the client: the same objects if their index stays."""
        visible: list[Json] = []
        for piece in filter(is_object, pieces if is_array(pieces) else [pieces]):
            call = self._find_call(piece)
            call.add(piece)
            if call.client_index is not None:
                visible.append(self._renumber(call, piece))
            else:
                call.held_pieces.append(piece)
                visible += self._release()
        return visible

    def settle(self) -> list[Json]:
        """Take all names for whole, because the reply has ended, and return the pieces that were held back."""
        for call in self._calls:
            call.is_name_whole = call.name not in HIDDEN_TOOL_NAMES
        return self._release()

    def _release(self) -> list[Json]:
        pieces: list[Json] = []
        for position, call in enumerate(self._calls):
            if call.client_index is not None or call.is_expand_call:
                continue
            if call.is_undecided:
                break
            call.client_index = self._next_client_index(position, call)
            pieces.append(self._renumber(call, call.take_held_piece()))
        return pieces

    def _find_call(self, piece: Json) -> ChatCall:
        """Return the call that a piece belongs to."""
        index = _get_index(piece)
        call = self._latest_by_index.get(index)
        if call is None and index is None and self._calls:
            call = self._calls[-1]
        if call is None or call.is_followed_by_another(piece):
            call = ChatCall(index, piece.get("id"))
            self._calls.append(call)
        self._latest_by_index[index] = call
        return call

    def _next_client_index(self, position: int, call: ChatCall) -> int:
        """Return the index of a new call at the client: the provider's own until a call has been hidden."""
        earlier = [other.client_index for other in self._calls[:position]]
        if call.index is not None and None not in earlier:
            return call.index
        return max((index for index in earlier if index is not None), default=-1) + 1

    def _renumber(self, call: ChatCall, piece: Json) -> Json:
        return merge(piece, {"index": call.client_index}) if self.has_hidden else piece

    def _complete_ids(self) -> None:
        """Give the hidden calls ids where the provider gave none, or the same to several: results refer to them."""
        ids: set[object] = set()
        for call in self._calls:
            if call.is_expand_call and (not isinstance(call.id, str) or not call.id or call.id in ids):
                call.id = f"call_{secrets.token_hex(12)}"
            ids.add(call.id if isinstance(call.id, str) else None)


def build_tool_messages(calls: Sequence[tuple[int, Json]], results: Sequence[str]) -> list[Json]:
    """Return the messages that answer the hidden calls."""
    return [
        {"role": "tool", "tool_call_id": call.get("id"), "content": result}
        for (_, call), result in zip(calls, results, strict=True)
    ]


def _get_name(function: Json) -> str:
    """Return the name in a piece of a call. Some gateways send an absent name as the text `null`."""
    name = function.get("name")
    return name if isinstance(name, str) and name != "null" else ""


def _get_index(piece: Json) -> int | None:
    """Return the number of the call that a piece belongs to. Some providers send it as a text."""
    index = piece.get("index")
    return int(index) if isinstance(index, str) and index.isdecimal() else index if isinstance(index, int) else None


def _get_function(piece: Json) -> Json:
    function = piece.get("function")
    return function if is_object(function) else {}
