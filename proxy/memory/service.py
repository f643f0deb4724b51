"""Memory of a running proxy: its store, its index and its search."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..stores.memory_store import MemoryStore, open_memory
from .indexer import Indexer
from .search import MemorySearch

VECTOR_CACHE_BYTES = 256 * 2**20
EXPIRY_INTERVAL = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class Memory:
    """The parts of memory."""

    store: MemoryStore
    indexer: Indexer
    search: MemorySearch


@asynccontextmanager
async def run_memory(url: str) -> AsyncGenerator[Memory]:
    """Open memory in the database at this URL, and index what is left to do, until the block ends.

    Raises:
        ValueError: the database is not supported.
        Exception: the errors of its driver.
    """
    async with open_memory(url) as store:
        indexer = Indexer(store)
        await indexer.start()
        expiring = asyncio.create_task(_delete_expired(store))
        try:
            yield Memory(store, indexer, MemorySearch(store, VECTOR_CACHE_BYTES))
        finally:
            expiring.cancel()
            await asyncio.gather(expiring, return_exceptions=True)
            await indexer.stop()


async def _delete_expired(store: MemoryStore) -> None:
    while True:
        await store.delete_expired()
        await asyncio.sleep(EXPIRY_INTERVAL)
