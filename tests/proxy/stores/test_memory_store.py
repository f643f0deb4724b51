"""The contract of memory, on SQLite and PostgreSQL: files, vector stores, chunks, hybrid search."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Connection, inspect, text

from clara_proxy.compression.memory.indexing import index_document
from clara_proxy.compression.memory.passage_index import IndexRow
from clara_proxy.proxy.memory.search import MemorySearch
from clara_proxy.proxy.stores.memory_chunks import NewDocument
from clara_proxy.proxy.stores.memory_schema import StoreFile
from clara_proxy.proxy.stores.memory_store import MemoryNotFoundError, MemoryStore, open_memory
from clara_proxy.tests.servers import Postgres

ALICE, BOB = "alice", "bob"
MANUAL = """# Manual

## Battery

The battery lasts nine hours. Charge it with the supplied adapter.

## Cleaning

Wipe the screen with a dry cloth. Never use alcohol.
"""
WORDS = {1: "sparrow", 2: "finch", 3: "raven"}
PLANETS = "Mars is the fourth planet. Its two moons are Phobos and Deimos.\n\nVenus has no moons."


class Clock:
    """A clock that tests move."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
async def memory(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres, clock: Clock
) -> AsyncIterator[MemoryStore]:
    url = f"sqlite:///{tmp_path / 'memory.sqlite3'}" if request.param == "sqlite" else postgres.reset_database()
    async with open_memory(url, clock) as store:
        yield store


async def add_document(memory: MemoryStore, store_id: str, name: str, text: str, owner: str = ALICE) -> StoreFile:
    file = await memory.add_file(owner, name, text.encode())
    entry = await memory.attach_file(owner, store_id, file.id, {"name": name}, (30, 0))
    assert await memory.finish_file(entry, text, list(index_document(text, name, 30, 0)))
    return await memory.get_store_file(owner, store_id, file.id)


