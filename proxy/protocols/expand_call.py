"""The tool `clara_expand`: how a model has back what was left out, within the client's own request.

The tool is offered beside the client's own tools, last, from the first turn on, so that offering it never changes what
the provider has cached. The client never sees it. What it brought is remembered under a landmark of the conversation
and woven in again later, so that the prompt stays the one the provider knows. Knows no protocol: a `Wire` does.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...compression.tokens import Vocabulary
from ..stores.excerpt import part
from ..stores.originals import Originals
from ..stores.originals_store import OriginalsError
from .json_types import Json, is_array, is_object, parsed

NAME = "clara_expand"
DESCRIPTION = f"Returns the text that was left out where it says [...; {NAME} ID]."
PARAMETERS: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "query": {"type": "string", "description": "only the lines about this"},
        "lines": {"type": "string", "description": "only these lines, as 10-20"},
    },
    "required": ["id"],
}
ROUNDS = 5  # requests that one client's request may become more than the first
AT_ONCE = 16  # calls in one round that are answered

_UNKNOWN = "There is no text of this id: it is unknown, or no longer kept."
_TOO_MANY = f"At most {AT_ONCE} at once: this call was not answered."
_ENOUGH = "Nothing more can be brought back in this turn: answer with what you have."


class Call(NamedTuple):
    """A call of the tool: the provider's id of the call, and the JSON text of its arguments."""

    id: str
    arguments: str


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


def is_free(tools: object) -> bool:
    """Say whether tools are on offer, and none of them has our name already."""
    return is_array(tools) and bool(tools) and not any(_name(tool) == NAME for tool in tools)


def _name(tool: object) -> object:
    if not is_object(tool):
        return None
    function = tool.get("function")
    return function.get("name") if is_object(function) else tool.get("name")


def total(usages: Sequence[Json]) -> Json | None:
    """Add usages up, field by field; of what is no number the last word holds."""
    summed: Json = {}
    for usage in usages:
        for name, value in usage.items():
            summed[name] = _added(summed.get(name), value)
    return summed or None


def _added(one: object, other: object) -> object:
    if is_object(other):
        return total([one if is_object(one) else {}, other]) or {}
    if isinstance(one, bool) or isinstance(other, bool):
        return other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return one if other is None else other
