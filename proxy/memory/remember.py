"""Keeps the tool outputs of conversations in a vector store, so that they can be searched later (`x-clara-remember`).

A client sends an output again with every turn; it is kept once, by its digest. This runs in the background, and a
failure costs the client nothing.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Sequence
from contextlib import suppress

from cachetools import LRUCache

from ...compression.transcript import Turn
from ..stores.memory_store import MemoryNotFoundError, MemoryStore
from .indexer import Indexer

MIN_CHARACTERS = 500  # shorter outputs are not kept
_RECALL = "recall"  # the tool of the MCP server that returns what is kept already, under any prefix
_KNOWN_OUTPUTS = 20_000
_UNSAFE = re.compile(r"[^\w.-]+")
log = logging.getLogger(__name__)


class ToolOutputKeeper:
    """Adds tool outputs to vector stores."""

    def __init__(self, store: MemoryStore, indexer: Indexer) -> None:
        self._store, self._indexer = store, indexer
        self._known: LRUCache[tuple[str, str, str], bool] = LRUCache(_KNOWN_OUTPUTS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    def submit(self, owner: str, store_name: str, turns: Sequence[Turn]) -> None:
        """Keep the long tool outputs among these turns in a store; a missing store is created."""
        outputs = [
            (turn.call.name if turn.call else "tool", slot.text)
            for turn in turns
            for slot in turn.slots
            if turn.role == "tool" and len(slot.text) >= MIN_CHARACTERS and not _is_recall(turn)
        ]
        if outputs:
            task = asyncio.create_task(self._keep(owner, store_name, outputs))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for the outputs that were submitted."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, owner: str, store_name: str, outputs: Sequence[tuple[str, str]]) -> None:
        try:
            async with self._lock:  # two requests with the same new output keep it once
                for tool, text in outputs:
                    await self._keep_output(owner, store_name, tool, text)
        except self._store.error_types as error:
            log.warning("a tool output cannot be kept: %s", type(error).__name__)

    async def _keep_output(self, owner: str, store_name: str, tool: str, text: str) -> None:
        content = text.encode("utf-8", "replace")
        digest = hashlib.sha256(content).hexdigest()
        key = owner, store_name, digest
        if key in self._known:
            return
        store_id = await self._find_or_create(owner, store_name)
        if not await self._store.has_content(store_id, digest):
            name = f"{_UNSAFE.sub('-', tool)[:60]}-{digest[:8]}.txt"
            file = await self._store.add_file(owner, name, content)
            with suppress(MemoryNotFoundError):  # deleted meanwhile
                await self._store.attach_file(owner, store_id, file.id, {"tool": tool[:200]})
            self._indexer.submit(owner, store_id, file.id)
        self._known[key] = True

    async def _find_or_create(self, owner: str, store_name: str) -> str:
        try:
            return (await self._store.get_store(owner, store_name)).id
        except MemoryNotFoundError:
            return (await self._store.create_store(owner, store_name)).id


def _is_recall(turn: Turn) -> bool:
    return turn.call is not None and turn.call.name.endswith(_RECALL)
