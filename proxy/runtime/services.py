"""Opens and closes the services of a running proxy: stores, engines, upstream clients and the local model.

A service that cannot be opened raises `StartupError`. Its message names the service, the reason and the setting.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from ...compression import embeddings, registry
from ...compression.clara.async_engine import ClaraBackend
from ...compression.clara.compressors import AnswerCompressor, SummaryCompressor
from ...compression.clara.locate import NANO_NAME
from ...compression.compressor import Compressor
from ...compression.engine import Engine
from ...compression.pruners.worker import PrunerWorker
from ...config.settings import Settings
from ..access.keyring import Keyring
from ..cache.response_cache import ResponseCache
from ..http.body_budget import BodyBudget
from ..http.litellm_providers import LitellmProviders
from ..http.shadow import ShadowChecks
from ..http.upstream import Upstream
from ..memory.passage_encoder import PassageEncoder
from ..memory.service import Memory, locate_database, run_memory
from ..pipeline.compress import ConversationCompressor
from ..protocols.known_bodies import KnownBodies
from ..stores.api_keys import KeyStore
from ..stores.background import run_beside
from ..stores.contents import ContentStore
from ..stores.errors import StartupError, describe
from ..stores.ledger import Ledger, ledger_url
from ..stores.originals import Originals, OriginalsError
from ..stores.shared_responses import create_response_store
from ..stores.sqlite_file import is_empty_database
from ..watch import observers
from ..watch.metrics import Metrics
from . import local_model, local_pruner
from .preload import preload
from .store_health import StoreHealth

PURGE_INTERVAL = 3600.0  # seconds
CLARA_BATCH_SIZE = 32  # passages in one batch of CLaRa's worker
RECENT_REQUESTS = 100  # ledger rows whose models' vocabularies are loaded at start
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """The services that requests use. `chat_upstream` decompresses responses, `raw_upstream` does not."""

    settings: Settings
    chat_upstream: Upstream
    raw_upstream: Upstream
    providers: LitellmProviders
    conversation_compressor: ConversationCompressor
    originals: Originals
    contents: ContentStore | None
    ledger: Ledger
    keyring: Keyring
    shadows: ShadowChecks
    clara: ClaraBackend | None
    pruner: PrunerWorker | None
    memory: Memory | None
    auto_mode: str
    metrics: Metrics
    bodies: BodyBudget
    known_bodies: KnownBodies
    health: StoreHealth
    response_cache: ResponseCache


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncGenerator[Services]:
    """Open all services for these settings; leaving the block closes them and writes all pending ledger rows.

    Vocabularies, compressors and prices load in a thread first, and are ready when the block begins.

    Raises:
        StartupError: a service cannot be opened, or the mode of the settings is unavailable.
    """
    folder = settings.data_dir.expanduser()
    for describe_problem in (local_model.describe_problem, local_pruner.describe_problem):
        if problem := await asyncio.to_thread(describe_problem, settings):
            raise StartupError(problem)
    async with AsyncExitStack() as stack:
        # Before the stores open: a thread beside it would allocate among the vocabulary's temporary objects and keep
        # 16 MB of them from being returned.
        is_loaded = await _preload({model.litellm for model in settings.models})
        ledger, keyring = await _open_ledger(settings, folder, stack)
        originals = await _open_originals(settings, folder, stack)
        contents = ContentStore(originals) if settings.keep_content == "passages" else None
        if contents is not None:
            stack.push_async_callback(contents.stop)
        response_cache = await _open_response_cache(settings, folder, stack)
        purging = _purge_expired(originals, ledger, settings.ledger_days, response_cache)
        await stack.enter_async_context(run_beside(purging))
        health = StoreHealth({"ledger": ledger.check, "originals": originals.check})
        await stack.enter_async_context(run_beside(health.watch()))
        clara, engines, pruner, pruned_kinds = open_engines(settings, folder, stack)
        chat_upstream = _create_upstream(settings, stack, decompress=True)
        raw_upstream = _create_upstream(settings, stack, decompress=False)
        providers = LitellmProviders(settings.models, list_litellm_prefixes(settings), settings.read_timeout)
        stack.push_async_callback(providers.close)
        shadows = ShadowChecks(settings.shadow_rate, ledger.write)
        stack.push_async_callback(shadows.close)
        if is_loaded:
            await _preload(await _list_recent_models(ledger))
        metrics = await stack.enter_async_context(observers.attach_observers(settings, ledger, clara))
        metrics.read_store_states = lambda: health.store_states
        yield Services(
            settings,
            chat_upstream,
            raw_upstream,
            providers,
            ConversationCompressor(engines, originals, contents, pruned_kinds),
            originals,
            contents,
            ledger,
            keyring,
            shadows,
            clara,
            pruner,
            await _open_memory(settings, clara, stack),
            local_model.resolve_auto_mode(settings),
            metrics,
            BodyBudget(settings.bodies_mb * 2**20),
            KnownBodies(),
            health,
            response_cache,
        )


class OpenedEngines(NamedTuple):
    """CLaRa, the engines by mode, the pruner, and the kinds of content that only the pruner compresses."""

    clara: ClaraBackend | None
    by_mode: dict[str, Engine]
    pruner: PrunerWorker | None = None
    pruned_kinds: frozenset[str] = frozenset()


def open_engines(settings: Settings, folder: Path, stack: AsyncExitStack) -> OpenedEngines:
    """Return the engines; `stack` closes them."""
    clara = local_model.create_clara(settings, folder)
    if clara is not None:
        stack.push_async_callback(clara.aclose)
    engines = _create_engines(settings, clara)
    pruner = local_pruner.create_pruner(settings)
    if pruner is not None:
        worker, compressor = pruner
        stack.push_async_callback(asyncio.to_thread, worker.close)
        engines[compressor.name] = _create_model_engine(settings, compressor)
    for engine in engines.values():
        stack.callback(engine.close)
    if pruner is None:
        return OpenedEngines(clara, engines)
    return OpenedEngines(clara, engines, pruner[0], pruner[1].pruned_kinds)


def check_ledger_file(folder: Path) -> None:
    """Check that the ledger in a data directory was not lost: without its keys, the proxy would be open.

    Raises:
        StartupError: the ledger is missing or empty, and the directory has other data.
    """
    ledger, originals = folder / "ledger.sqlite3", folder / "originals.sqlite3"
    if originals.exists() and originals.stat().st_size and is_empty_database(ledger):
        raise StartupError(
            f"the ledger {ledger} is missing or empty, but {originals} exists, so its API keys are lost: restore it"
            " from a backup, or begin a new one, either with a key (`clara-proxy keys create NAME`) or without (delete"
            f" {originals}); CLARA_DATA_DIR sets the directory"
        )


async def _open_memory(settings: Settings, clara: ClaraBackend | None, stack: AsyncExitStack) -> Memory | None:
    if not settings.memory:
        return None
    if settings.memory_latents and clara is None:
        raise StartupError("CLARA_MEMORY_LATENTS needs a CLaRa model: install the extra [clara], or set CLARA_MODEL")
    encoder = PassageEncoder(clara) if settings.memory_latents and clara is not None else None
    memory = run_memory(locate_database(settings), settings.memory_index_mb * 2**20, encoder)
    try:
        return await stack.enter_async_context(memory)
    except (ValueError, OSError, SQLAlchemyError, sqlite3.Error) as error:
        setting = "CLARA_MEMORY_URL" if settings.memory_url else "CLARA_DATA_DIR"
        raise StartupError(f"the memory cannot be opened: {describe(error)} ({setting})") from error


async def _preload(models: set[str]) -> bool:
    """Preload in a thread and return True; a failure is only logged, since each request fails open."""
    try:
        await asyncio.to_thread(preload, models)
    except Exception as error:  # noqa: BLE001 - a compressor of another distribution may raise anything
        log.warning(
            "cannot load the compressors and vocabularies: %s; passages are forwarded unchanged", describe(error)
        )
        return False
    return True


async def _list_recent_models(ledger: Ledger) -> set[str]:
    """Return the models of the newest ledger rows; requests for the same models are likely to come next."""
    try:
        return {row.model for row in await ledger.read_newest_rows(limit=RECENT_REQUESTS)}
    except ledger.dialect.error_types as error:
        log.warning("cannot read the ledger: %s", describe(error))
        return set()


async def _open_ledger(settings: Settings, folder: Path, stack: AsyncExitStack) -> tuple[Ledger, Keyring]:
    if not settings.ledger_url:
        check_ledger_file(folder)
    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        ledger = Ledger(ledger_url(folder, settings.ledger_url), row_count_folder=folder / "runs")
    except OSError as error:
        raise StartupError(
            f"the data directory {folder} cannot be created: {describe(error)} (CLARA_DATA_DIR)"
        ) from error
    except (ValueError, SQLAlchemyError) as error:  # the library's own message may repeat the password in the URL
        reason = str(error) if isinstance(error.__cause__, ImportError) else "the value is not a database URL"
        raise StartupError(f"the ledger cannot be opened: {reason} (CLARA_LEDGER_URL)") from error
    name, setting = (
        ("the ledger", "CLARA_LEDGER_URL") if settings.ledger_url else (f"the ledger in {folder}", "CLARA_DATA_DIR")
    )
    with _map_start_errors(name, setting, ledger):
        stack.push_async_callback(ledger.stop)
        await ledger.start()
        keyring = Keyring(KeyStore(ledger.engine, ledger.dialect), ledger)
        await keyring.start()
    stack.push_async_callback(keyring.stop)
    if settings.require_keys and not keyring.requires_key:
        raise StartupError(
            "an API key is required and none exists; create one with `clara-proxy keys create NAME`, or unset"
            " CLARA_REQUIRE_KEYS"
        )
    return ledger, keyring


async def _open_originals(settings: Settings, folder: Path, stack: AsyncExitStack) -> Originals:
    file = folder / "originals.sqlite3"
    with _map_start_errors("the originals", "CLARA_ORIGINALS_URL, CLARA_ORIGINALS_KEY"):  # an extra may be missing
        originals = Originals(
            settings.originals_url or file,
            settings.originals_ttl,
            capacity=settings.originals_mb * 2**20,
            encryption_keys=settings.originals_key,
        )
    name, setting = (
        ("the originals", "CLARA_ORIGINALS_URL") if settings.originals_url else (f"{file}", "CLARA_DATA_DIR")
    )
    with _map_start_errors(name, setting):
        await originals.start()
    stack.push_async_callback(originals.stop)
    return originals


async def _open_response_cache(settings: Settings, folder: Path, stack: AsyncExitStack) -> ResponseCache:
    """Open the response cache. With the setting `off`, its file is neither created nor read."""
    if settings.response_cache == "off":
        return ResponseCache(None, settings)
    file = folder / "responses.sqlite3"
    name, setting = (
        ("the response cache", "CLARA_RESPONSE_CACHE_URL")
        if settings.response_cache_url
        else (f"{file}", "CLARA_DATA_DIR, CLARA_ORIGINALS_KEY")
    )
    with _map_start_errors(name, setting):
        capacity = settings.response_cache_mb * 2**20
        store = create_response_store(settings.response_cache_url, file, capacity, settings.originals_key)
        await store.start()
    stack.push_async_callback(store.stop)
    if settings.response_cache == "semantic":
        await asyncio.to_thread(embeddings.load_table)  # else the first look-up would be late
    response_cache = ResponseCache(store, settings)
    stack.push_async_callback(response_cache.close)
    return response_cache


@contextmanager
def _map_start_errors(name: str, setting: str, ledger: Ledger | None = None) -> Generator[None]:
    error_types: tuple[type[Exception], ...] = (sqlite3.Error, OSError, ValueError, OriginalsError)
    if ledger is not None:
        error_types += ledger.dialect.error_types
    try:
        yield
    except error_types as error:
        raise StartupError(f"{name} cannot be opened: {describe(error)} ({setting})") from error


def _create_upstream(settings: Settings, stack: AsyncExitStack, *, decompress: bool) -> Upstream:
    upstream = Upstream(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        decompress=decompress,
        proxy=settings.upstream_proxy,
    )
    stack.push_async_callback(upstream.close)
    return upstream


def list_litellm_prefixes(settings: Settings) -> tuple[str, ...]:
    """Return the model prefixes that go through litellm.

    An upstream that the user has configured may serve such names itself, as OpenRouter does. With one, the prefixes
    count only if they are configured, too.
    """
    is_default = settings.upstream_base_url.rstrip("/") == Settings.model_fields["upstream_base_url"].default
    return settings.litellm_providers if is_default or "litellm_providers" in settings.model_fields_set else ()


def _create_engines(settings: Settings, clara: ClaraBackend | None) -> dict[str, Engine]:
    """Return the engines by mode. An engine of CLaRa has one thread for each passage of a batch.

    clara-nano gets no engine of its own: it is not trained for the documents of `answer` and `summary`. PISCO gets none
    for `summary`.
    """
    cache_bytes = settings.cache_mb * 2**20
    engines = {"extract": Engine(workers=settings.workers, queue_limit=settings.queue, cache_bytes=cache_bytes)}
    if clara is not None and clara.name != NANO_NAME:
        for compressor in (
            AnswerCompressor(clara.worker, registry.find_compressor, timeout=settings.clara_timeout),
            SummaryCompressor(clara.worker, registry.find_compressor, timeout=settings.clara_timeout),
        ):
            if compressor.name != SummaryCompressor.name or local_model.can_paraphrase(settings):
                engines[compressor.name] = _create_model_engine(settings, compressor)
    return engines


def _create_model_engine(settings: Settings, compressor: Compressor) -> Engine:
    """Return the engine of a compressor that asks a model."""
    return Engine(
        workers=CLARA_BATCH_SIZE,
        queue_limit=settings.queue,
        cache_bytes=settings.cache_mb * 2**20,
        find_compressor=_constant_finder(compressor),
        retries=True,
    )


def _constant_finder(compressor: Compressor) -> Callable[[str], Compressor]:
    return lambda _: compressor


async def _purge_expired(originals: Originals, ledger: Ledger, days: int | None, response_cache: ResponseCache) -> None:
    """Delete expired originals, answers and old ledger rows, now and at every interval."""
    while True:
        await response_cache.delete_expired()
        try:
            await originals.delete_expired()
        except OriginalsError as error:
            log.warning("%s", error)
        if days is not None:
            try:
                await ledger.prune(time.time() - days * 86_400)
            except ledger.dialect.error_types as error:
                log.warning("cannot delete old ledger rows: %s", type(error).__name__)
        await asyncio.sleep(PURGE_INTERVAL)


def get_services(request: Request) -> Services:
    """Return the services of the application that received this request."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
