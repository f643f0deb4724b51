"""What the running proxy is made of, opened and closed together.

The invariant: what cannot be opened is a `StartError`, which names it, says why and which setting is about it.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError

from ...compression import registry
from ...compression.clara.async_engine import LocalClara, LocalModelConfig
from ...compression.clara.compressors import AnswerCompressor, SummaryCompressor
from ...compression.clara.locate import BUNDLED_MODELS, NANO_NAME
from ...compression.clara.worker import WorkerLimits
from ...compression.compressor import Compressor
from ...compression.engine import Engine
from ...config import prices
from ...config.settings import Settings
from ..access.keyring import Keyring
from ..http.litellm_providers import LitellmProviders
from ..http.shadow import ShadowChecks
from ..http.upstream import Upstream
from ..pipeline.compress import ConversationCompressor
from ..stores.api_keys import KeyStore
from ..stores.contents import ContentStore
from ..stores.errors import StartupError, describe
from ..stores.ledger import Ledger, ledger_url
from ..stores.originals import Originals, OriginalsError
from ..watch import observers
from ..watch.metrics import Metrics

PURGE_INTERVAL = 3600.0  # seconds
CLARA_BATCH_SIZE = 32  # passages that CLaRa works on at once
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request may need. `chat_upstream` unpacks what comes back, `raw_upstream` leaves it as it is."""

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
    clara: LocalClara | None
    auto_mode: str
    metrics: Metrics


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncGenerator[Services]:
    """Open all services for these settings; leaving the block closes them, and writes down what is still unwritten.

    Raises:
        StartError: something cannot be opened, or the settings ask for what cannot be had.
    """
    folder = settings.data_dir.expanduser()
    if complaint := describe_unavailable_mode(settings):
        raise StartupError(complaint)
    async with AsyncExitStack() as stack:
        ledger, keyring = await _open_ledger(settings, folder, stack)
        originals = await _open_originals(settings, folder, stack)
        contents = ContentStore(originals) if settings.keep_content == "passages" else None
        if contents is not None:
            stack.push_async_callback(contents.stop)
        purging = asyncio.create_task(_purge_expired(originals, ledger, settings.ledger_days))
        stack.callback(purging.cancel)
        clara = _create_clara(settings, folder)
        if clara is not None:
            stack.callback(clara.close)
        engines = _create_engines(settings, clara)
        for engine in engines.values():
            stack.callback(engine.close)
        chat_upstream, raw_upstream = (
            Upstream(
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                decompress=unpack,
                proxy=settings.upstream_proxy,
            )
            for unpack in (True, False)
        )
        stack.push_async_callback(chat_upstream.close)
        stack.push_async_callback(raw_upstream.close)
        providers = LitellmProviders(settings.models, settings.litellm_providers, settings.read_timeout)
        stack.push_async_callback(providers.close)
        shadows = ShadowChecks(settings.shadow_rate, ledger.write)
        stack.push_async_callback(shadows.close)
        yield Services(
            settings,
            chat_upstream,
            raw_upstream,
            providers,
            ConversationCompressor(engines, originals, contents),
            originals,
            contents,
            ledger,
            keyring,
            shadows,
            clara,
            _resolve_auto_mode(settings),
            await stack.enter_async_context(observers.attach_observers(settings, ledger, clara)),
        )


def describe_unavailable_mode(settings: Settings) -> str:
    """Say why the mode of these settings cannot be had here, which every request would hear; empty where it can."""
    model = resolve_local_model(settings)
    if settings.mode == "latent" and model is None:
        return "mode latent (CLARA_MODE) needs a CLaRa model: install the extra [clara], or set CLARA_MODEL"
    if settings.mode in ("answer", "summary") and model in (None, NANO_NAME):
        return f"mode {settings.mode} (CLARA_MODE) needs a CLaRa model: set CLARA_MODEL, or use auto, which needs none"
    return ""


async def _open_ledger(settings: Settings, folder: Path, stack: AsyncExitStack) -> tuple[Ledger, Keyring]:
    named = ("the ledger", "CLARA_LEDGER_URL") if settings.ledger_url else (f"the ledger in {folder}", "CLARA_DATA_DIR")
    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        ledger = Ledger(ledger_url(folder, settings.ledger_url), row_count_folder=folder / "runs")
    except OSError as error:
        raise StartupError(f"the data directory {folder} cannot be made: {describe(error)} (CLARA_DATA_DIR)") from error
    except (ValueError, SQLAlchemyError) as error:  # of an address only what is ours to say: it may have a password
        reason = str(error) if isinstance(error.__cause__, ImportError) else "that is no address of a database"
        raise StartupError(f"the ledger cannot be opened: {reason} (CLARA_LEDGER_URL)") from error
    with _map_start_errors(*named, ledger):
        stack.push_async_callback(ledger.stop)
        await asyncio.gather(ledger.start(), asyncio.to_thread(prices.find_price, ""))  # the price table is read once
        keyring = Keyring(KeyStore(ledger.engine, ledger.dialect), ledger)
        await keyring.start()
    stack.push_async_callback(keyring.stop)
    return ledger, keyring


