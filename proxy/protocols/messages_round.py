"""One reply to an Anthropic request as far as it has arrived: its blocks in order, and those that the client sees.

Upstreams number blocks correctly, all alike, or not at all: a start begins a new block, and a delta belongs to the
latest block with its index.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import json_codec, reply_round
from .expand_call import HIDDEN_TOOL_NAMES, ExpandCall
from .json_codec import merge
from .json_types import Json, is_array, is_object, parse_object_exactly

TOOL_USE = "tool_use"  # the type of a block that calls a tool, and the stop reason of a reply that waits for one
_PARTIAL_JSON = "partial_json"
_DELTA_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": _PARTIAL_JSON}


@dataclass(slots=True)
class Block:
    """One block. A hidden call has no `client_index`."""

    start: Json
    client_index: int | None = None
    pieces: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def is_expand_call(self) -> bool:
        """Return True for a call of the proxy's tool."""
        return self.client_index is None

    @property
    def arguments(self) -> str:
        """Return the arguments of a call as JSON text."""
        arguments = json_codec.join_text(self.pieces.get(_PARTIAL_JSON, ()))
        return arguments or reply_round.encode_arguments(self.start.get("input"))

    def add_delta(self, delta: Json) -> None:
        """Record a delta."""
        delta_type = str(delta.get("type"))
        if delta_type in _DELTA_FIELDS:
            name = _DELTA_FIELDS[delta_type]
            self.pieces.setdefault(name, []).append(reply_round.encode_arguments(delta.get(name)))
        elif delta_type == "citations_delta":
            self.start["citations"] = [*(self.start.get("citations") or ()), delta.get("citation")]
        else:  # a signature comes whole; an unknown delta is taken for one that does
            self.start.update({name: value for name, value in delta.items() if name != "type"})

    def build(self) -> Json:
        """Return the block with the deltas received so far."""
        block = merge(self.start)
        for name in ("text", "thinking"):
            if name in self.pieces:
                block[name] = json_codec.join_text([str(block.get(name) or ""), *self.pieces[name]])
        is_text = isinstance(block.get("input"), str)
        if (self.pieces.get(_PARTIAL_JSON) and any(self.pieces[_PARTIAL_JSON])) or is_text:
            block["input"] = parse_object_exactly(self.arguments.encode("utf-8", "backslashreplace")) or {}
        return block


@dataclass(slots=True)
class MessagesRound:
    """One reply. The first block that the client sees gets `first_client_index`."""

    first_client_index: int
    blocks: list[Block] = field(default_factory=list[Block])
    message: Json = field(default_factory=dict[str, Any])
    usage: Json = field(default_factory=dict[str, Any])
    stop_reason: str | None = None
    has_ended: bool = False
    _latest_by_index: dict[int | None, Block] = field(default_factory=dict[int | None, Block])

    def start_block(self, index: object, start: Json) -> Block:
        """Record the start of a block. It gets an index at the client unless it is a hidden call.

        Some gateways repeat the start of a call with each piece of it.
        """
        latest = self.find_block(index)
        if latest is not None and start.get("id") and latest.start.get("id") == start["id"]:
            return latest
        block = Block(merge(start))
        if not (start.get("type") == TOOL_USE and start.get("name") in HIDDEN_TOOL_NAMES):
            block.client_index = self.first_client_index + self.visible_count
        self.blocks.append(block)
        self._latest_by_index[index if isinstance(index, int) else None] = block
        return block

    def find_block(self, index: object) -> Block | None:
        """Return the block that an event with this index belongs to: without an index the latest one."""
        if isinstance(index, int):
            return self._latest_by_index.get(index)
        return self.blocks[-1] if self.blocks else None

    @property
    def visible_count(self) -> int:
        """Return the number of blocks that the client sees."""
        return sum(block.client_index is not None for block in self.blocks)

    @property
    def visible_blocks(self) -> list[Json]:
        """List the blocks that the client sees."""
        return [block.build() for block in self.blocks if block.client_index is not None]

    @property
    def has_hidden(self) -> bool:
        """Return True if the proxy's tool is called, even if the call cannot be answered."""
        return any(block.is_expand_call for block in self.blocks)

    @property
    def calls_client_tool(self) -> bool:
        """Return True if the reply calls a tool of the client."""
        return any(block.start.get("type") == TOOL_USE and not block.is_expand_call for block in self.blocks)

    @property
    def is_hidden(self) -> bool:
        """Return True if the model waits for the proxy's tool alone."""
        return reply_round.is_round_hidden(
            self.list_expand_calls(), self.stop_reason, calls_client=self.calls_client_tool
        )

    @property
    def may_be_hidden(self) -> bool:
        """Return True if the end of this round is held back, because another round may follow."""
        return self.has_hidden and not self.calls_client_tool and not reply_round.is_cut_off(self.stop_reason)

    def list_answerable_blocks(self) -> list[Block]:
        """List the hidden calls that are whole. Each gets an id if the provider gave none."""
        blocks = [
            block
            for block in self.blocks
            if block.is_expand_call and reply_round.is_answerable(block.arguments, self.stop_reason)
        ]
        for block in blocks:
            if not isinstance(block.start.get("id"), str) or not block.start["id"]:
                block.start["id"] = f"toolu_{secrets.token_hex(12)}"
        return blocks

    def list_expand_calls(self) -> list[ExpandCall]:
        """List the hidden calls that are whole."""
        calls: list[ExpandCall] = []
        for block in self.list_answerable_blocks():
            built = block.build()
            arguments = json_codec.dumps(built.get("input")).decode()
            calls.append(ExpandCall(str(built.get("id")), arguments, str(built.get("name"))))
        return calls

    def list_returnable_blocks(self) -> list[Json]:
        """List the blocks that the upstream accepts as a message: without empty texts and calls that are incomplete."""
        answerable = self.list_answerable_blocks()
        blocks = [
            block.build()
            for block in self.blocks
            if not block.is_expand_call or any(block is answer for answer in answerable)
        ]
        return [block for block in blocks if not _is_empty_text(block)]

    def list_positioned_calls(self) -> list[list[object]]:
        """List the hidden calls that are whole, each with the index of the client's block that it precedes."""
        answerable = self.list_answerable_blocks()
        calls: list[list[object]] = []
        position = self.first_client_index
        for block in self.blocks:
            if block.client_index is not None:
                position = block.client_index + 1
            elif any(block is answer for answer in answerable):
                calls.append([position, block.build()])
        return calls

    def build_tool_results(self, results: Sequence[str]) -> list[Json]:
        """Return the blocks that answer the hidden calls."""
        return [
            {"type": "tool_result", "tool_use_id": block.start.get("id"), "content": result}
            for block, result in zip(self.list_answerable_blocks(), results, strict=True)
        ]


def list_content_blocks(content: object) -> list[Json] | None:
    """Return the content of a whole message as blocks; a text is one block. None for another shape."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if content is None:
        return []
    if is_array(content) and all(map(is_object, content)):
        return content
    return None


def _is_empty_text(block: Json) -> bool:
    """Return True for a text block without text, which the API rejects in a request."""
    return block.get("type") == "text" and not str(block.get("text") or "").strip()
