"""The indexer goes on after a file that it cannot index, and after an error of the database."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from clara_proxy.proxy.memory import indexer
from clara_proxy.proxy.memory.indexer import Indexer
from clara_proxy.proxy.stores.memory_store import MemoryStore, open_memory

OWNER = "alice"


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[MemoryStore]:
    async with open_memory(f"sqlite:///{tmp_path / 'memory.sqlite3'}") as store:
        yield store


async def index_files(memory: MemoryStore, *names: str) -> dict[str, str]:
    """Index files with these names and return their statuses by name."""
    store = await memory.create_store(OWNER)
    working = Indexer(memory)
    await working.start()
    for name in names:
        file = await memory.add_file(OWNER, name, b"Some text.")
        await memory.attach_file(OWNER, store.id, file.id)
        working.submit(OWNER, store.id, file.id)
    await working.wait()
    await working.stop()
    return {entry.name: entry.status for entry in await memory.list_store_files(OWNER, store.id)}


async def test_file_that_breaks_the_indexing_fails_alone(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    index_text = indexer._index_text  # pyright: ignore[reportPrivateUsage]

    def fail_on_one(entry: Any, text: str) -> Any:
        if entry.name == "hostile.txt":
            raise RecursionError
        return index_text(entry, text)

    monkeypatch.setattr(indexer, "_index_text", fail_on_one)
    statuses = await index_files(memory, "hostile.txt", "good.txt")
    assert statuses == {"hostile.txt": "failed", "good.txt": "completed"}


@pytest.mark.parametrize(("failures", "status"), [(2, "completed"), (1000, "in_progress")])
async def test_error_of_the_database_is_tried_again_but_not_for_ever(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, failures: int, status: str
) -> None:
    remaining, finish_file = [None] * failures, memory.finish_file

    async def finish_later(*arguments: Any) -> bool:
        if remaining:
            remaining.pop()
            raise OperationalError("INSERT", {}, Exception("locked"))
        return await finish_file(*arguments)

    monkeypatch.setattr(memory, "finish_file", finish_later)
    monkeypatch.setattr(indexer, "RETRY_SECONDS", 0)
    assert await index_files(memory, "a.txt") == {"a.txt": status}
    assert len(remaining) == max(0, failures - indexer.MAX_ATTEMPTS)
