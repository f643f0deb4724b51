"""Names for places in a conversation: of each element the hash of all that was said up to it.

Two requests have a name in common exactly as far as they are the same conversation. What was hidden from the client at
a place is remembered under its name, and found again when the client sends the conversation back.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256

from .json_types import Json
from .protocol import ProtocolAdapter

HashedPosition = tuple[int, str]
BEFORE_FIRST = -1  # the index of the place before a conversation's first element


class PrefixHash:
    """The names along a conversation's elements; what the wire does not mark has none.

    `reply` is the id of the reply behind which it goes on, if the upstream remembers what was said before.
    """

    def __init__(self, adapter: ProtocolAdapter, elements: Sequence[Json], reply_id: str = "") -> None:
        self._adapter = adapter
        family = f"{adapter.elements_key} {adapter.is_anthropic} {reply_id}"  # what is counted leads to the same places as what is sent
        self._hasher = sha256(family.encode())
        self.positions: list[HashedPosition] = list(self._hash_elements(elements))

    def extend(self, elements: Sequence[Json]) -> str | None:
        """Walk on along these further elements and return the name of the place they lead to; None if they do not."""
        return self._digest() if list(self._hash_elements(elements)) else None

    def _hash_elements(self, elements: Sequence[Json]) -> Iterator[HashedPosition]:
        for index, element in enumerate(elements):
            mark = self._adapter.fingerprint_element(element)
            if mark is not None:
                self._hasher.update(b"%d " % len(mark) + mark)
                yield index, self._digest()

    def _digest(self) -> str:
        return self._hasher.hexdigest()[:32]


def hash_reply_id(its_id: str) -> str:
    """Return the name of the place behind a reply, or an item of one, that the upstream remembers by this id."""
    return sha256(b"behind " + its_id.encode()).hexdigest()[:32]
