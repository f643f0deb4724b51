"""A proxy without HTTP: the real path from a request body to the forwarded body, in this process."""

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
from hypothesis import HealthCheck, settings

from clara_proxy.compression import registry
from clara_proxy.compression.clara.compressors import AnswerCompressor, JobQueue, SummaryCompressor
from clara_proxy.compression.clara.jobs import ModelJob as ClaraJob
from clara_proxy.compression.compressor import CompressedPassage, Compressor, Task
from clara_proxy.compression.engine import Engine
from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.compression.pruners.compressor import PruneCompressor, PruneOptions
from clara_proxy.compression.pruners.families import Family
from clara_proxy.compression.pruners.jobs import PruneJob, UnitScores
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.expand.handler import ExpandHandler
from clara_proxy.proxy.expand.tool import create_expand_tool
from clara_proxy.proxy.http import request_options
from clara_proxy.proxy.http.request_context import RequestContext
from clara_proxy.proxy.pipeline.compress import ConversationCompressor
from clara_proxy.proxy.pipeline.rewrite import BodyRewriter
from clara_proxy.proxy.protocols import chat
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.protocols.json_types import parse_object
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.tests.conversations import Json

whole_request_settings = settings(  # for property tests of whole requests
    max_examples=25,
    suppress_health_check=(
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.function_scoped_fixture,
    ),
)
INVENTED_NUMBER = "987654321"  # a number that no generated passage contains
OWNER = "owner-of-the-secret-key"
FindCompressor = Callable[[str], Compressor]
JsonStyle = Callable[[Json], bytes]
CompressFunction = Callable[[Task], CompressedPassage | None]


def _dump_indented(body: Json) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


# The ways in which clients encode JSON: with blanks and \uXXXX, compact, and indented.
JSON_STYLES: tuple[JsonStyle, ...] = (lambda body: json.dumps(body).encode(), orjson.dumps, _dump_indented)


class SentRequest(NamedTuple):
    """The forwarded body of one request, its context and its ledger row."""

    forwarded: bytes
    context: RequestContext
    row: Row

    @property
    def messages(self) -> list[Json]:
        return list(orjson.loads(self.forwarded)["messages"])

    @property
    def message_bytes(self) -> bytes:
        """The bytes of the messages without the closing bracket."""
        return message_list_bytes(self.forwarded)


