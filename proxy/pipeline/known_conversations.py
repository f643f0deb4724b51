"""Remembers computed results of conversations for later requests.

A client sends its whole conversation with every request. It is known by the hash of its first messages: each message's
JSON text is hashed with the hash of its prefix. A request continues from the longest prefix of an earlier request of
the same owner with the same options; it counts, plans and compresses its new messages only. The memory saves time and
changes nothing else: a restarted proxy computes the same bytes again (the prefix invariant).
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple

from cachetools import LRUCache

from ...compression.transcript import ToolCall
from ..protocols import json_codec
from ..protocols.json_types import is_array
from ..protocols.prefix_hash import PrefixHash
from ..protocols.protocol import Conversation
from .edits import EMPTY_COMPRESSED, CompressedPrefix

MAX_BYTES = 32 * 2**20  # of all conversations together, as estimated
MAX_KNOWN_BYTES = MAX_BYTES // 4  # of the body of one conversation
MIN_CHECKPOINT_ELEMENTS = 16  # new elements from which on those before the last one are remembered by themselves
BYTES_PER_ELEMENT = 1000  # of the objects made of a message: some 800 in one recorded conversation
ConversationKey = tuple[str, int]  # the owner, and the hash of the prefix


class KnownConversation(NamedTuple):
    """The results for the first `element_count` messages or items of a conversation. It is never modified.

    `tokens` and `max_tokens` are the sum and the maximum over their `text_count` texts, `calls` their tool calls. A
    checkpoint is a part of a request that others are likely to share.
    """

    element_count: int = 0
    text_count: int = 0
    tokens: int = 0
    max_tokens: int = 0
    calls: Mapping[str, ToolCall] = MappingProxyType({})
    compressed: CompressedPrefix = EMPTY_COMPRESSED
    prefix_hash: PrefixHash | None = None
    predecessor: ConversationKey | None = None
    size: int = 0
    is_checkpoint: bool = False

    def extend(
        self,
        elements: "Elements",
        tokens: Sequence[int],
        calls: Mapping[str, ToolCall],
        compressed: CompressedPrefix,
        prefix_hash: PrefixHash | None,
    ) -> "KnownConversation":
        """Return the results for more elements; `tokens` are those of their texts. The size is still unknown."""
        return KnownConversation(
            len(elements.keys),
            self.text_count + len(tokens),
            self.tokens + sum(tokens),
            max(self.max_tokens, *tokens, 0),
            calls,
            compressed,
            prefix_hash or self.prefix_hash,
        )


UNKNOWN = KnownConversation()


class Elements(NamedTuple):
    """The elements of a request as JSON texts, and the keys of its prefixes by their number of elements less one."""

    texts: Sequence[bytes] = ()
    keys: Sequence[ConversationKey] = ()

    def without_last(self) -> "Elements":
        """Return all elements but the last one."""
        return Elements(self.texts[:-1], self.keys[:-1])


NO_ELEMENTS = Elements()


class ConversationMemory:
    """Keeps known conversations, up to `max_bytes`; the least recently used go first. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._conversations: LRUCache[ConversationKey, KnownConversation] = LRUCache(
            max_bytes, getsizeof=lambda conversation: conversation.size
        )
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Return the estimated bytes in use."""
        return int(self._conversations.currsize)

    def clear(self) -> None:
        """Forget all conversations."""
        with self._lock:
            self._conversations.clear()

    def find(self, elements: Elements) -> KnownConversation:
        """Return the results for the longest known prefix of a conversation."""
        with self._lock:
            for key in reversed(elements.keys):
                known = self._conversations.get(key)
                if known is not None:
                    return known
        return UNKNOWN

    def remember(self, elements: Elements, known: KnownConversation, before: KnownConversation) -> KnownConversation:
        """Remember a conversation, the continuation of `before`, and return it with its size.

        `before` is kept, too: a client may repeat its last turn. The predecessor of `before` is dropped, unless it is a
        checkpoint, which several conversations may continue.
        """
        if not elements.keys:
            return known
        predecessor = before.predecessor  # if the last turn is repeated
        if 0 < before.element_count < known.element_count:
            predecessor = None if before.is_checkpoint else elements.keys[before.element_count - 1]
        size = before.size + BYTES_PER_ELEMENT * (len(elements.texts) - before.element_count)
        size += sum(map(len, elements.texts[before.element_count :]))
        new_results = known.compressed.results[len(before.compressed.results) :]
        size += sum(len(decision.passage.question) for decision, _ in new_results)
        known = known._replace(predecessor=predecessor, size=size)
        with self._lock, suppress(ValueError):  # a conversation larger than the memory is not remembered
            if before.predecessor is not None and before.element_count < known.element_count:
                self._conversations.pop(before.predecessor, None)
            self._conversations[elements.keys[-1]] = known
        return known


def read_elements(value: object, owner: str, scope: Hashable, known_texts: Sequence[bytes] = ()) -> Elements:
    """Return the elements of a request, with keys that are equal for equal prefixes of one owner in the same scope.

    Inputs other than lists, and values beyond orjson's, have no elements. `known_texts` are the JSON texts of all
    elements, if they are known.
    """
    if not is_array(value):
        return NO_ELEMENTS
    try:
        texts = known_texts or [json_codec.dumps_plain(element) for element in value]
    except TypeError:
        return NO_ELEMENTS
    keys: list[ConversationKey] = []
    key = hash(scope)
    for text in texts:
        key = hash((key, text))
        keys.append((owner, key))
    return Elements(texts, keys)


def find_checkpoint(conversation: Conversation, elements: Elements, known: KnownConversation, turn_count: int) -> int:
    """Return the number of turns before the last element if others are likely to follow them, else 0.

    So it is in a long conversation that is new: requests often share all but their last message.
    """
    if len(elements.keys) - known.element_count < MIN_CHECKPOINT_ELEMENTS:
        return 0
    calls = dict[str, ToolCall]()
    last_turns = conversation.read_turns(len(elements.keys) - 1, calls)
    return 0 if calls else turn_count - len(last_turns)  # the elements before it must have all calls
