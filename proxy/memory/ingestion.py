"""Puts files of this machine into a vector store, and keeps the store up to date with them.

A file is recognised by its path and the digest of its content, which are attributes of its entry in the store. Each
file appears with all of its chunks, and without its old version, in one transaction, so an interrupted run leaves
whole files only, and the next run continues.
"""

import asyncio
import hashlib
import itertools
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...compression.memory.indexing import IndexedChunk, index_document
from ..stores.memory_chunks import NewDocument
from ..stores.memory_schema import StoreFile, VectorStore
from ..stores.memory_store import DEFAULT_MAX_TOKENS, MemoryNotFoundError, MemoryStore
from . import convert, file_discovery
from .convert import ConversionError, NotTextError
from .file_discovery import FoundFile, decode_path

PARALLEL_FILES = min(4, os.cpu_count() or 1)  # read and converted at the same time
OnProgress = Callable[[int, int, str], None]  # files done, files in total, name of the next one


@dataclass
class IngestSummary:
    """The result of a run: numbers of files, and the reason of each failure by path."""

    store_id: str
    store_name: str
    files: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    duplicates: int = 0
    removed: int = 0
    not_text: int = 0
    chunks: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])


class _Content(NamedTuple):
    """The bytes of a file; `text` is set if it must be indexed."""

    data: bytes
    digest: str
    text: str | None = None


class Ingestion:
    """Ingests files into one store of an owner."""

    def __init__(self, memory: MemoryStore, owner: str, store: VectorStore) -> None:
        self._memory, self._owner, self._store = memory, owner, store
        self._entries: dict[str, list[StoreFile]] = {}  # by path
        self._digests: dict[str, str] = {}  # path of an entry by digest

    async def run(self, sources: Sequence[Path], *, prunes: bool, on_progress: OnProgress) -> IngestSummary:
        """Ingest files and folders.

        Args:
            sources: the files and folders
            prunes: delete the entries of files missing from these folders
            on_progress: called before each file, and at the end

        Raises:
            OSError: a source does not exist.
            Exception: `MemoryStore.error_types`.
        """
        summary = IngestSummary(self._store.id, self._store.name)
        roots = [source.resolve() for source in sources]
        unreadable: dict[Path, str] = {}
        files = await asyncio.to_thread(file_discovery.find_files, sources, unreadable)
        summary.failed = {decode_path(folder): reason for folder, reason in unreadable.items()}
        summary.files = len(files)
        await self._load_entries()
        if prunes:
            await self._prune({file.key for file in files}, roots, summary)
        repeated: list[FoundFile] = []
        done = 0
        async with aclosing(self._read_ahead(files)) as readings:
            async for file, reading in readings:
                on_progress(done, len(files), file.name)
                done += 1
                if await self._ingest(file, reading, summary):
                    repeated.append(file)
        for file in repeated:  # the file with the same content may have changed meanwhile
            if await self._ingest(file, asyncio.create_task(self._read(file)), summary):
                summary.duplicates += 1
        on_progress(len(files), len(files), "")
        return summary

    async def _load_entries(self) -> None:
        self._entries, self._digests = {}, {}
        for entry in await self._memory.list_store_files(self._owner, self._store.id, "completed"):
            path, digest = entry.attributes.get("path"), entry.attributes.get("digest")
            if isinstance(path, str) and isinstance(digest, str):
                self._entries.setdefault(path, []).append(entry)
                self._digests.setdefault(digest, path)

    async def _prune(self, present: set[str], roots: Sequence[Path], summary: IngestSummary) -> None:
        for path in [path for path in self._entries if path not in present]:
            is_unknown = any(Path(path).is_relative_to(folder) for folder in summary.failed)
            if not is_unknown and any(Path(path).is_relative_to(root) for root in roots):
                await self._delete(path)
                summary.removed += 1

    async def _read_ahead(self, files: Sequence[FoundFile]) -> AsyncGenerator[tuple[FoundFile, asyncio.Task[_Content]]]:
        """Yield the files in order, while the next ones are read and converted."""
        waiting: deque[tuple[FoundFile, asyncio.Task[_Content]]] = deque()
        following = iter(files)
        try:
            while True:
                for file in itertools.islice(following, PARALLEL_FILES - len(waiting)):
                    waiting.append((file, asyncio.create_task(self._read(file))))
                if not waiting:
                    return
                yield waiting[0]
                waiting.popleft()
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _read(self, file: FoundFile) -> _Content:
        """Read a file; convert it if it is new. Raises OSError and ConversionError."""
        content = await asyncio.to_thread(_read_file, file)
        if self._is_unchanged(file, content) or self._digests.get(content.digest, file.key) != file.key:
            return content
        return content._replace(text=await convert.extract_text(file.name, content.data))

    async def _ingest(self, file: FoundFile, reading: "asyncio.Task[_Content]", summary: IngestSummary) -> bool:
        """Ingest a file and count it; returns True, without counting, if another file has the same content."""
        try:
            content = await reading
        except OSError as error:
            summary.failed[file.key] = error.strerror or type(error).__name__
        except NotTextError:
            summary.not_text += 1
        except ConversionError as error:
            summary.failed[file.key] = str(error)
        else:
            if self._is_unchanged(file, content):
                summary.unchanged += 1
            elif content.text is None or self._digests.get(content.digest, file.key) != file.key:
                await self._delete(file.key)
                return True
            else:
                await self._store_document(file, content, content.text, summary)
        return False

    def _is_unchanged(self, file: FoundFile, content: _Content) -> bool:
        digests = [entry.attributes["digest"] for entry in self._entries.get(file.key, [])]
        return digests == [content.digest]

    async def _store_document(self, file: FoundFile, content: _Content, text: str, summary: IngestSummary) -> None:
        path = file.key
        chunks = await asyncio.to_thread(_index_text, text, file.name)
        attributes = {"path": path, "digest": content.digest}
        replaced = self._entries.get(path, [])
        document = NewDocument(file.name, content.data, text, chunks, attributes)
        entry = await self._memory.add_document(self._owner, self._store.id, document, replaced)
        self._forget(path)
        self._entries[path] = [entry]
        self._digests[content.digest] = path
        summary.chunks += len(chunks)
        if replaced:
            summary.replaced += 1
        else:
            summary.added += 1

    async def _delete(self, path: str) -> None:
        for entry in self._entries.get(path, []):
            try:
                await self._memory.delete_file(self._owner, entry.file_id)
            except MemoryNotFoundError:
                continue  # deleted meanwhile
        self._forget(path)

    def _forget(self, path: str) -> None:
        for entry in self._entries.pop(path, []):
            if self._digests.get(entry.attributes["digest"]) == path:
                del self._digests[entry.attributes["digest"]]


async def open_or_create_store(memory: MemoryStore, owner: str, name: str) -> VectorStore:
    """Return the owner's store with this name or id, or else create one with this name."""
    try:
        return await memory.get_store(owner, name)
    except MemoryNotFoundError:
        return await memory.create_store(owner, name)


def _read_file(file: FoundFile) -> _Content:
    if file.path.stat().st_size > convert.MAX_FILE_BYTES:
        raise ConversionError(f"it has more than {convert.MAX_FILE_BYTES // 2**20} MiB")
    data = file.path.read_bytes()
    return _Content(data, hashlib.sha256(data).hexdigest())


def _index_text(text: str, name: str) -> list[IndexedChunk]:
    return list(index_document(text, name, DEFAULT_MAX_TOKENS, 0))