class InProcessProxy:
    """A proxy without HTTP that runs its own event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        find_compressor: FindCompressor = registry.find_compressor,
        store: bool = True,
        clara_worker: JobQueue | None = None,
        adapter: ProtocolAdapter = chat.ADAPTER,
        offer_tool: bool = False,
        pruner: PruneCompressor | None = None,
    ) -> None:
        """Create a proxy with its data in `folder`.

        `find_compressor` replaces the registry; without `store` originals cannot be stored. With a `clara_worker` the
        modes `answer` and `summary` are available, with a `pruner` that of `prune`. With `offer_tool` requests offer
        the tool `clara_expand`.
        """
        self.adapter = adapter
        self._clara_worker, self._offer_tool, self._pruner = clara_worker, offer_tool, pruner
        self.settings = Settings(data_dir=folder, deadline_ms=60_000, cache_mb=16)
        self._has_store = store
        self.originals = Originals(folder / "originals.sqlite3", self.settings.originals_ttl)
        self._find_compressor = find_compressor
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        if self._has_store:
            self._loop.run_until_complete(self.originals.start())
        self.restart()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for engine in self._engines.values():
            engine.close()
        self._loop.run_until_complete(self.originals.stop())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def restart(self, find_compressor: FindCompressor | None = None, *, queue: int | None = None) -> None:
        """Forget all outcomes, as a new replica with `self.settings` does."""
        settings = self.settings
        self._engine = Engine(
            workers=settings.workers,
            queue_limit=queue or settings.queue,
            cache_bytes=settings.cache_mb * 2**20,
            find_compressor=find_compressor or self._find_compressor,
        )
        engines = {"extract": self._engine}
        compressors: list[Compressor] = [] if self._pruner is None else [self._pruner]
        if self._clara_worker is not None:
            compressors += [
                AnswerCompressor(self._clara_worker, registry.find_compressor),
                SummaryCompressor(self._clara_worker, registry.find_compressor),
            ]
        for compressor in compressors:
            engines[compressor.name] = Engine(
                workers=2,
                queue_limit=settings.queue,
                cache_bytes=2**20,
                find_compressor=partial(_constant_compressor, compressor),
                retries=True,
            )
        self._engines = engines
        pruned_kinds = frozenset[str]() if self._pruner is None else self._pruner.pruned_kinds
        self.compressor = ConversationCompressor(engines, self.originals, None, pruned_kinds)
        self._rewriter = BodyRewriter(settings, self.compressor, adapter=self.adapter)

    def send(self, plain: bytes, headers: Mapping[str, str] | None = None, owner: str = OWNER) -> SentRequest:
        """Send one request body of an owner.

        Raises:
            ApiError: The proxy rejects the request.
        """
        return self._rewrite(plain, headers or {}, self._create_context(plain, headers or {}), owner)

    def send_rejected(self, plain: bytes, headers: Mapping[str, str]) -> tuple[ApiError, Row]:
        """Send one request body that the proxy rejects, and return the error and the ledger row."""
        context = self._create_context(plain, headers)
        try:
            self._rewrite(plain, headers, context)
        except ApiError as error:
            context.status, context.outcome = error.status, "rejected"
            return error, context.build_row()
        raise AssertionError("the request was not rejected")

    def fetch_original(self, name: str, owner: str = OWNER) -> str | None:
        """Return an original of this owner, or None."""
        return self._loop.run_until_complete(self.originals.get(owner, name))

    def _create_context(self, plain: bytes, headers: Mapping[str, str]) -> RequestContext:
        options = request_options.parse_headers(headers, request_options.build_default_options(self.settings))
        model = str((parse_object(plain) or {}).get("model"))
        return RequestContext("/v1/x", options, protocol=self.adapter.name, model=model)

    def _rewrite(
        self, plain: bytes, headers: Mapping[str, str], context: RequestContext, owner: str = OWNER
    ) -> SentRequest:
        body = parse_object(plain)
        assert body is not None
        handler = ExpandHandler(self.originals, owner, get_token_counter(context.model))
        tool = create_expand_tool(self.adapter, body, handler) if self._offer_tool else None
        forwarded = self._loop.run_until_complete(self._rewriter.rewrite_body(context, plain, body, owner, tool))
        context.status = 200
        return SentRequest(forwarded, context, context.build_row())


def _constant_compressor(compressor: Compressor, _: str) -> Compressor:
    return compressor


class FakeWorker:
    """A replacement for CLaRa's worker: writes the first words of each passage and a number of its own."""

    def __init__(self) -> None:
        self.job_count = 0

    def submit(self, job: ClaraJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        self.job_count += 1
        if cost is not None:
            cost.tokens, cost.gpu_seconds = cost.tokens + 100, cost.gpu_seconds + 0.25
        future: Future[Any] = Future()
        assert isinstance(job.documents, list)
        words = " ".join(" ".join(job.documents).split()[:8])
        future.set_result(FakeReply(f"It is about the following. {words}. The total was {INVENTED_NUMBER}."))
        return future


class FakePruner:
    """A replacement for a pruner's worker: the score of a word, or of a unit, depends on its text alone."""

    def __init__(self, *, finds_words: bool) -> None:
        self._finds_words = finds_words

    def submit(self, job: PruneJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        if cost is not None:
            cost.tokens, cost.gpu_seconds = cost.tokens + 100, cost.gpu_seconds + 0.25
        words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", job.text)]
        spans = words if self._finds_words else job.units
        scores = [zlib.crc32(job.text[start:end].encode("utf-8", "replace")) / 2**32 for start, end in spans]
        future: Future[Any] = Future()
        future.set_result(UnitScores(spans, scores, [1.0] * len(job.contexts), 0.5))
        return future


def create_fake_pruner(family: Family = "llmlingua2") -> PruneCompressor:
    """Return the compressor of mode `prune` with a replacement for its model."""
    worker = FakePruner(finds_words=family == "llmlingua2")
    return PruneCompressor(worker, registry.find_compressor, PruneOptions(family))


class FakeReply(NamedTuple):
    """The fields of a `Reply` that compressors read."""

    text: str
    finish: str = "stop"
    left_out: tuple[int, ...] = ()
    not_in_memory: bool = False


class FakeCompressor:
    """A compressor that calls a function of the test, and records its tasks."""

    name = "double"

    def __init__(self, compress: CompressFunction) -> None:
        self.tasks: list[Task] = []
        self._compress = compress

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        self.tasks.append(task)
        return self._compress(task)


def message_list_bytes(body: bytes, key: str = "messages") -> bytes:
    """Return a body's list of this key as compact JSON, without the closing bracket."""
    return orjson.dumps(orjson.loads(body)[key])[:-1]
