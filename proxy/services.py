"""What the running proxy is made of, opened and closed together."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..compression.engine import Engine
from ..config import prices
from ..config.settings import Settings
from .ledger import Ledger
from .originals import Originals, OriginalsError
from .providers import Providers
from .shorten import Shortener
from .upstream import Upstream

PURGE_EVERY = 3600.0  # seconds
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request may need. `chat_upstream` unpacks what comes back, `raw_upstream` leaves it as it is."""

    settings: Settings
    chat_upstream: Upstream
    raw_upstream: Upstream
    providers: Providers
    shortener: Shortener
    originals: Originals
    ledger: Ledger


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[Services]:
    """Open all services for these settings; leaving the block closes them, and writes down what is still unwritten."""
    folder = settings.data_dir.expanduser()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        ledger = Ledger(ledger_url(folder))
        await asyncio.gather(ledger.start(), asyncio.to_thread(prices.find, ""))  # the price table is read once
        stack.push_async_callback(ledger.stop)
        originals = Originals(folder / "originals.sqlite3", settings.originals_ttl)
        await originals.start()
        stack.push_async_callback(originals.stop)
        purging = asyncio.create_task(_purge(originals))
        stack.callback(purging.cancel)
        engine = Engine(workers=settings.workers, queue=settings.queue, cache_bytes=settings.cache_mb * 2**20)
        stack.callback(engine.close)
        chat_upstream, raw_upstream = (
            Upstream(connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout, unpack=unpack)
            for unpack in (True, False)
        )
        stack.push_async_callback(chat_upstream.close)
        stack.push_async_callback(raw_upstream.close)
        providers = Providers(settings.models, settings.litellm_providers, settings.read_timeout)
        yield Services(
            settings, chat_upstream, raw_upstream, providers, Shortener(engine, originals), originals, ledger
        )


async def _purge(originals: Originals) -> None:
    """Wipe what has expired, now and every so often."""
    while True:
        try:
            await originals.purge()
        except OriginalsError as error:
            log.warning("%s", error)
        await asyncio.sleep(PURGE_EVERY)


def ledger_url(folder: Path) -> str:
    """Return where the ledger of a data directory is."""
    return f"sqlite+aiosqlite:///{folder / 'ledger.sqlite3'}"
