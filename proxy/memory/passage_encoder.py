"""Has CLaRa compress the passages of indexed files in the background, so that the first question finds their memories.

The memories are in CLaRa's own store of compressed documents, by content. A passage that fails, or that comes while
`MAX_WAITING` others wait, is compressed when it is asked about.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from ...compression.clara.async_engine import ClaraBackend
from ...compression.models.errors import ModelError
from ..stores.errors import ThrottledLogger

BATCH_PASSAGES = 16
MAX_WAITING = 10_000  # passages, some 10 MB of text
BATCH_SECONDS = 600.0  # the model may have to load, and requests of clients come first
_throttled_log = ThrottledLogger(logging.getLogger(__name__))


class PassageEncoder:
    """Compresses passages in the order of their submission, one batch after the other."""

    def __init__(self, clara: ClaraBackend) -> None:
        self._clara = clara
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop at once; passages that still wait are compressed when they are asked about."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def submit(self, texts: Iterable[str]) -> None:
        """Have texts compressed, as many as may wait."""
        with suppress(asyncio.QueueFull):
            for text in texts:
                self._waiting.put_nowait(text)

    async def wait(self) -> None:
        """Wait until no text is left."""
        await self._waiting.join()

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH_PASSAGES and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._clara.embed(batch, BATCH_SECONDS)  # keeps the memories from which it computes vectors
            except ModelError as error:
                _throttled_log.warn(f"CLaRa cannot compress the passages of a vector store yet: {error}")
            finally:
                for _ in batch:
                    self._waiting.task_done()
