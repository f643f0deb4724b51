"""Remembers computed results of conversations for later requests.

A client sends its whole conversation with every request. It is known by the hash of its first messages: each message's
JSON text is hashed with the hash of its prefix. A request continues from the longest prefix of an earlier request of
the same owner with the same options; it counts, plans and compresses its new messages only. The memory saves time and
changes nothing else: a restarted proxy computes the same bytes again (the prefix invariant).
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import NamedTuple

from cachetools import LRUCache

from ...compression.transcript import ToolCall
from ..protocols import json_codec
from ..protocols.json_types import is_array
from ..protocols.prefix_hash import PrefixHash
from .edits import EMPTY_COMPRESSED, CompressedPrefix

MAX_BYTES = 32 * 2**20  # of all conversations together, as estimated
MAX_KNOWN_BYTES = MAX_BYTES // 4  # of the body of one conversation
BYTES_PER_ELEMENT = 1000  # of the objects made of a message: some 800 in one recorded conversation
ConversationKey = tuple[str, int]  # the owner, and the hash of the prefix


@dataclass(frozen=True, slots=True)
class KnownConversation:
    """The results for the first `element_count` messages or items of a conversation. It is never modified.

    `tokens` and `max_tokens` are the sum and the maximum over their `text_count` texts, `calls` their tool calls.
    """

    element_count: int = 0
    text_count: int = 0
    tokens: int = 0
    max_tokens: int = 0
    calls: Mapping[str, ToolCall] = field(default_factory=dict[str, ToolCall])
    compressed: CompressedPrefix = EMPTY_COMPRESSED
    prefix_hash: PrefixHash | None = None
    predecessor: ConversationKey | None = None
    size: int = 0


UNKNOWN = KnownConversation()


class Elements(NamedTuple):
    """The elements of a request as JSON texts, and the keys of its prefixes by their number of elements less one."""

    texts: Sequence[bytes] = ()
    keys: Sequence[ConversationKey] = ()


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

    def remember(self, elements: Elements, known: KnownConversation, before: KnownConversation) -> None:
        """Remember a conversation, the continuation of `before`.

        `before` is kept, too: a client may repeat its last turn. The predecessor of `before` is dropped.
        """
        if not elements.keys:
            return
        predecessor = before.predecessor  # if the last turn is repeated
        if 0 < before.element_count < known.element_count:
            predecessor = elements.keys[before.element_count - 1]
        size = before.size + BYTES_PER_ELEMENT * (len(elements.texts) - before.element_count)
        size += sum(map(len, elements.texts[before.element_count :]))
        new_results = known.compressed.results[len(before.compressed.results) :]
        size += sum(len(decision.passage.question) for decision, _ in new_results)
        with self._lock, suppress(ValueError):  # a conversation larger than the memory is not remembered
            if before.predecessor is not None and before.element_count < known.element_count:
                self._conversations.pop(before.predecessor, None)
            self._conversations[elements.keys[-1]] = replace(known, predecessor=predecessor, size=size)


def read_elements(value: object, owner: str, scope: Hashable) -> Elements:
    """Return the elements of a request, with keys that are equal for equal prefixes of one owner in the same scope.

    Inputs other than lists, and values beyond orjson's, have no elements.
    """
    if not is_array(value):
        return Elements()
    texts: list[bytes] = []
    keys: list[ConversationKey] = []
    key = hash(scope)
    try:
        for element in value:
            texts.append(json_codec.dumps_plain(element))
            key = hash((key, texts[-1]))
            keys.append((owner, key))
    except TypeError:
        return Elements()
    return Elements(texts, keys)
