"""Prepares one request of a conversation: passages of vector stores, and tool outputs to keep.

It adds the passages of `x-clara-store` and of the tool `file_search`, repeats those of earlier turns, and keeps tool
outputs for `x-clara-remember`.
"""

import logging
from functools import partial
from typing import NamedTuple

from ...compression import passages as conversation_passages
from ...compression.tokens import TokenCounter, get_token_counter
from ..expand.handler import SearchMemory
from ..http.request_context import RequestContext
from ..http.request_options import HEADER_PREFIX, RequestOptions
from ..protocols import json_codec, offload
from ..protocols.api_errors import ApiError
from ..protocols.json_edit import NO_CHANGES, BodyChanges
from ..protocols.json_types import Json, is_object, parse_object
from ..protocols.protocol import ProtocolAdapter
from ..stores.memory_schema import ChunkHit
from ..stores.memory_store import MemoryNotFoundError
from ..stores.originals import Originals
from . import file_search, insertion, passages
from .file_search import CALL_ID_PREFIX, FileSearch
from .file_search_reply import FileSearchReply
from .insertion import BlockRecord, Insertion, PassageInserter, StoreQuery
from .service import Memory, map_store_errors

log = logging.getLogger(__name__)


class PreparedRequest(NamedTuple):
    """A request body as text and parsed, the passages to add to it, and the changes of its reply.

    `is_changed` is True if the body is not the client's own any more.
    """

    text: bytes
    body: Json
    additions: BodyChanges = NO_CHANGES
    reply: FileSearchReply | None = None
    is_changed: bool = False


class LocalRequest(NamedTuple):
    """A parsed body for a model of the proxy itself, the passages to read with it, and the changes of the reply."""

    body: Json
    memories: list[str]
    reply: FileSearchReply | None = None


class RequestMemory:
    """Memory as the requests of all protocols use it; without memory, requests that need it are refused."""

    def __init__(self, memory: Memory | None, originals: Originals) -> None:
        self._memory, self._originals = memory, originals

    def may_change(self, options: RequestOptions) -> bool:
        """Return False if `prepare` would return the request as it is: memory is off, and no header needs it."""
        return self._memory is not None or bool(options.store or options.remember)

    async def prepare(
        self, context: RequestContext, adapter: ProtocolAdapter, text: bytes, body: Json, owner: str
    ) -> PreparedRequest:
        """Prepare a request; a search runs with the newest text of the user.

        Raises:
            ApiError: 400 if memory is off or `file_search` is invalid, 404 for an unknown store, 503 if the database
                cannot be used.
        """
        options = context.options
        require_memory(self._memory, options)
        if self._memory is None or options.bypass:
            return PreparedRequest(text, body)
        work = offload.measure_work(text)
        is_responses = adapter.elements_key == "input"
        with map_store_errors(self._memory):
            search = await file_search.find_file_search(self._memory, owner, body) if is_responses else None
            query = await self._build_query(owner, options, search)
        is_changed = False
        if search is not None or (is_responses and CALL_ID_PREFIX.encode() in text):
            changed = await offload.run_for(work, _remove_file_search, text, body, remove_tool=search is not None)
            is_changed = changed is not None
            text, body = changed or (text, body)
        self._remember(owner, options, adapter, body)
        found = await PassageInserter(self._memory, self._originals, owner).build_insertion(
            adapter, body, query, get_token_counter(context.pricing_model), options.query, work
        )
        context.store_tokens = found.changes.tokens
        return PreparedRequest(text, body, found.changes, _build_reply(search, found, context), is_changed)

    async def prepare_local(
        self, context: RequestContext, adapter: ProtocolAdapter, body: Json, owner: str
    ) -> LocalRequest:
        """Prepare a request for a model of the proxy itself. Raises the errors of `prepare`."""
        require_memory(self._memory, context.options)
        if self._memory is None or adapter.read_conversation(body) is None:
            return LocalRequest(body, [])
        is_responses = adapter.elements_key == "input"
        with map_store_errors(self._memory):
            search = await file_search.find_file_search(self._memory, owner, body) if is_responses else None
            query = await self._build_query(owner, context.options, search)
        if is_responses:
            body = file_search.remove_file_search(body, remove_tool=search is not None)
        question = context.options.query or conversation_passages.extract_question(
            insertion.find_live_text(adapter, body)
        )
        selected: list[ChunkHit] = []
        if query is not None and question:
            hits = await PassageInserter(self._memory, self._originals, owner).search(query, question)
            selected = passages.select_passages(hits, get_token_counter(context.pricing_model))
        record = BlockRecord("", "", question, [hit._asdict() for hit in selected])
        memories = [passages.format_memory(hit.name, hit.titles, hit.text) for hit in selected]
        return LocalRequest(body, memories, _build_reply(search, Insertion(NO_CHANGES, record, is_fresh=True), context))

    def create_search(self, context: RequestContext, owner: str) -> SearchMemory | None:
        """Return the search of the hidden tool in the store of `x-clara-remember`, or None without that header."""
        store_name = context.options.remember
        if self._memory is None or not store_name or context.options.bypass:
            return None
        vocabulary = get_token_counter(context.pricing_model)
        return partial(
            _search_kept,
            self._memory,
            PassageInserter(self._memory, self._originals, owner),
            owner,
            store_name,
            vocabulary,
        )

    async def _build_query(self, owner: str, options: RequestOptions, search: FileSearch | None) -> StoreQuery | None:
        """Return the search in the stores of the header and of the tool, or None without either."""
        assert self._memory is not None
        if not options.store:
            return None if search is None else search.query
        try:
            store = await self._memory.store.get_store(owner, options.store)
        except MemoryNotFoundError as error:
            message = f"{HEADER_PREFIX}store: {error}"
            raise ApiError(404, message, param=f"{HEADER_PREFIX}store", code="not_found") from None
        if search is None:
            return StoreQuery((store,))
        others = [other for other in search.query.stores if other.id != store.id]
        return StoreQuery((store, *others), search.query.limit, search.query.filters, search.query.accepts)

    def _remember(self, owner: str, options: RequestOptions, adapter: ProtocolAdapter, body: Json) -> None:
        conversation = adapter.read_conversation(body) if options.remember else None
        if conversation is not None and self._memory is not None and options.remember:
            self._memory.keeper.submit(owner, options.remember, conversation.turns())


