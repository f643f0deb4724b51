"""Finds the start of the conversation as the provider reads it: the newest compaction block.

Anthropic and OpenAI compact conversations, at a threshold or on demand. They return a block or an item; the client
sends it back, and the provider ignores everything before it. litellm keeps Anthropic's blocks beside a chat message.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...compression.transcript import Turn
from .json_edit import Path
from .json_types import Json, is_array, is_object

_ITEM_TYPES = frozenset({"compaction", "compaction_summary", "context_compaction"})


class ReadStart(NamedTuple):
    """The first element that the provider reads, and the first block in it."""

    element: int = 0
    block: int = 0


_FROM_START = ReadStart()


def find_read_start(elements: object) -> ReadStart:
    """Return where the provider starts to read messages or items of any protocol."""
    if not is_array(elements):
        return _FROM_START
    for index in range(len(elements) - 1, -1, -1):
        element = elements[index]
        if element.__class__ is not dict and not is_object(element):  # calls are spared: every request walks here
            continue
        if "type" in element and str(element["type"]) in _ITEM_TYPES and "role" not in element:
            return ReadStart(index)
        content: Any = element.get("content")
        if content.__class__ is list:
            for position in range(len(content) - 1, -1, -1):
                if _is_compaction_block(content[position]):
                    return ReadStart(index, position)
        if "provider_specific_fields" in element:
            fields: object = element["provider_specific_fields"]
            if is_object(fields) and fields.get("compaction_blocks"):
                return ReadStart(index)
    return _FROM_START


def drop_unread(elements: Sequence[Json]) -> Sequence[Json]:
    """Return the elements that the provider reads, the first one without the blocks that it does not read."""
    start = find_read_start(elements)
    if start == _FROM_START:
        return elements
    first, *others = elements[start.element :]
    if start.block:
        first = {**first, "content": first["content"][start.block :]}
    return [*(element for element in elements[: start.element] if _is_instruction(element)), first, *others]


def mark_compacted(turns: list[Turn], elements: object) -> list[Turn]:
    """Return the turns, those marked that the provider does not read, and without texts that it does not read."""
    start = find_read_start(elements)
    return turns if start == _FROM_START else [_mark_turn(turn, start) for turn in turns]


def _is_instruction(element: Json) -> bool:
    """Return True for a system message: it belongs to the request, and not to the conversation."""
    return element.get("role") in ("system", "developer")


def _mark_turn(turn: Turn, start: ReadStart) -> Turn:
    read = tuple(slot for slot in turn.slots if _get_position(slot.path) >= start)
    if len(read) == len(turn.slots) or turn.role == "system":
        return turn
    return turn._replace(slots=read) if read else turn._replace(is_compacted=True)


def _get_position(path: Path) -> ReadStart:
    element, block = path[1], path[3] if len(path) > 3 else 0
    return ReadStart(element if isinstance(element, int) else 0, block if isinstance(block, int) else 0)


def _is_compaction_block(block: object) -> bool:
    """Return True for a compaction that succeeded: one that failed has no content, and stands for nothing."""
    if not is_object(block) or block.get("type") != "compaction":
        return False
    return bool(block.get("content") or block.get("encrypted_content"))
