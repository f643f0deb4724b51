"""Answers repeated requests with stored answers, byte for byte, streamed or not as they were.

An answer belongs to the owner of its request. Streams and whole answers are stored apart, so that nothing is converted.
Trouble with the cache never fails a request: it is forwarded.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import orjson

from ...config.settings import Settings
from ..http.exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, Exchange
from ..http.relay import mark_unbuffered
from ..http.request_context import CachedBill, RequestContext
from ..http.request_options import RequestOptions
from ..http.shadow import BodyRecorder
from ..protocols import offload
from ..protocols.json_types import Json
from ..stores.cached_responses import CachedResponse, ResponseStorage
from ..stores.errors import describe
from ..stores.ledger_row import COUNT_TOKENS_PROTOCOL
from ..stores.originals_store import OriginalsError
from ..stores.reply_bill import read_bill
from ..stores.usage import Usage
from . import questions, replies
from .cache_key import CacheKey, build_key

MODE = "cache"  # of a request that the cache answered, in headers and ledger
LOOKUP_SECONDS = 0.5  # for the store to answer
MAX_CANDIDATES, MAX_COMPARED = 256, 8  # questions ranked by similarity, and compared word for word
_PROVIDER_HEADERS = ("openai-", "anthropic-")
log = logging.getLogger(__name__)


class Hit(NamedTuple):
    """A stored answer and the kind of cache that found it: `hit` or `semantic`."""

    kind: str
    body: bytes


class ResponseCache:
    """The response cache of a proxy; without a store it is off."""

    def __init__(self, store: ResponseStorage | None, settings: Settings) -> None:
        self._store = store
        self._is_semantic = settings.response_cache == "semantic"
        self._ttl = settings.response_cache_ttl
        self._writing = set[asyncio.Task[None]]()

    @property
    def is_enabled(self) -> bool:
        """Return True if there is a store."""
        return self._store is not None

    async def close(self) -> None:
        """Wait until all answers are stored."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def delete_expired(self) -> None:
        """Delete expired answers; a failure is only logged."""
        if self._store is not None:
            try:
                await self._store.delete_expired()
            except OriginalsError as error:
                log.warning("%s", error)

    @asynccontextmanager
    async def serve(
        self, exchange: Exchange, context: RequestContext, body: Json, owner_id: str, work: int
    ) -> AsyncGenerator[bool]:
        """Answer a request from the cache and yield True, or yield False and store the answer given inside the block.

        A request that the cache does not serve yields False. `work` is that of its body, see `offload`.
        """
        directives = context.options.cache
        key = None if self._store is None else await offload.run_for(work, self._build_key, exchange, context, body)
        if self._store is None or key is None:
            yield False
            return
        max_age = min(self._ttl, directives.max_age or self._ttl)
        hit = await self._find(self._store, owner_id, key, max_age) if directives.may_read else None
        if hit is not None and await _send_hit(exchange, context, hit):
            yield True
            return
        context.cache_result = "miss"
        recorder = exchange.wrap_send(BodyRecorder)
        wants_stream = context.is_streamed
        yield False
        is_success = context.outcome == "ok" and context.status == 200 and context.is_streamed is wants_stream
        if directives.may_store and is_success and (answer := recorder.body):
            bucket = "" if key.question is None else key.bucket
            entry, expires = _encode_bill(context) + b"\n" + answer, time.time() + max_age
            response = CachedResponse(owner_id, key.name, bucket, key.question or "", expires, entry)
            task = asyncio.create_task(_record(self._store, response, context))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    def _build_key(self, exchange: Exchange, context: RequestContext, body: Json) -> CacheKey | None:
        options = context.options
        uses_memory = options.store is not None or options.remember is not None  # the answer depends on its content
        if options.bypass or uses_memory or context.protocol == COUNT_TOKENS_PROTOCOL:
            return None
        provider_headers = {
            name: value for name, value in exchange.headers.items() if name.startswith(_PROVIDER_HEADERS)
        }
        query = exchange.scope.get("query_string", b"").decode("latin-1")
        settings = (context.path, query, sorted(provider_headers.items()), _list_options(options))
        try:
            key = build_key(context.protocol, body, settings)
            is_comparable = self._is_semantic and key is not None and questions.is_comparable(key.question or "")
        except Exception as error:  # noqa: BLE001 - fail open: the request is forwarded
            log.warning("a request cannot be looked up in the response cache: %s", describe(error))
            return None
        return key if key is None or is_comparable else key._replace(question=None)

    async def _find(self, store: ResponseStorage, owner_id: str, key: CacheKey, max_age: float) -> Hit | None:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                if (body := await store.read(owner_id, key.name, max_age)) is not None:
                    return Hit("hit", body)
                if key.question is None:
                    return None
                stored = await store.list_questions(owner_id, key.bucket, max_age, MAX_CANDIDATES)
                name = await asyncio.to_thread(_find_same_question, key.question, stored)
                body = None if name is None else await store.read(owner_id, name, max_age)
                return None if body is None else Hit("semantic", body)
        except Exception as error:  # noqa: BLE001 - fail open: the request is forwarded
            log.warning("the response cache cannot be read: %s", describe(error))
            return None