async def _search_kept(
    memory: Memory, inserter: PassageInserter, owner: str, store_name: str, vocabulary: TokenCounter, query: str
) -> str:
    """Return the kept passages that fit a query as one block. A search that fails returns the reason."""
    try:
        with map_store_errors(memory):
            store = await memory.store.get_store(owner, store_name)
        hits = await inserter.search(StoreQuery((store,)), query)
    except MemoryNotFoundError:
        hits = []
    except ApiError as error:
        log.warning("a search of kept tool outputs failed: %s", error.message)
        return "The search failed; continue without it."
    return passages.format_block(passages.select_passages(hits, vocabulary)) or "Nothing that is kept fits this query."


def _remove_file_search(text: bytes, body: Json, *, remove_tool: bool) -> tuple[bytes, Json] | None:
    """Return a body without `file_search` as text and parsed, or None if nothing has to be removed."""
    exact_body = json_codec.reload_exactly(text, body)
    assert is_object(exact_body)
    changed = file_search.remove_file_search(exact_body, remove_tool=remove_tool)
    if changed is exact_body:
        return None
    new_text = json_codec.dumps(changed)
    return new_text, parse_object(new_text) or {}


def _build_reply(search: FileSearch | None, found: Insertion, context: RequestContext) -> FileSearchReply | None:
    if search is None or found.live is None:
        return None
    call_id = CALL_ID_PREFIX + context.id.removeprefix("req_")
    return FileSearchReply(
        found.live,
        search.tools,
        call_id,
        is_fresh=found.is_fresh,
        includes_results=search.includes_results,
    )


def require_memory(memory: Memory | None, options: RequestOptions) -> None:
    """Raise ApiError 400 if a header names a store, but memory is off."""
    for name, value in (("store", options.store), ("remember", options.remember)):
        if value and memory is None:
            header = HEADER_PREFIX + name
            message = f"memory is off; set CLARA_MEMORY=true on the proxy to use {header}"
            raise ApiError(400, message, param=header, code="memory_off")
