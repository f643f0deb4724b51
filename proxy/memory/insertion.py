"""Adds the passages of vector stores to the newest user message, and again at the same place in later requests.

The block of a message is stored under the hash of the conversation up to that message, as hidden tool calls are.
So later turns forward the same block, even if the store has changed since (invariant: prefix). A conversation may begin
like an earlier one, but find other passages: then its block is a new version, and later turns use the newest.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from ...compression import passages as conversation_passages
from ...compression.tokens import TokenCounter
from ..expand.tool import list_elements
from ..protocols import json_codec, offload, token_counts
from ..protocols.json_edit import END, NO_CHANGES, ArrayEdit, BodyChanges, Path, StringEdit
from ..protocols.json_types import Json, is_array, is_object, parse_object
from ..protocols.prefix_hash import PrefixHash
from ..protocols.protocol import ProtocolAdapter
from ..stores.memory_schema import ChunkHit, VectorStore
from ..stores.originals import Originals, OriginalsError
from . import passages
from .search import Accepts
from .service import Memory, map_store_errors

MAX_VERSIONS = 1000  # of the block of one message
_TEXT_TYPES = frozenset({None, "text", "input_text"})
_SETTING_ROLES = frozenset({"system", "developer"})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreQuery:
    """Stores to search for the passages of one request; `filters` is the JSON text of the condition `accepts`."""

    stores: tuple[VectorStore, ...]
    limit: int = passages.DEFAULT_PASSAGES
    filters: str = ""
    accepts: Accepts | None = None
    score_threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """The block of one user message: its text, its question and its hits. An empty block adds nothing.

    The first hits are those of the block, in its order.
    """

    block: str
    search_id: str
    question: str
    hits: list[dict[str, Any]]


_NO_BLOCK = BlockRecord("", "", "", [])


class Insertion(NamedTuple):
    """The changes of a body, the record of the live user message, and True if this request searches for it."""

    changes: BodyChanges
    live: BlockRecord | None = None
    is_fresh: bool = False


class PassageInserter:
    """Finds and inserts passages for the requests of one owner."""

    def __init__(self, memory: Memory, originals: Originals, owner: str) -> None:
        self._memory, self._originals, self._owner = memory, originals, owner

    async def build_insertion(
        self,
        adapter: ProtocolAdapter,
        body: Json,
        query: StoreQuery | None,
        vocabulary: TokenCounter,
        question: str | None = None,
        work: int = 0,
    ) -> Insertion:
        """Return the blocks of all user messages of a parsed body. A `query` finds one for a new user message.

        A user message is new if the model has not replied to it: no call of a tool and no output follows. `work` is the
        size of the body, as `offload.measure_work` returns it.
        """
        names = await offload.run_for(work, _hash_user_messages, adapter, body)
        if not names:
            return Insertion(NO_CHANGES)
        elements = list_elements(adapter, body)
        latest = await self._read_latest([*names.values()])
        live_index = max(names)
        is_new = all(map(_precedes_reply, elements[live_index + 1 :]))
        if is_new:
            version, previous = latest.get(names[live_index], (-1, _NO_BLOCK))
            record = _NO_BLOCK
            if query is not None:
                question = question or conversation_passages.extract_question(read_user_text(elements[live_index]))
                earlier = [latest[name][1] for index, name in names.items() if index < live_index and name in latest]
                record = await self._find_record(query, question, vocabulary, previous, earlier)
            latest[names[live_index]] = version, record
            if record.block != previous.block:
                await self._store(names[live_index], min(version + 1, MAX_VERSIONS), record)
        blocks = {index: latest[name][1].block for index, name in names.items() if name in latest}
        changes = build_changes(adapter, body, {index: block for index, block in blocks.items() if block}, vocabulary)
        return Insertion(changes, latest.get(names[live_index], (0, None))[1], is_new and query is not None)

    async def search(self, query: StoreQuery, question: str) -> list[ChunkHit]:
        """Return the best passages of all stores, best first, and postpone the expiry of the stores."""
        hits: list[ChunkHit] = []
        with map_store_errors(self._memory):
            for store in query.stores:
                hits += await self._memory.search.search(store, question, query.limit, accepts=query.accepts)
                await self._memory.store.touch(store.id)
        hits = [hit for hit in hits if hit.score >= query.score_threshold]
        return sorted(hits, key=lambda hit: -hit.score)[: query.limit]

    async def _find_record(
        self,
        query: StoreQuery,
        question: str,
        vocabulary: TokenCounter,
        previous: BlockRecord,
        earlier: Sequence[BlockRecord],
    ) -> BlockRecord:
        """Return the record of a search: the previous one if the same search in the same stores has led to it.

        Passages that the blocks of `earlier` messages hold are not repeated; they come last among the hits.
        """
        shown = {(hit["name"], hit["text"]) for record in earlier if record.block for hit in record.hits}
        state = [[store.id, store.revision] for store in query.stores]
        search = [query.limit, query.filters, query.score_threshold, question]
        identity = json_codec.dumps([state, search, [record.block for record in earlier]])
        search_id = sha256(identity).hexdigest()[:24]
        if previous.search_id == search_id:
            return previous
        hits = passages.select_passages(await self.search(query, question), vocabulary)
        new_hits = [hit for hit in hits if (hit.name, hit.text) not in shown]
        hits = [*new_hits, *(hit for hit in hits if hit not in new_hits)]
        return BlockRecord(passages.format_block(new_hits), search_id, question, [hit._asdict() for hit in hits])

    async def _read_latest(self, names: Sequence[str]) -> dict[str, tuple[int, BlockRecord]]:
        """Return the newest version of each stored record, with its number."""
        latest: dict[str, tuple[int, BlockRecord]] = {}
        version = 0
        while names and version <= MAX_VERSIONS:
            notes: Mapping[str, bytes] = {}
            try:
                notes = await self._originals.read_notes(self._owner, [_note_name(name, version) for name in names])
            except OriginalsError as error:
                log.warning("the passages of earlier messages cannot be read: %s", error)
            names = [name for name in names if _note_name(name, version) in notes]
            for name in names:
                if fields := parse_object(notes[_note_name(name, version)]):
                    latest[name] = version, BlockRecord(**fields)
            version += 1
        return latest

    async def _store(self, name: str, version: int, record: BlockRecord) -> None:
        try:
            await self._originals.store_note(self._owner, _note_name(name, version), json_codec.dumps(asdict(record)))
        except OriginalsError as error:  # the next turn loses this block, and with it a part of the provider's cache
            log.warning("the passages of a message cannot be stored: %s", error)


def _hash_user_messages(adapter: ProtocolAdapter, body: Json) -> dict[int, str]:
    """Return the hash of the conversation up to each user message with text, by index."""
    if adapter.read_conversation(body) is None:
        return {}
    elements = list_elements(adapter, body)
    reply_id = body.get("previous_response_id")
    hashes = PrefixHash(adapter, elements, reply_id if isinstance(reply_id, str) else "").positions
    return {index: name for index, name in hashes if read_user_text(elements[index])}


def build_changes(
    adapter: ProtocolAdapter, body: Json, blocks: Mapping[int, str], vocabulary: TokenCounter
) -> BodyChanges:
    """Return the changes that append a block to each of these user messages, by index."""
    string_edits: dict[Path, StringEdit] = {}
    array_edits: dict[Path, ArrayEdit] = {}
    elements = list_elements(adapter, body)
    is_plain_input = not is_array(body[adapter.elements_key])
    part_type = "input_text" if adapter.elements_key == "input" else "text"
    tokens = 0
    for index, block in blocks.items():
        content = elements[index].get("content")
        path: Path = (adapter.elements_key,) if is_plain_input else (adapter.elements_key, index, "content")
        if isinstance(content, str):
            string_edits[path] = StringEdit(content, f"{content}\n\n{block}")
        else:
            part = {"type": part_type, "text": block}
            array_edits[path] = ArrayEdit(insertions={END: [part]})
            tokens += token_counts.count_insertions(adapter, path, [part], vocabulary)
    tokens += sum(token_counts.count_edits(string_edits, vocabulary).values())
    return BodyChanges(string_edits, array_edits, tokens)


def read_user_text(element: Json) -> str:
    """Return the user's own text of a message or item, or an empty string."""
    content = element.get("content")
    if element.get("role") != "user" or element.get("type") not in (None, "message"):
        return ""
    if isinstance(content, str):
        return content.strip()
    parts = content if is_array(content) else ()
    texts = [part["text"] for part in parts if is_object(part) and part.get("type") in _TEXT_TYPES and "text" in part]
    return "\n".join(text for text in texts if isinstance(text, str)).strip()


def find_live_text(adapter: ProtocolAdapter, body: Json) -> str:
    """Return the newest text of the user in a body, or an empty string."""
    texts = (read_user_text(element) for element in reversed(list_elements(adapter, body)))
    return next((text for text in texts if text), "")


def _precedes_reply(element: Json) -> bool:
    """Return True if an element may follow a new user message: settings, and the beginning of the reply."""
    if element.get("role") in _SETTING_ROLES:
        return True
    return element.get("role") == "assistant" and not element.get("tool_calls") and not _holds_call(element)


def _holds_call(element: Json) -> bool:
    content = element.get("content")
    return any(is_object(part) and part.get("type") == "tool_use" for part in (content if is_array(content) else ()))


def _note_name(name: str, version: int) -> str:
    return f"passages-{name}-{version}"
