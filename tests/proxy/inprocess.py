"""The real path from a chat's body to a shorter one, in this process: everything but HTTP.

`find` puts another compressor in the place of the registry's; without `store` the originals cannot be reached.
"""

import asyncio
import json
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
from clara_proxy.compression.clara.jobs import ModelCost
from clara_proxy.compression.clara.jobs import ModelJob as ClaraJob
from clara_proxy.compression.compressor import CompressedPassage, Compressor, Task
from clara_proxy.compression.engine import Engine
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
    deadline=None,
    suppress_health_check=(
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.function_scoped_fixture,
    ),
)
INVENTED_NUMBER = "987654321"  # a number that stands in no generated passage
OWNER = "owner-of-the-secret-key"
FindCompressor = Callable[[str], Compressor]
JsonStyle = Callable[[Json], bytes]
CompressFunction = Callable[[Task], CompressedPassage | None]


def _dump_indented(body: Json) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


# As the clients of this world write JSON: with blanks and \uXXXX, without either, for people to read.
JSON_STYLES: tuple[JsonStyle, ...] = (lambda body: json.dumps(body).encode(), orjson.dumps, _dump_indented)


class SentRequest(NamedTuple):
    """What became of one request."""

    forwarded: bytes
    context: RequestContext
    row: Row

    @property
    def messages(self) -> list[Json]:
        return list(orjson.loads(self.forwarded)["messages"])

    @property
    def message_bytes(self) -> bytes:
        """The bytes of the messages, but for the bracket that ends them."""
        return message_list_bytes(self.forwarded)


class InProcessProxy:
    """A proxy without HTTP, on an event loop of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        find_compressor: FindCompressor = registry.find_compressor,
        store: bool = True,
        clara_worker: JobQueue | None = None,
        adapter: ProtocolAdapter = chat.ADAPTER,
        offer_tool: bool = False,
    ) -> None:
        """With a `voice`, which stands in for CLaRa's worker, there are the modes `answer` and `summary`, too.

        With `offers` the model is offered the tool `clara_expand`, as it is in a proxy that runs.
        """
        self.adapter = adapter
        self._clara_worker, self._offer_tool = clara_worker, offer_tool
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
        """Forget everything that was decided: from here on this is another replica, with `self.settings`."""
        settings = self.settings
        self._engine = Engine(
            workers=settings.workers,
            queue_limit=queue or settings.queue,
            cache_bytes=settings.cache_mb * 2**20,
            find_compressor=find_compressor or self._find_compressor,
        )
        engines = {"extract": self._engine}
        voices = (
            ()
            if self._clara_worker is None
            else (
                AnswerCompressor(self._clara_worker, registry.find_compressor),
                SummaryCompressor(self._clara_worker, registry.find_compressor),
            )
        )
        for compressor in voices:
            said = Engine(
                workers=2,
                queue_limit=settings.queue,
                cache_bytes=2**20,
                find_compressor=partial(_constant_compressor, compressor),
            )
            engines[compressor.name] = said
        self._engines = engines
        self._rewriter = BodyRewriter(settings, ConversationCompressor(engines, self.originals), adapter=self.adapter)

    def send(self, plain: bytes, headers: Mapping[str, str] | None = None) -> SentRequest:
        """Condense one body; an ApiError is the caller's."""
        return self._rewrite(plain, headers or {}, self._create_context(plain, headers or {}))

    def send_rejected(self, plain: bytes, headers: Mapping[str, str]) -> tuple[ApiError, Row]:
        """Condense one body that must be refused, and return why, and the row it leaves."""
        visit = self._create_context(plain, headers)
        try:
            self._rewrite(plain, headers, visit)
        except ApiError as error:
            visit.status, visit.outcome = error.status, "rejected"
            return error, visit.build_row()
        raise AssertionError("it was not refused")

    def fetch_original(self, name: str, owner: str = OWNER) -> str | None:
        """Fetch an original back."""
        return self._loop.run_until_complete(self.originals.get(owner, name))

    def _create_context(self, plain: bytes, headers: Mapping[str, str]) -> RequestContext:
        asked = request_options.parse_headers(headers, request_options.build_default_options(self.settings))
        body = parse_object(plain) or {}
        return RequestContext("/v1/x", asked, protocol=self.adapter.name, model=str(body.get("model")))

    def _rewrite(self, plain: bytes, headers: Mapping[str, str], visit: RequestContext) -> SentRequest:
        body = parse_object(plain)
        assert body is not None
        shelf = ExpandHandler(self.originals, OWNER, get_token_counter(visit.model))
        offer = create_expand_tool(self.adapter, body, shelf) if self._offer_tool else None
        forwarded = self._loop.run_until_complete(self._rewriter.rewrite_body(visit, plain, body, OWNER, offer))
        visit.status = 200
        return SentRequest(forwarded, visit, visit.build_row())


def _constant_compressor(compressor: Compressor, _: str) -> Compressor:
    return compressor


class FakeWorker:
    """Stands in for CLaRa's worker: says something of each passage, and something that is in none of them."""

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


class FakeReply(NamedTuple):
    """The parts of a `Reply` that are looked at."""

    text: str
    finish: str = "stop"
    left_out: tuple[int, ...] = ()


class FakeCompressor:
    """A compressor that does what it is told: returns pieces, None, or raises; late, it sleeps first."""

    name = "double"

    def __init__(self, does: CompressFunction) -> None:
        self.tasks: list[Task] = []
        self._compress = does

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        self.tasks.append(task)
        return self._compress(task)


def message_list_bytes(body: bytes) -> bytes:
    """Return a body's `messages` as compact JSON without the last bracket."""
    return orjson.dumps(orjson.loads(body)["messages"])[:-1]