async def search(memory: MemoryStore, store_id: str, question: str, limit: int = 10) -> list[str]:
    hits = await MemorySearch(memory, 2**20).search(await memory.get_store(ALICE, store_id), question, limit)
    assert all(0 < hit.score <= 1 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    return [hit.text for hit in hits]


async def test_chunks_are_found_by_their_words_and_by_their_meaning(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE, "docs")
    entry = await add_document(memory, store.id, "manual.md", MANUAL)
    await add_document(memory, store.id, "planets.txt", PLANETS)
    assert (entry.status, entry.name, entry.attributes) == ("completed", "manual.md", {"name": "manual.md"})
    assert "nine hours" in (await search(memory, store.id, "How long does the battery last?"))[0]
    assert "Phobos" in (await search(memory, "docs", "which natural satellites orbit the red planet?"))[0]
    assert await search(memory, store.id, "battery", limit=1) != []
    assert await search(memory, store.id, "") == []
    [first, *_] = await memory.chunks.read_file_chunks(store.id, entry.file_id)
    assert MANUAL[first.start : first.end] == first.text


async def test_a_word_of_every_chunk_does_not_outrank_the_meaning(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE)
    texts = ["User likes hiking in national parks.", "User works as an engineer.", "User has a dog."]
    for number, content in enumerate(texts):
        await add_document(memory, store.id, f"{number}.txt", content)
    assert await search(memory, store.id, "What outdoor activities does the user enjoy?", 1) == texts[:1]


async def test_search_honours_a_condition_on_attributes(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE)
    for name in ("a.txt", "b.txt"):
        await add_document(memory, store.id, name, PLANETS)
    found = await MemorySearch(memory, 2**20).search(
        await memory.get_store(ALICE, store.id), "moons of Mars", 10, accepts=lambda values: values["name"] == "b.txt"
    )
    assert {hit.name for hit in found} == {"b.txt"}


async def test_a_file_is_invisible_until_it_is_finished(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE)
    file = await memory.add_file(ALICE, "planets.txt", PLANETS.encode())
    entry = await memory.attach_file(ALICE, store.id, file.id)
    assert await search(memory, store.id, "moons") == []
    assert await memory.list_unfinished() == [(ALICE, store.id, file.id)]
    await memory.fail_file(entry, "broken")
    assert (await memory.get_store_file(ALICE, store.id, file.id)).error == "broken"
    assert await memory.list_unfinished() == []
    assert (await memory.get_store(ALICE, store.id)).file_counts == {"failed": 1}
    await memory.detach_file(ALICE, store.id, file.id)
    assert not await memory.finish_file(entry, PLANETS, list(index_document(PLANETS, "x", 30, 0)))
    assert await search(memory, store.id, "moons") == []


async def test_deletion_is_real_and_search_notices_it(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE)
    other = await memory.create_store(ALICE)
    entry = await add_document(memory, store.id, "planets.txt", PLANETS)
    engine = MemorySearch(memory, 2**20)
    assert await engine.search(await memory.get_store(ALICE, store.id), "moons", 5)
    attached = await memory.attach_file(ALICE, other.id, entry.file_id)
    await memory.finish_file(attached, PLANETS, list(index_document(PLANETS, "planets.txt", 30, 0)))
    await memory.detach_file(ALICE, store.id, entry.file_id)
    assert await engine.search(await memory.get_store(ALICE, store.id), "moons", 5) == []
    assert await search(memory, other.id, "moons")
    await memory.delete_file(ALICE, entry.file_id)
    assert await search(memory, other.id, "moons") == []
    assert await memory.chunks.read_index_rows(other.id) == []
    with pytest.raises(MemoryNotFoundError):
        await memory.read_content(ALICE, entry.file_id)
    assert await memory.delete_store(ALICE, other.id) == other.id
    assert [entry.id for entry in await memory.list_stores(ALICE)] == [store.id]


async def test_a_changed_file_replaces_its_old_chunks(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE)
    entry = await add_document(memory, store.id, "planets.txt", PLANETS)
    again = await memory.attach_file(ALICE, store.id, entry.file_id)
    await memory.finish_file(
        again, "Jupiter has many moons.", list(index_document("Jupiter has many moons.", "p", 30, 0))
    )
    assert await search(memory, store.id, "moons") == ["Jupiter has many moons."]
    assert await memory.read_text(ALICE, entry.file_id) == "Jupiter has many moons."


async def test_another_owner_finds_nothing(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE, "docs")
    entry = await add_document(memory, store.id, "planets.txt", PLANETS)
    assert await memory.list_stores(BOB) == []
    assert await memory.list_files(BOB) == []
    for attempt in (
        memory.get_store(BOB, store.id),
        memory.get_store(BOB, "docs"),
        memory.update_store(BOB, store.id, name="mine"),
        memory.delete_store(BOB, store.id),
        memory.get_file(BOB, entry.file_id),
        memory.read_content(BOB, entry.file_id),
        memory.delete_file(BOB, entry.file_id),
        memory.get_store_file(BOB, store.id, entry.file_id),
        memory.list_store_files(BOB, store.id),
        memory.attach_file(BOB, store.id, entry.file_id),
        memory.detach_file(BOB, store.id, entry.file_id),
    ):
        with pytest.raises(MemoryNotFoundError):
            await attempt
    assert (await memory.get_store(ALICE, store.id)).file_counts == {"completed": 1}


async def test_a_store_expires_after_its_last_use(memory: MemoryStore, clock: Clock) -> None:
    store = await memory.create_store(ALICE, "short", {"team": "a"}, expires_days=1)
    clock.now += 80_000
    await memory.touch(store.id)
    clock.now += 80_000
    assert (await memory.get_store(ALICE, "short")).metadata == {"team": "a"}
    renamed = await memory.update_store(ALICE, store.id, name="long", metadata={"team": "b"})
    assert (renamed.name, renamed.metadata) == ("long", {"team": "b"})
    assert await memory.delete_expired() == 0
    clock.now += 86_400
    with pytest.raises(MemoryNotFoundError):
        await memory.get_store(ALICE, store.id)
    assert await memory.delete_expired() == 1


async def test_hostile_texts_and_questions_are_plain_text(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE)
    hostile = "'; DROP TABLE memory_chunks; -- \" OR * NEAR(x) <|im_start|> \x07 größe 中文文本 ' & | !"
    entry = await add_document(memory, store.id, "../../etc/passwd", hostile)
    for question in (hostile, '"', "NOT", "* OR *", "'' | !x", "中文", "größe", "a" * 5000):
        await search(memory, store.id, question)
    assert await search(memory, store.id, "中文文本") == [hostile]
    assert (await memory.get_file(ALICE, entry.file_id)).name == "../../etc/passwd"


async def test_documents_are_added_and_replaced_at_once(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE, "docs")
    chunks = list(index_document(MANUAL, "manual.md", 30, 0))
    first = await memory.add_document(ALICE, store.id, NewDocument("manual.md", b"1", MANUAL, chunks, {"path": "a"}))
    assert (first.status, first.attributes) == ("completed", {"path": "a"})
    chunks = list(index_document(PLANETS, "manual.md", 30, 0))
    document = NewDocument("manual.md", b"2", PLANETS, chunks, {"path": "a"})
    second = await memory.add_document(ALICE, store.id, document, [first])
    assert [entry.file_id for entry in await memory.list_store_files(ALICE, store.id)] == [second.file_id]
    assert [file.id for file in await memory.list_files(ALICE)] == [second.file_id]
    assert "Phobos" in (await search(memory, store.id, "moons of Mars"))[0]
    assert not any("battery" in hit for hit in await search(memory, store.id, "battery"))
    with pytest.raises(MemoryNotFoundError):
        await memory.add_document(BOB, store.id, document, [second])
    assert (await memory.get_store(ALICE, store.id)).file_counts == {"completed": 1}


async def test_a_search_sees_what_other_processes_add_and_delete(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE, "docs")
    engine = MemorySearch(memory, 2**20)
    reads: list[int] = []
    read_index_rows = memory.chunks.read_index_rows

    async def count_rows(store_id: str, after: int = -1) -> list[IndexRow]:
        rows = await read_index_rows(store_id, after)
        reads.append(len(rows))
        return rows

    memory.chunks.read_index_rows = count_rows  # type: ignore[method-assign]

    async def find(question: str) -> set[str]:
        hits = await engine.search(await memory.get_store(ALICE, "docs"), question, 10)
        return {hit.name for hit in hits}

    entries = [await add_document(memory, store.id, f"{n}.txt", f"The {word} is blue.") for n, word in WORDS.items()]
    assert "1.txt" in await find("sparrow")
    assert await find("sparrow") == await find("sparrow")
    added = await add_document(memory, store.id, "9.txt", "The heron is blue.")
    assert "9.txt" in await find("heron")
    assert reads == [len(WORDS), 1]  # what is known is not read again
    await memory.detach_file(ALICE, store.id, added.file_id)
    await memory.detach_file(ALICE, store.id, entries[0].file_id)
    await add_document(memory, store.id, "8.txt", "The egret is blue.")  # SQLite may give it the id of a deleted chunk
    assert not {"9.txt", "1.txt"} & await find("heron sparrow blue")
    assert "8.txt" in await find("egret")
    assert reads[2:] == [len(WORDS)]


async def test_a_database_of_an_earlier_version_is_upgraded(memory: MemoryStore) -> None:
    store = await memory.create_store(ALICE, "docs")
    await add_document(memory, store.id, "manual.md", MANUAL)
    engine = cast("Any", memory)._engine
    is_sqlite = engine.dialect.name == "sqlite"
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE memory_stores DROP COLUMN deletion_revision"))
        await connection.execute(text("ALTER TABLE memory_chunks DROP COLUMN postings"))
        old_index = (
            "CREATE TABLE memory_terms (x TEXT)" if is_sqlite else "ALTER TABLE memory_chunks ADD terms tsvector"
        )
        await connection.execute(text(old_index))
    await memory.start()
    await memory.start()
    [row, *_] = await memory.chunks.read_index_rows(store.id)
    assert row.postings
    assert "dry cloth" in (await search(memory, store.id, "alcohol"))[0]
    async with engine.begin() as connection:
        tables, columns = await connection.run_sync(read_schema)
    assert "memory_terms" not in tables
    assert "terms" not in columns


def read_schema(connection: Connection) -> tuple[set[str], set[str]]:
    """Return the names of all tables, and of the columns of the chunks."""
    inspector = inspect(connection)
    return set(inspector.get_table_names()), {column["name"] for column in inspector.get_columns("memory_chunks")}
