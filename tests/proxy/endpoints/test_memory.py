"""Files and vector stores through the real `openai` client, and what their endpoints refuse."""

import asyncio
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from clara_proxy.proxy.stores.memory_store import open_memory
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import Proxy

MANUAL = (
    b"# Manual\n\n## Battery\n\nThe battery lasts nine hours.\n\n## Cleaning\n\nWipe the screen with a dry cloth.\n"
)


@pytest.fixture(scope="module")
def memory_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that keeps files and vector stores."""
    _upstream.reset()
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("memory"), memory=True) as proxy:
        yield proxy


@pytest.fixture
def client(memory_proxy: Proxy) -> OpenAI:
    return OpenAI(base_url=f"{memory_proxy.url}/v1", api_key="sk-alice", max_retries=0)


def test_a_file_is_uploaded_indexed_and_found(client: OpenAI, memory_proxy: Proxy) -> None:
    store = client.vector_stores.create(
        name="docs", metadata={"team": "a"}, expires_after={"anchor": "last_active_at", "days": 7}
    )
    assert (store.name, store.status, store.file_counts.total) == ("docs", "completed", 0)
    entry = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("manual.md", MANUAL), poll_interval_ms=20
    )
    assert (entry.status, entry.last_error) == ("completed", None)
    page = client.vector_stores.search(store.id, query="How long does the battery last?", max_num_results=2)
    best = page.data[0]
    assert (best.filename, best.file_id) == ("manual.md", entry.id)
    assert "nine hours" in best.content[0].text
    assert 0 < best.score <= 1
    assert client.files.content(entry.id).read() == MANUAL
    text = httpx.get(
        f"{memory_proxy.url}/v1/vector_stores/{store.id}/files/{entry.id}/content",
        headers={"authorization": "Bearer sk-alice"},
    )
    assert text.json()["data"][0]["text"] == MANUAL.decode()
    after = client.vector_stores.retrieve(store.id)
    assert after.file_counts.completed == 1
    assert after.usage_bytes > 0
    assert after.expires_at == after.last_active_at + 7 * 86_400  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand]


def test_search_filters_by_attributes(client: OpenAI) -> None:
    store = client.vector_stores.create()
    for year in (2023, 2024, 2025):
        file = client.files.create(
            file=(f"{year}.txt", f"The budget of {year} was approved.".encode()), purpose="assistants"
        )
        client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=store.id, attributes={"year": year}, poll_interval_ms=20
        )
    late: Any = {
        "type": "and",
        "filters": [{"type": "gte", "key": "year", "value": 2024}, {"type": "ne", "key": "year", "value": 2025}],
    }
    found = client.vector_stores.search(store.id, query="budget", filters=late)
    assert [hit.filename for hit in found.data] == ["2024.txt"]
    assert len(client.vector_stores.search(store.id, query=["budget", "approved"]).data) == 3
    with pytest.raises(openai.BadRequestError, match="list of values"):
        client.vector_stores.search(store.id, query="budget", filters={"type": "in", "key": "year", "value": 2024})  # pyright: ignore[reportArgumentType]


def test_batches_lists_and_deletion(client: OpenAI) -> None:
    store = client.vector_stores.create(name="batch")
    files = [client.files.create(file=(f"{n}.txt", b"text " * n), purpose="user_data") for n in range(1, 5)]
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[file.id for file in files], poll_interval_ms=20
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 4)
    assert len(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id).data) == 4
    assert len([*client.vector_stores.files.list(store.id, limit=3)]) == 4  # two pages
    client.vector_stores.files.delete(files[0].id, vector_store_id=store.id)
    client.files.delete(files[1].id)
    assert {entry.id for entry in client.vector_stores.files.list(store.id)} == {files[2].id, files[3].id}
    renamed = client.vector_stores.update(store.id, name="renamed")
    assert renamed.name == "renamed"
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)
    assert files[2].id in {file.id for file in client.files.list(purpose="user_data")}


def test_a_file_without_text_fails_with_its_reason(client: OpenAI) -> None:
    store = client.vector_stores.create()
    entry = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("program.bin", b"\x00\x01\x02" * 100), poll_interval_ms=20
    )
    assert entry.status == "failed"
    assert entry.last_error is not None
    assert "program.bin is not text" in entry.last_error.message


def test_another_key_finds_nothing(client: OpenAI, memory_proxy: Proxy) -> None:
    store = client.vector_stores.create(name="private")
    entry = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("m.md", MANUAL), poll_interval_ms=20
    )
    other = OpenAI(base_url=f"{memory_proxy.url}/v1", api_key="sk-bob", max_retries=0)
    assert store.id not in {item.id for item in other.vector_stores.list()}
    for attempt in (
        lambda: other.vector_stores.retrieve(store.id),
        lambda: other.vector_stores.search(store.id, query="battery"),
        lambda: other.vector_stores.files.retrieve(entry.id, vector_store_id=store.id),
        lambda: other.files.content(entry.id),
        lambda: other.files.delete(entry.id),
        lambda: other.vector_stores.files.create(store.id, file_id=entry.id),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()


@pytest.mark.parametrize(
    ("path", "arguments", "status"),
    [
        ("files", {"json": {}}, 400),
        ("files", {"files": {"purpose": (None, "assistants")}}, 400),
        ("files", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ("vector_stores", {"json": {"expires_after": {"days": 0}}}, 400),
        ("vector_stores", {"json": {"file_ids": ["file-none"]}}, 404),
        ("vector_stores/vs_none/search", {"json": {"query": "x"}}, 404),
        ("vector_stores/vs_none/search", {"json": {}}, 400),
        ("vector_stores/vs_none/file_batches", {"json": {"file_ids": []}}, 400),
    ],
)
def test_invalid_requests_are_refused(memory_proxy: Proxy, path: str, arguments: dict[str, Any], status: int) -> None:
    answer = httpx.post(f"{memory_proxy.url}/v1/{path}", **arguments)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_without_memory_the_paths_are_passed_through(proxy: Proxy, upstream: FaultyUpstream) -> None:
    httpx.get(f"{proxy.url}/v1/vector_stores", headers={"authorization": "Bearer sk-alice"})
    assert upstream.requests[-1].request_line.startswith(b"GET /v1/vector_stores ")


def test_memory_never_leaves_the_machine(client: OpenAI, upstream: FaultyUpstream) -> None:
    store = client.vector_stores.create()
    client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("m.md", MANUAL), poll_interval_ms=20)
    client.vector_stores.search(store.id, query="battery")
    assert not upstream.requests


def test_memory_survives_a_restart_and_waiting_files_are_indexed(upstream: FaultyUpstream, tmp_path: Path) -> None:
    with running.run_proxy(upstream.url, tmp_path, memory=True) as proxy:
        client = OpenAI(base_url=f"{proxy.url}/v1", api_key="sk-alice")
        store = client.vector_stores.create(name="docs")
        file = client.files.create(file=("manual.md", MANUAL), purpose="assistants")

    async def attach() -> None:
        owner = sha256(b"sk-alice").hexdigest()[:32]
        async with open_memory(f"sqlite:///{tmp_path / 'memory.sqlite3'}") as memory:
            await memory.attach_file(owner, store.id, file.id)

    asyncio.run(attach())
    with running.run_proxy(upstream.url, tmp_path, memory=True) as proxy:
        client = OpenAI(base_url=f"{proxy.url}/v1", api_key="sk-alice")
        client.vector_stores.files.poll(file.id, vector_store_id=store.id, poll_interval_ms=20)
        assert "nine" in client.vector_stores.search(store.id, query="battery").data[0].content[0].text
