"""Indexes the files of vector stores in the background: convert, cut, embed, store.

An interrupted file is `in_progress` in the database and is taken up again at the next start.
"""

import asyncio
import logging
from collections import OrderedDict

from ...compression.memory.indexing import IndexedChunk, index_document
from ..stores.memory_schema import StoreFile
from ..stores.memory_store import MemoryNotFoundError, MemoryStore
from . import convert, passages
from .convert import ConversionError
from .passage_encoder import PassageEncoder

MAX_ATTEMPTS = 10
RETRY_SECONDS = 1.0
log = logging.getLogger(__name__)
Job = tuple[str, str, str]  # owner, store, file


class Indexer:
    """Indexes one file at a time; the files wait in the order of their submission.

    `encoder` gets the passages of each indexed file.
    """

    def __init__(self, store: MemoryStore, encoder: PassageEncoder | None = None) -> None:
        self._store, self._encoder = store, encoder
        self._waiting: OrderedDict[Job, int] = OrderedDict()  # with the number of failed attempts
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work, with the files that an earlier process left."""
        for job in await self._store.list_unfinished():
            self.submit(*job)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop at once; the current file is taken up at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def submit(self, owner: str, store_id: str, file_id: str) -> None:
        """Have a file indexed that was attached to a store."""
        self._enqueue((owner, store_id, file_id), 0)

    def _enqueue(self, job: Job, failures: int) -> None:
        self._waiting[job] = failures
        self._is_idle.clear()
        self._has_work.set()

    async def wait(self) -> None:
        """Wait until no file is left."""
        await self._is_idle.wait()

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                self._has_work.clear()
                self._is_idle.set()
            await self._has_work.wait()
            job, failures = self._waiting.popitem(last=False)
            try:
                await self._index(*job)
            except Exception as error:  # noqa: BLE001 - one file must not end the indexing of all others
                log.warning("a file cannot be indexed yet, the database fails: %s", type(error).__name__)
                if failures + 1 < MAX_ATTEMPTS:  # else it is taken up at the next start
                    self._enqueue(job, failures + 1)
                await asyncio.sleep(RETRY_SECONDS)

    async def _index(self, owner: str, store_id: str, file_id: str) -> None:
        try:
            entry = await self._store.get_store_file(owner, store_id, file_id)
            content = await self._store.read_content(owner, file_id)
        except MemoryNotFoundError:
            return  # deleted meanwhile
        if entry.status != "in_progress":
            return
        try:
            text = await convert.extract_text(entry.name, content)
            chunks = await asyncio.to_thread(_index_text, entry, text)
        except ConversionError as error:
            await self._store.fail_file(entry, str(error))
        except Exception as error:  # noqa: BLE001 - a document may break any part of the indexing
            log.warning("a file cannot be indexed: %s", type(error).__name__)
            await self._store.fail_file(entry, f"the file cannot be indexed ({type(error).__name__})")
        else:
            is_stored = await self._store.finish_file(entry, text, chunks)
            if is_stored and self._encoder is not None:
                self._encoder.submit(passages.format_memory(entry.name, chunk.titles, chunk.text) for chunk in chunks)


def _index_text(entry: StoreFile, text: str) -> list[IndexedChunk]:
    return list(index_document(text, entry.name, entry.max_tokens, entry.overlap_tokens))
