"""Answers the model's calls of the hidden tools: `clara_expand` from the stored originals, `clara_search` by a search.

`ToolLoop` hands every call of a round to `ExpandHandler.answer_calls`. The handler reads the original that the call
names, cuts out the part that its `query` or `lines` ask for, and returns the text as the result of the call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...compression.tokens import TokenCounter
from ..protocols import offload
from ..protocols.expand_call import SEARCH_TOOL_NAME, ExpandCall
from ..protocols.json_types import Json, parse_object
from ..stores.excerpt import cut_excerpt
from ..stores.originals import Originals
from ..stores.originals_store import OriginalsError

MAX_ROUNDS = 5  # further requests to the upstream for one request of the client
MAX_CALLS_PER_ROUND = 16  # calls that get an answer in one round

_SHOWN_LINES, _SHOWN_CHARS = 5, 500  # of a text that a query does not match

_NO_MATCH_MESSAGE = "No line matches the query; try other words, or `lines` such as 1-40."
_UNKNOWN_ID_MESSAGE = "There is no text of this id: it is unknown, or has expired."
_TOO_MANY_CALLS_MESSAGE = f"Only {MAX_CALLS_PER_ROUND} calls are answered at once: this one was not answered."
_SHOWN_MESSAGE = "This text is already shown above."
_NO_QUERY_MESSAGE = "The search needs a query."
_NO_SEARCH_MESSAGE = "Nothing can be searched in this conversation."
_NO_MORE_ROUNDS_MESSAGE = "No more text can be fetched in this turn. Answer with the text you have."

SearchMemory = Callable[[str], Awaitable[str]]  # returns the passages that fit a query as one text


class ExpandHandler:
    """Answers the calls of one client's model from the originals that this client's requests have stored.

    With `search` it answers searches, too; the server has fixed what is searched.
    """

    def __init__(
        self, originals: Originals, owner_id: str, vocabulary: TokenCounter, search: SearchMemory | None = None
    ) -> None:
        self._originals, self._owner_id, self._vocabulary = originals, owner_id, vocabulary
        self._search, self._queries = search, set[str]()
        self.round_count = self.fetched_tokens = 0
        self.free_tokens: int | None = None  # of the model's context, for the results of this request
        self._shown: dict[str, _ShownText] = {}  # by id

    @property
    def can_search(self) -> bool:
        """Return True if the model may search what is kept."""
        return self._search is not None

    @property
    def is_exhausted(self) -> bool:
        """Return True after the last round that gets answers."""
        return self.round_count > MAX_ROUNDS

    async def answer_calls(self, calls: Sequence[ExpandCall]) -> list[str]:
        """Return the results of a round's calls, in order. A call that fails gets the reason as its result."""
        self.round_count += 1
        if self.is_exhausted:
            return [_NO_MORE_ROUNDS_MESSAGE] * len(calls)
        results = [await self._answer_call(call) for call in calls[:MAX_CALLS_PER_ROUND]]
        self.fetched_tokens += sum(map(self._vocabulary.count, results))
        return results + [_TOO_MANY_CALLS_MESSAGE] * (len(calls) - MAX_CALLS_PER_ROUND)

    async def store_hidden(self, prefix_hash: str, record: bytes) -> None:
        """Store a hidden record under the hash of a conversation prefix, for as long as originals are kept."""
        await self._originals.store_note(self._owner_id, prefix_hash, record)

    async def load_hidden(self, prefix_hashes: Sequence[str]) -> Mapping[str, bytes]:
        """Return the hidden records stored under these hashes."""
        return await self._originals.read_notes(self._owner_id, prefix_hashes)

    async def _answer_call(self, call: ExpandCall) -> str:
        """Return the result of one call. A request gets no text twice, and no more than the model's context holds."""
        arguments = parse_object(call.arguments.encode("utf-8", "backslashreplace")) or {}
        if call.name == SEARCH_TOOL_NAME:
            return await self._answer_search(_get_text(arguments, "query"))
        return await self._answer_expansion(arguments)

    async def _answer_expansion(self, arguments: Json) -> str:
        text_id, query, lines = (_get_text(arguments, field) for field in ("id", "query", "lines"))
        name = (text_id or "").removeprefix("clara:").strip()
        shown = self._shown.setdefault(name, _ShownText())
        if shown.is_whole or (query, lines) in shown.excerpts:
            return _SHOWN_MESSAGE
        try:
            original = await self._originals.get(self._owner_id, name)
        except OriginalsError:
            original = None
        if original is None:
            return _UNKNOWN_ID_MESSAGE
        try:
            excerpt = await asyncio.to_thread(cut_excerpt, original, query, lines)
        except ValueError as error:
            return f"{str(error)[:200]}."
        result = excerpt or _describe_no_match(original)
        tokens = await offload.run_for(len(original), self._vocabulary.count, result)
        if shown.tokens and shown.tokens + tokens > await offload.run_for(
            len(original), self._vocabulary.count, original
        ):
            return _SHOWN_MESSAGE
        if not self._has_room(tokens):
            return f"This text has {tokens} tokens, and the context has no room for it. Ask for fewer lines of it."
        shown.excerpts.add((query, lines))
        shown.tokens += tokens
        shown.is_whole = result == original
        return result

    async def _answer_search(self, query: str | None) -> str:
        """Return the passages that fit a query."""
        if self._search is None:
            return _NO_SEARCH_MESSAGE
        if query is None:
            return _NO_QUERY_MESSAGE
        if query in self._queries:
            return _SHOWN_MESSAGE
        self._queries.add(query)
        result = await self._search(query)
        tokens = await offload.run_for(len(result), self._vocabulary.count, result)
        return result if self._has_room(tokens) else "The context has no room for the results."

    def _has_room(self, tokens: int) -> bool:
        """Take the tokens of a result from the context. Return False if they do not fit into it."""
        if self.free_tokens is None:
            return True
        if tokens > self.free_tokens:
            return False
        self.free_tokens -= tokens
        return True


@dataclass(slots=True)
class _ShownText:
    """What one request has got of an original: all of it, or the excerpts by query and lines."""

    is_whole: bool = False
    tokens: int = 0
    excerpts: set[tuple[str | None, str | None]] = field(default_factory=set[tuple[str | None, str | None]])


def _describe_no_match(original: str) -> str:
    """Return the result of a query that matches no line: the size of the text, and its beginning."""
    rows = original.split("\n")
    beginning = "\n".join(rows[:_SHOWN_LINES])[:_SHOWN_CHARS]
    return f"{_NO_MATCH_MESSAGE} The text has {len(rows)} lines and begins:\n{beginning}"


def _get_text(arguments: Mapping[str, object], field: str) -> str | None:
    value = arguments.get(field)
    return value if isinstance(value, str) and value else None
