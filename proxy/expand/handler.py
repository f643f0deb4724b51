"""Answer the model's calls of `clara_expand` from the stored originals."""

import asyncio
from collections.abc import Mapping, Sequence

from ...compression.tokens import Vocabulary
from ..protocols.expand_call import Call
from ..protocols.json_types import parsed
from ..stores.excerpt import part
from ..stores.originals import Originals
from ..stores.originals_store import OriginalsError

ROUNDS = 5  # requests that one client's request may become more than the first
AT_ONCE = 16  # calls in one round that are answered

_UNKNOWN = "There is no text of this id: it is unknown, or no longer kept."
_TOO_MANY = f"At most {AT_ONCE} at once: this call was not answered."
_ENOUGH = "Nothing more can be brought back in this turn: answer with what you have."


class Shelf:
    """Answers the calls of one client's model from what that client's requests have stored."""

    def __init__(self, kept: Originals, owner: str, vocabulary: Vocabulary) -> None:
        self._kept, self._owner, self._vocabulary = kept, owner, vocabulary
        self.rounds = self.tokens = 0

    @property
    def closed(self) -> bool:
        """Say that calls have been answered often enough: one more round is the last."""
        return self.rounds > ROUNDS

    async def answer(self, calls: Sequence[Call]) -> list[str]:
        """Answer a round's calls, in order; what cannot be answered says why."""
        self.rounds += 1
        if self.closed:
            return [_ENOUGH] * len(calls)
        answers = [await self._one(call) for call in calls[:AT_ONCE]]
        self.tokens += sum(map(self._vocabulary.count, answers))
        return answers + [_TOO_MANY] * (len(calls) - AT_ONCE)

    async def remember(self, place: str, hidden: bytes) -> None:
        """Keep what was hidden from the client at a place of its conversation, for as long as originals are kept."""
        await self._kept.remember(self._owner, place, hidden)

    async def recall(self, places: Sequence[str]) -> Mapping[str, bytes]:
        """Return what was hidden at these places, where something was."""
        return await self._kept.recall(self._owner, places)

    async def _one(self, call: Call) -> str:
        asked = parsed(call.arguments.encode("utf-8", "surrogatepass")) or {}
        given = {name: asked.get(name) for name in ("id", "query", "lines")}
        wanted, query, lines = (value if isinstance(value, str) and value else None for value in given.values())
        try:
            text = await self._kept.get(self._owner, (wanted or "").removeprefix("clara:").strip())
        except OriginalsError:
            return _UNKNOWN
        if text is None:
            return _UNKNOWN
        try:
            return await asyncio.to_thread(part, text, query, lines)
        except ValueError as error:
            return f"{str(error)[:200]}."