async def _open_originals(settings: Settings, folder: Path, stack: AsyncExitStack) -> Originals:
    file = folder / "originals.sqlite3"
    with _map_start_errors("the originals", "CLARA_ORIGINALS_URL, CLARA_ORIGINALS_KEY"):  # is what they need installed?
        originals = Originals(
            settings.originals_url or file,
            settings.originals_ttl,
            capacity=settings.originals_mb * 2**20,
            encryption_keys=settings.originals_key,
        )
    named = ("the originals", "CLARA_ORIGINALS_URL") if settings.originals_url else (f"{file}", "CLARA_DATA_DIR")
    with _map_start_errors(*named):
        await originals.start()
    stack.push_async_callback(originals.stop)
    return originals


@contextmanager
def _map_start_errors(what: str, about: str, ledger: Ledger | None = None) -> Generator[None]:
    trouble: tuple[type[Exception], ...] = (sqlite3.Error, OSError, ValueError, OriginalsError)
    if ledger is not None:
        trouble += ledger.dialect.error_types
    try:
        yield
    except trouble as error:
        raise StartupError(f"{what} cannot be opened: {describe(error)} ({about})") from error


def _create_clara(settings: Settings, folder: Path) -> LocalClara | None:
    model = resolve_local_model(settings)
    if model is None:
        return None
    latents = settings.cache.expanduser() if settings.cache else folder / "latents"
    origin = LocalModelConfig(
        model,
        settings.subfolder,
        settings.base,
        settings.backend,
        settings.quantization,
        latents,
        settings.latents,
    )
    return LocalClara(origin, WorkerLimits(max_waiting=settings.clara_queue, keep_alive=settings.keep_alive))


def resolve_local_model(settings: Settings) -> str | None:
    """Return the model that answers here: the one that was chosen, else clara-nano where torch is installed."""
    if settings.model is not None:
        return None if settings.model == "none" else settings.model
    return NANO_NAME if BUNDLED_MODELS[NANO_NAME].is_dir() and find_spec("torch") is not None else None


def _create_engines(settings: Settings, clara: LocalClara | None) -> dict[str, Engine]:
    """Return an engine a mode. Those of CLaRa have a thread for each passage that its worker takes into one batch.

    clara-nano has none: other people's documents are not what it was made for.
    """
    made = partial(Engine, queue_limit=settings.queue, cache_bytes=settings.cache_mb * 2**20)
    engines = {"extract": made(workers=settings.workers)}
    if clara is not None and clara.name != NANO_NAME:
        for compressor in (
            AnswerCompressor(clara.worker, registry.find_compressor),
            SummaryCompressor(clara.worker, registry.find_compressor),
        ):
            engines[compressor.name] = made(workers=CLARA_BATCH_SIZE, find_compressor=_constant_finder(compressor))
    return engines


def _constant_finder(compressor: Compressor) -> Callable[[str], Compressor]:
    return lambda _: compressor


def _resolve_auto_mode(settings: Settings) -> str:
    """Say what `auto` means here: decided once, because a mode that changes would change what was forwarded before."""
    accelerated = settings.backend in ("cuda", "mps") or (
        settings.backend == "auto" and Path("/dev/nvidiactl").exists()
    )
    return "answer" if accelerated and settings.model not in (None, NANO_NAME, "none") else "extract"


async def _purge_expired(originals: Originals, ledger: Ledger, days: int | None) -> None:
    """Wipe what has expired, now and every so often."""
    while True:
        try:
            await originals.delete_expired()
        except OriginalsError as error:
            log.warning("%s", error)
        if days is not None:
            try:
                await ledger.prune(time.time() - days * 86_400)
            except ledger.dialect.error_types as error:
                log.warning("the ledger was not pruned: %s", type(error).__name__)
        await asyncio.sleep(PURGE_INTERVAL)


def get_services(request: Request) -> Services:
    """Return the services of the application that received this request."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
