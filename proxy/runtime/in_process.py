"""Shortens a text or a conversation here and now, in this process: `clara-proxy compress`, and Python programs.

    from clara_proxy.proxy.runtime.in_process import compress
    shorter = compress(messages, model="gpt-4o", ratio=4)
    client.chat.completions.create(model="gpt-4o", messages=shorter.messages)

It goes the way of a proxied request, so the laws hold; but nothing is stored, so that markers name no hash: whoever
calls this still has the originals. No model is loaded: all there is here is `extract`.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel

from ...compression import engine
from ...compression.engine import CompressionJob, Engine, Outcome
from ...compression.policy import DEFAULT_RATIO
from ...compression.tokens import get_token_counter
from ...config import settings
from ...config.settings import Settings
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
    """A conversation made shorter: `messages` as many and in the order as they came; sizes in tokens.

    `skipped` says why passages were left alone, and how many.
    """

    messages: list[Json]
    tokens_before: int
    tokens_after: int
    skipped: Mapping[str, int]

    @property
    def tokens_saved(self) -> int:
        """Return how many tokens fewer there are."""
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
    """Shorten the long passages of a chat in OpenAI's form; a message in which nothing is long comes back equal.

    Messages may be dictionaries or the objects that OpenAI's and LiteLLM's clients return; dictionaries come back.

    `model` names the vocabulary that counts; `ratio` is how many times smaller a passage should get, by default what
    its kind deserves; `query` is what all passages are wanted for, by default what stands before each; `tools` are
    those on offer, which cost tokens too; `chosen` are settings in the place of the environment's. Any thread may call
    this, also one with a running event loop, which it keeps waiting.

    Raises:
        ValueError: the messages are no list of objects with roles, or the ratio lies outside of 1 to 1,000.
        TypeError: there is something in the messages that is no JSON.
    """
    if ratio is not None and not 1 <= ratio <= 1000:
        raise ValueError(f"the ratio is a number from 1 to 1000, not {ratio}")
    frozen = custom_settings or settings.load_settings()
    body: Json = {"model": model, "messages": list(messages)} | ({"tools": list(tools)} if tools else {})
    asked = request_options.build_default_options(frozen)
    mode = asked.mode if asked.mode in PASSIVE_MODES else "extract"
    visit = RequestContext(
        "", replace(asked, mode=mode, ratio=ratio or asked.ratio, query=query, retrieve="none"), model=model
    )
    plain = orjson.dumps(body, default=_dump_model)
    shorter = _run_coroutine(create_rewriter(frozen).rewrite_body(visit, plain, orjson.loads(plain), ""))
    if "unknown-shape" in visit.skip_counts:
        raise ValueError("messages must be a list of objects, each with a role")
    found: Json = orjson.loads(shorter)
    return Compressed(
        found["messages"], visit.received_tokens, visit.received_tokens - visit.saved_tokens, visit.skip_counts
    )


class CompressedText(NamedTuple):
    """A text made shorter, and how many tokens it had `before` and has `after`."""

    text: str
    tokens_before: int
    tokens_after: int


def compress_text(text: str, question: str, ratio: float, model: str, min_tokens: int) -> CompressedText | None:
    """Shorten one text to what a question is about; None where it has under `least` tokens or would not get shorter."""
    if get_token_counter(model).count(text) < min_tokens:
        return None
    outcome, before = compress_passage(text, question, ratio, model)
    return None if outcome.text is None else CompressedText(outcome.text, before, outcome.tokens)


def compress_passage(text: str, question: str, ratio: float | None, model: str) -> tuple[Outcome, int]:
    """Return what became of the text, and how many tokens it had; without a text in the outcome it stays as it is."""
    counted = get_token_counter(model)
    before = counted.count(text)
    return engine.run_job(
        CompressionJob(text, question, max(1, int(before / (ratio or DEFAULT_RATIO))), None, counted)
    ), before


def _dump_model(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    raise TypeError


class NullOriginals(Originals):
    """Keeps nothing, because nobody will ask for what the markers of this process name."""

    def __init__(self) -> None:
        pass

    async def put(self, owner: str, texts: Sequence[str]) -> list[str]:
        """Return the names that the texts would have."""
        return [compute_name(owner, text) for text in texts]

    async def read_notes(self, owner: str, names: Sequence[str]) -> dict[str, bytes]:  # noqa: ARG002
        """Remember nothing."""
        return {}


def create_rewriter(chosen: Settings, wire: ProtocolAdapter = chat.ADAPTER) -> BodyRewriter:
    """Return what shortens one protocol's bodies with these settings; nothing is stored, and no model is loaded."""
    return _cached_rewriter(chosen, wire)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - both have a hash


@lru_cache(maxsize=8)
def _cached_rewriter(chosen: Settings, wire: ProtocolAdapter) -> BodyRewriter:
    made = Engine(workers=chosen.workers, queue_limit=chosen.queue, cache_bytes=chosen.cache_mb * 2**20)
    return BodyRewriter(chosen, ConversationCompressor({"extract": made}, NullOriginals()), adapter=wire)


@lru_cache(maxsize=1)
def _shared_event_loop() -> asyncio.AbstractEventLoop:
    """Return the one event loop that all calls share: what they remember belongs to one thread."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="clara-compress", daemon=True).start()
    return loop


def _run_coroutine(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(work, _shared_event_loop()).result()
