"""A chat of which some messages are held back: read for what they ask, and never changed.

Not a protocol of its own: the messages are OpenAI's or, where their blocks say so, Anthropic's. The invariant: no
passage lies in a held message, and every other message is read as its own protocol reads it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ...compression.transcript import Turn
from ..protocols import chat, messages
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import Conversation, ProtocolAdapter

_ANTHROPIC_BLOCK_TYPES = frozenset({"tool_result", "tool_use"})


class FrozenMessages(chat.ChatAdapter):
    """Messages of which the first `first` and the last `last` are held back."""

    def __init__(self, body: Json, first: int, last: int) -> None:
        anthropic = _has_anthropic_blocks(body) and messages.ADAPTER.read_conversation(body) is not None
        self._adapter: ProtocolAdapter = messages.ADAPTER if anthropic else chat.ADAPTER
        self._first, self._last = first, last

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body; None when its messages are not a list of objects with known roles."""
        found = self._adapter.read_conversation(body)
        if found is None:
            return None
        free = range(self._first, found.element_count - self._last)
        # A gateway does not say which tools there are, and to infer them from what was called so far would change the
        # beginning of a conversation when it grows: long prose counts as a task.
        return replace(found, agentic=True, turns=partial(_freeze_turns, found, free))


def _freeze_turns(found: Conversation, free: Sequence[int]) -> list[Turn]:
    return [turn._replace(is_frozen=any(slot.path[1] not in free for slot in turn.slots)) for turn in found.turns()]


def _has_anthropic_blocks(body: Json) -> bool:
    """Say whether there are blocks that only Anthropic's messages have."""
    listed = body.get("messages")
    contents = [one.get("content") for one in listed if is_object(one)] if is_array(listed) else []
    blocks = (block for content in contents if is_array(content) for block in content if is_object(block))
    return any(block.get("type") in _ANTHROPIC_BLOCK_TYPES for block in blocks)
