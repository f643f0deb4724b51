"""Hashes of conversation prefixes: one per element, over everything up to and including it.

Two requests share a hash exactly as far as their conversations agree. Calls that were hidden from the client are stored
under such a hash and found again when the client sends the conversation back.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from hashlib import sha256

from .json_types import Json
from .protocol import ProtocolAdapter

HashedPosition = tuple[int, str]
BEFORE_FIRST = -1  # the position before the first element


class PrefixHash:
    """The hashes along a conversation's elements. Elements without a fingerprint are skipped.

    `reply_id` is the id of the reply that the request continues, if the upstream stores its replies.
    """

    def __init__(
        self,
        adapter: ProtocolAdapter,
        elements: Sequence[Json],
        reply_id: str = "",
        known: "PrefixHash | None" = None,
    ) -> None:
        """Hash the elements. `known` has hashed the first of them, for the same adapter and reply."""
        self._adapter = adapter
        self._family = f"{adapter.elements_key} {adapter.is_anthropic} {reply_id}"  # for counting and for sending
        if known is None or known._family != self._family:
            self._hasher, self._count = sha256(self._family.encode()), 0
            self.positions: list[HashedPosition] = []
        else:
            self._hasher, self._count, self.positions = known._hasher.copy(), known._count, list(known.positions)
        self.positions += self._hash_elements(elements, self._count)
        self._count = len(elements)

    def copy(self) -> "PrefixHash":
        """Return a copy that `extend` does not change."""
        copied = copy(self)
        copied._hasher = self._hasher.copy()
        return copied

    def extend(self, elements: Sequence[Json]) -> str | None:
        """Append elements and return the hash after them, or None if none of them has a fingerprint."""
        return self._digest() if list(self._hash_elements(elements)) else None

    def _hash_elements(self, elements: Sequence[Json], first: int = 0) -> Iterator[HashedPosition]:
        for index in range(first, len(elements)):
            fingerprint = self._adapter.fingerprint_element(elements[index])
            if fingerprint is not None:
                self._hasher.update(b"%d " % len(fingerprint) + fingerprint)
                yield index, self._digest()

    def _digest(self) -> str:
        return self._hasher.hexdigest()[:32]


def hash_reply_id(reply_id: str) -> str:
    """Return the hash for a reply, or an item of one, that the upstream stores under this id."""
    return sha256(b"behind " + reply_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