async def _record(store: ResponseStorage, response: CachedResponse, context: RequestContext) -> None:
    """Store an answer if it is complete; a failure is only logged."""
    answer = response.body.partition(b"\n")[2]
    try:
        is_complete = partial(replies.is_complete, is_streamed=context.is_streamed)
        if await offload.run_for(len(answer), is_complete, context.protocol, answer):
            await store.insert(response)
    except Exception as error:  # noqa: BLE001 - the client has its answer, and a reply may have any shape
        log.warning("an answer cannot be stored in the response cache: %s", describe(error))


def _list_options(options: RequestOptions) -> list[object]:
    """Return the options that change the forwarded body."""
    return [
        options.mode,
        options.ratio,
        options.budget,
        options.min_tokens,
        sorted(options.roles),
        options.query,
        options.retrieve,
    ]


def _find_same_question(question: str, stored: dict[str, str]) -> str | None:
    """Return the name of the answer to the same question, or None. Raises OSError if the embeddings are missing."""
    if not stored:
        return None
    names, texts = list(stored), list(stored.values())
    ranked = questions.rank_candidates(question, texts, MAX_COMPARED)
    return next((names[index] for index in ranked if questions.is_same_question(question, texts[index])), None)


def _encode_bill(context: RequestContext) -> bytes:
    """Return the facts of an answer for the ledger, as one line of JSON."""
    bill = read_bill(context.usage, context.round_usages, context.reply_facts, context.region)
    usage = Usage()
    for reading in bill.readings if bill is not None else ():
        usage = usage.add(reading.usage)
    return orjson.dumps(
        {
            "tokens": context.received_tokens,
            "is_estimated": context.is_estimated,
            "usage": usage._asdict(),
            "service_tier": bill.service_tier if bill is not None else "",
            "region": context.region,
        }
    )


async def _send_hit(exchange: Exchange, context: RequestContext, hit: Hit) -> bool:
    """Send a stored answer, and record that no model was asked; return False if the entry is damaged."""
    header, _, answer = hit.body.partition(b"\n")
    try:
        fields = orjson.loads(header)
        bill = CachedBill(Usage(**fields["usage"]), fields["service_tier"], fields["region"])
        context.received_tokens, context.is_estimated = int(fields["tokens"]), bool(fields["is_estimated"])
    except (ValueError, TypeError, KeyError):
        return False
    context.mode, context.outcome, context.status = MODE, "served", 200
    context.engine = "exact" if hit.kind == "hit" else hit.kind
    context.cache_result, context.cached_bill = hit.kind, bill
    context.saved_tokens = context.received_tokens
    context.overhead_seconds = time.perf_counter() - context.start_time
    headers = context.build_response_headers()
    if context.is_streamed:
        await exchange.start_response(200, mark_unbuffered(EVENT_STREAM_HEADERS + headers))
        await exchange.end_response(answer)
    else:
        await exchange.send_response(200, JSON_HEADERS + headers, answer)
    return True
