"""Compresses a text or a conversation in this process: `clara-proxy compress`, and Python programs.

    from clara_proxy import compress
    result = compress(messages, model="gpt-4o", ratio=4)
    client.chat.completions.create(model="gpt-4o", messages=result.messages)

The pipeline is that of a proxied request, with the same invariants, but nothing is stored: the caller has the
originals, so markers have no hash. Only the mode `extract` is available, and no model is loaded.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel

from ...compression import engine, registry
from ...compression.engine import CompressionJob, Engine, Outcome
from ...compression.policy import compute_kind_target
from ...compression.tokens import get_token_counter
from ...config.settings import Settings, load_settings
from ..http import request_options
from ..http.request_context import RequestContext
from ..pipeline.compress import ConversationCompressor
from ..pipeline.rewrite import PASSIVE_MODES, BodyRewriter
from ..protocols import chat
from ..protocols.json_types import Json
from ..protocols.protocol import ProtocolAdapter
from ..stores.originals import Originals, compute_name

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed conversation: `messages` have the number and order of the request's; sizes in tokens.

    `skipped` has the number of unchanged passages by skip reason.
    """

    messages: list[Json]
    tokens_before: int
    tokens_after: int
    skipped: Mapping[str, int]

    @property
    def tokens_saved(self) -> int:
        """Return the number of tokens saved."""
        return self.tokens_before - self.tokens_after


def compress(
    messages: Sequence[Mapping[str, Any] | BaseModel],
    *,
    model: str = "gpt-4o",
    ratio: float | None = None,
    query: str | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    custom_settings: Settings | None = None,
) -> Compressed:
    """Compress the long passages of a chat in OpenAI's format; messages without long passages are returned unchanged.

    Messages may be dictionaries or the objects of OpenAI's and LiteLLM's clients; the result has dictionaries.

    Any thread may call this function. It blocks, even in a thread with a running event loop.

    Args:
        messages: The conversation.
        model: The model whose vocabulary counts the tokens.
        ratio: How many times smaller a passage becomes; by default as its kind of content suggests.
        query: The question for all passages; by default, each passage's question is the text before it.
        tools: The tools of the request, whose tokens count, too.
        custom_settings: Settings that replace the environment's.

    Raises:
        ValueError: the messages are not a list of objects with roles, or the ratio is not between 1 and 1,000.
        TypeError: a message contains a value that JSON does not support.
    """
    if ratio is not None and not 1 <= ratio <= 1000:
        raise ValueError(f"ratio must be a number from 1 to 1000, got {ratio}")
    settings = custom_settings or load_settings()
    body: Json = {"model": model, "messages": list(messages)} | ({"tools": list(tools)} if tools else {})
    defaults = request_options.build_default_options(settings)
    mode = defaults.mode if defaults.mode in PASSIVE_MODES else "extract"
    options = replace(defaults, mode=mode, ratio=ratio or defaults.ratio, query=query, retrieve="none")
    context = RequestContext("", options, model=model)
    raw = orjson.dumps(body, default=_dump_model)
    rewritten = _run_coroutine(create_rewriter(settings).rewrite_body(context, raw, orjson.loads(raw), ""))
    if "unknown-shape" in context.skip_counts:
        raise ValueError("messages must be a list of objects, each with a role")
    tokens_after = context.received_tokens - context.saved_tokens
    new_messages = orjson.loads(rewritten)["messages"]
    return Compressed(new_messages, context.received_tokens, tokens_after, context.skip_counts)


class CompressedText(NamedTuple):
    """A compressed text, and its number of tokens before and after."""

    text: str
    tokens_before: int
    tokens_after: int


def compress_text(text: str, question: str, ratio: float, model: str, min_tokens: int) -> CompressedText | None:
    """Compress a text for a question; return None if it has under `min_tokens` tokens or would not get shorter."""
    if get_token_counter(model).count(text) < min_tokens:
        return None
    outcome, before = compress_passage(text, question, ratio, model)
    return None if outcome.text is None else CompressedText(outcome.text, before, outcome.tokens)


def compress_passage(text: str, question: str, ratio: float | None, model: str) -> tuple[Outcome, int]:
    """Return the outcome of a text's compression, and its number of tokens; an outcome without a text is a skip.

    Without a ratio, the kind of content decides the size, as for the output of a tool.
    """
    counter = get_token_counter(model)
    tokens = counter.count(text)
    kind = registry.classify_content(text)
    target = compute_kind_target(kind, tokens) if ratio is None else max(1, int(tokens / ratio))
    if target is None:
        return Outcome(None, tokens, kind, "all-signal"), tokens
    return engine.run_job(CompressionJob(text, question, target, None, counter, ratio is not None)), tokens


def _dump_model(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    raise TypeError


class NullOriginals(Originals):
    """A store that keeps nothing: the caller has the originals."""

    def __init__(self) -> None:
        pass

    async def put(
        self,
        owner: str,
        texts: Sequence[str],
        seconds: float | None = None,  # noqa: ARG002
        names: Sequence[str] | None = None,  # noqa: ARG002
    ) -> list[str]:
        """Return the names of the texts."""
        return [compute_name(owner, text) for text in texts]

    async def read_notes(self, owner: str, names: Sequence[str]) -> dict[str, bytes]:  # noqa: ARG002
        """Return no notes."""
        return {}


def create_rewriter(settings: Settings, adapter: ProtocolAdapter = chat.ADAPTER) -> BodyRewriter:
    """Return the rewriter of one protocol's bodies with these settings; it stores nothing and loads no model."""
    return _cached_rewriter(settings, adapter)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - hashable


@lru_cache(maxsize=8)
def _cached_rewriter(settings: Settings, adapter: ProtocolAdapter) -> BodyRewriter:
    extract = Engine(workers=settings.workers, queue_limit=settings.queue, cache_bytes=settings.cache_mb * 2**20)
    return BodyRewriter(settings, ConversationCompressor({"extract": extract}, NullOriginals()), adapter=adapter)


@lru_cache(maxsize=1)
def _shared_event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that all calls share, since their caches belong to one thread."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="clara-compress", daemon=True).start()
    return loop


def _run_coroutine(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(coroutine, _shared_event_loop()).result()
