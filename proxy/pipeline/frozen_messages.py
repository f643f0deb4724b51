"""An adapter for chats in which some messages are frozen: read for their questions, and never changed.

The messages are OpenAI's or, if their blocks are, Anthropic's. No passage comes from a frozen message; every other
message is read by the adapter of its own protocol.
"""

from collections.abc import Sequence
from functools import partial

from ...compression.transcript import Turn
from ..protocols import chat, messages
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import Calls, Conversation, ProtocolAdapter

_ANTHROPIC_BLOCK_TYPES = frozenset({"tool_result", "tool_use"})


class FrozenMessages(chat.ChatAdapter):
    """A chat with its first `first` and its last `last` messages frozen."""

    def __init__(self, body: Json, first: int, last: int) -> None:
        is_anthropic = _has_anthropic_blocks(body) and messages.ADAPTER.read_conversation(body) is not None
        self._adapter: ProtocolAdapter = messages.ADAPTER if is_anthropic else chat.ADAPTER
        self._first, self._last = first, last

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body. Return None unless its messages are a list of objects with known roles."""
        conversation = self._adapter.read_conversation(body)
        if conversation is None:
            return None
        free = range(self._first, conversation.element_count - self._last)
        # A gateway does not name the tools on offer. Guessing them from the calls so far would change the beginning of
        # a conversation when it grows, so long prose counts as a task.
        read_turns = partial(_freeze_turns, conversation, free)
        return conversation._replace(agentic=True, read_turns=read_turns, is_growing=False)


def _freeze_turns(conversation: Conversation, free: Sequence[int], first: int, calls: Calls) -> list[Turn]:
    turns = conversation.read_turns(first, calls)
    return [turn._replace(is_frozen=any(slot.path[1] not in free for slot in turn.slots)) for turn in turns]


def _has_anthropic_blocks(body: Json) -> bool:
    """Return True if there are blocks of a type that only Anthropic's messages have."""
    elements = body.get("messages")
    contents = [message.get("content") for message in elements if is_object(message)] if is_array(elements) else []
    blocks = (block for content in contents if is_array(content) for block in content if is_object(block))
    return any(block.get("type") in _ANTHROPIC_BLOCK_TYPES for block in blocks)
