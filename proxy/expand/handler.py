"""Answer the model's calls of `clara_expand` from the stored originals."""

import asyncio
from collections.abc import Mapping, Sequence

from ...compression.tokens import TokenCounter
from ..protocols.expand_call import ExpandCall
from ..protocols.json_types import parse_object
from ..stores.excerpt import cut_excerpt
from ..stores.originals import Originals
from ..stores.originals_store import OriginalsError

MAX_ROUNDS = 5  # requests that one client's request may become more than the first
MAX_CALLS_PER_ROUND = 16  # calls in one round that are answered

_UNKNOWN_ID_MESSAGE = "There is no text of this id: it is unknown, or no longer kept."
_TOO_MANY_CALLS_MESSAGE = f"At most {MAX_CALLS_PER_ROUND} at once: this call was not answered."
_NO_MORE_ROUNDS_MESSAGE = "Nothing more can be brought back in this turn: answer with what you have."


class ExpandHandler:
    """Answers the calls of one client's model from what that client's requests have stored."""

    def __init__(self, originals: Originals, owner_id: str, vocabulary: TokenCounter) -> None:
        self._originals, self._owner_id, self._vocabulary = originals, owner_id, vocabulary
        self.round_count = self.fetched_tokens = 0

    @property
    def is_exhausted(self) -> bool:
        """Say that calls have been answered often enough: one more round is the last."""
        return self.round_count > MAX_ROUNDS

    async def answer_calls(self, calls: Sequence[ExpandCall]) -> list[str]:
        """Answer a round's calls, in order; what cannot be answered says why."""
        self.round_count += 1
        if self.is_exhausted:
            return [_NO_MORE_ROUNDS_MESSAGE] * len(calls)
        answers = [await self._answer_call(call) for call in calls[:MAX_CALLS_PER_ROUND]]
        self.fetched_tokens += sum(map(self._vocabulary.count, answers))
        return answers + [_TOO_MANY_CALLS_MESSAGE] * (len(calls) - MAX_CALLS_PER_ROUND)

    async def store_hidden(self, prefix_hash: str, hidden: bytes) -> None:
        """Keep what was hidden from the client at a place of its conversation, for as long as originals are kept."""
        await self._originals.store_note(self._owner_id, prefix_hash, hidden)

    async def load_hidden(self, prefix_hashes: Sequence[str]) -> Mapping[str, bytes]:
        """Return what was hidden at these places, where something was."""
        return await self._originals.read_notes(self._owner_id, prefix_hashes)

    async def _answer_call(self, call: ExpandCall) -> str:
        asked = parse_object(call.arguments.encode("utf-8", "surrogatepass")) or {}
        given = {name: asked.get(name) for name in ("id", "query", "lines")}
        wanted, query, lines = (value if isinstance(value, str) and value else None for value in given.values())
        try:
            text = await self._originals.get(self._owner_id, (wanted or "").removeprefix("clara:").strip())
        except OriginalsError:
            return _UNKNOWN_ID_MESSAGE
        if text is None:
            return _UNKNOWN_ID_MESSAGE
        try:
            return await asyncio.to_thread(cut_excerpt, text, query, lines)
        except ValueError as error:
            return f"{str(error)[:200]}."
