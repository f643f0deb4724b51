"""Memory of a running proxy: its store, its index and its search."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from ...config.settings import Settings
from ..protocols.api_errors import ApiError
from ..stores.background import run_beside
from ..stores.memory_store import MemoryStore, open_memory
from .indexer import Indexer
from .passage_encoder import PassageEncoder
from .remember import ToolOutputKeeper
from .search import MemorySearch

EXPIRY_INTERVAL = 600.0  # seconds
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """The parts of memory."""

    store: MemoryStore
    indexer: Indexer
    search: MemorySearch
    keeper: ToolOutputKeeper


def locate_database(settings: Settings) -> str:
    """Return the URL of the database of memory."""
    return settings.memory_url or f"sqlite:///{settings.data_dir.expanduser() / 'memory.sqlite3'}"


@asynccontextmanager
async def run_memory(url: str, index_bytes: int, encoder: PassageEncoder | None = None) -> AsyncGenerator[Memory]:
    """Open memory in the database at this URL, and index unfinished files, until the block ends.

    `index_bytes` bounds the indexes of stores that are kept in memory. `encoder` gets the passages of indexed files.

    Raises:
        ValueError: the database is not supported.
        Exception: the errors of its driver.
    """
    async with open_memory(url) as store:
        indexer = Indexer(store, encoder)
        if encoder is not None:
            encoder.start()
        await indexer.start()
        keeper = ToolOutputKeeper(store, indexer)
        try:
            async with run_beside(_delete_expired(store)):
                yield Memory(store, indexer, MemorySearch(store, index_bytes), keeper)
        finally:
            await keeper.stop()
            await indexer.stop()
            if encoder is not None:
                await encoder.stop()


async def _delete_expired(store: MemoryStore) -> None:
    while True:
        try:
            await store.delete_expired()
        except store.error_types as error:
            log.warning("expired vector stores cannot be deleted yet: %s", type(error).__name__)
        await asyncio.sleep(EXPIRY_INTERVAL)


@contextmanager
def map_store_errors(memory: Memory) -> Generator[None]:
    """Raise the errors of the database of memory as ApiError: 503."""
    try:
        yield
    except memory.store.error_types as error:
        message = f"the database of memory cannot be used: {type(error).__name__}"
        raise ApiError(503, message, code="store_unavailable", headers={"retry-after": "1"}) from error
