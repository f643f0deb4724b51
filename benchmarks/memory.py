"""Measure memory: ingestion, database size, search time and recall, on SQLite and PostgreSQL.

    python -m clara_proxy.benchmarks.memory [--passages N] [--quick] [--data ../shared/data] [--only sqlite] [--clara]

The corpus is the documents of `qa_multidoc`, repeated with a number until there are enough passages; they are stored in
files of 50 documents. A search asks a question of the same data. The first one, which loads the index,
counts apart; `cpu` is the processor time of this process, per search. Recall pools the documents of 60 questions in one
store, one file each, and counts the questions with a gold document among the first files. PostgreSQL comes from the
development dependencies and runs without fsync. The last line is JSON.
"""

import argparse
import asyncio
import gzip
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from ..compression.memory.indexing import index_document
from ..proxy.memory.search import MemorySearch
from ..proxy.stores.ledger import select_dialect
from ..proxy.stores.memory_chunks import NewDocument
from ..proxy.stores.memory_store import DEFAULT_MAX_TOKENS, MemoryStore, open_memory
from ..tests.servers import run_postgres

OWNER = "bench"
QUICK_PASSAGES = 5_000
DOCUMENTS_PER_FILE = 50
QUESTIONS = 100
RECALL_QUESTIONS = 60
RECALL_RANKS = (1, 5, 10)
SEARCH_LIMIT = 20
INDEX_BYTES = 256 * 2**20
Item = dict[str, Any]


def read_items(folder: Path) -> list[Item]:
    """Return the questions with their documents."""
    with gzip.open(folder / "qa_multidoc.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def build_files(items: Sequence[Item]) -> Iterator[str]:
    """Yield the texts of files without end."""
    documents = [f"## {document['title']}\n\n{document['text']}" for item in items for document in item["documents"]]
    documents = list(dict.fromkeys(documents))
    numbered = (f"{document} (copy {copy})" for copy in itertools.count() for document in documents)
    while True:
        yield "\n\n".join(itertools.islice(numbered, DOCUMENTS_PER_FILE))


async def add_text(memory: MemoryStore, store_id: str, name: str, content: str) -> tuple[str, int, float]:
    """Index and store a file; returns its id, its number of passages and the seconds of indexing."""
    start = time.perf_counter()
    chunks = list(index_document(content, name, DEFAULT_MAX_TOKENS, 0))
    seconds = time.perf_counter() - start
    entry = await memory.add_document(OWNER, store_id, NewDocument(name, content.encode(), content, chunks, {}))
    return entry.file_id, len(chunks), seconds


async def measure_size(memory: MemoryStore, url: str, items: Sequence[Item], passages: int) -> Item:
    """Fill a store, and search it."""
    store = await memory.create_store(OWNER, "size")
    count, indexing, start = 0, 0.0, time.perf_counter()
    for number, content in enumerate(build_files(items)):
        if count >= passages:
            break
        _, added, seconds = await add_text(memory, store.id, f"file-{number}.md", content)
        count, indexing = count + added, indexing + seconds
    filling = time.perf_counter() - start
    searching = MemorySearch(memory, INDEX_BYTES)
    store = await memory.get_store(OWNER, store.id)
    before = read_memory()
    times: list[float] = []
    processor = 0.0
    for item in items[: QUESTIONS + 1]:
        if len(times) == 1:
            processor = time.process_time()
        start = time.perf_counter()
        hits = await searching.search(store, item["question"], 10)
        times.append(1000 * (time.perf_counter() - start))
        assert hits
    processor = time.process_time() - processor
    first, rest = times[0], sorted(times[1:])
    return {
        "passages": count,
        "passages_per_second": round(count / filling),
        "indexing_share": round(indexing / filling, 2),
        "database_mb": round(await read_database_size(url) / 1e6, 1),
        "first_search_ms": round(first),
        "search_p50_ms": round(statistics.median(rest), 1),
        "search_p95_ms": round(rest[int(0.95 * len(rest))], 1),
        "search_cpu_ms": round(1000 * processor / len(rest), 1),
        "search_memory_mb": round((read_memory() - before) / 1e6, 1),
    }


async def measure_recall(memory: MemoryStore, items: Sequence[Item]) -> Item:
    """Return the share of questions with a gold document among the first 1, 5 and 10 files, by kind of question."""
    result: Item = {}
    for kind in sorted({item["kind"] for item in items}):
        chosen = [item for item in items if item["kind"] == kind][:RECALL_QUESTIONS]
        store = await memory.create_store(OWNER, kind)
        files: dict[tuple[str, str], str] = {}
        for document in (document for item in chosen for document in item["documents"]):
            key = document["title"], document["text"]
            if key not in files:
                files[key], _, _ = await add_text(memory, store.id, *key)
        searching = MemorySearch(memory, INDEX_BYTES)
        store = await memory.get_store(OWNER, store.id)
        ranks: list[float] = []
        for item in chosen:
            gold = {files[d["title"], d["text"]] for d in item["documents"] if d["is_gold"]}
            hits = await searching.search(store, item["question"], SEARCH_LIMIT)
            ranked = list(dict.fromkeys(hit.file_id for hit in hits))
            ranks.append(find_rank(ranked, gold))
        result[kind] = {"files": len(files), **compute_recall(ranks)}
    return result


def measure_clara_recall(items: Sequence[Item]) -> Item:
    """Return the same of clara-nano: documents ranked by its query adapter against their memories."""
    from ..compression.clara.clara import Clara  # noqa: PLC0415 - loads torch

    clara = Clara.from_pretrained("clara-nano", device="cpu")
    result: Item = {"ranking": "query adapter of clara-nano"}
    for kind in sorted({item["kind"] for item in items}):
        chosen = [item for item in items if item["kind"] == kind][:RECALL_QUESTIONS]
        keys = list(dict.fromkeys((d["title"], d["text"]) for item in chosen for d in item["documents"]))
        latents = clara.compress([f"{title}\n{content}" for title, content in keys])
        ranks: list[float] = []
        for item in chosen:
            gold = {keys.index((d["title"], d["text"])) for d in item["documents"] if d["is_gold"]}
            nearest = clara.retrieve(item["question"], latents, len(latents)).indices
            ranks.append(find_rank(list(dict.fromkeys(latents.document_indices[index] for index in nearest)), gold))
        result[kind] = {"documents": len(keys), **compute_recall(ranks)}
    return result


def find_rank(ranked: Sequence[object], gold: Container[object]) -> float:
    """Return the rank of the first gold document, counted from 1; infinity without one."""
    return next((rank for rank, document in enumerate(ranked, 1) if document in gold), float("inf"))


def compute_recall(ranks: Sequence[float]) -> Item:
    """Return the share of ranks up to 1, 5 and 10."""
    return {f"recall@{limit}": round(sum(rank <= limit for rank in ranks) / len(ranks), 3) for limit in RECALL_RANKS}


async def read_database_size(url: str) -> int:
    """Return the bytes of a database, with the log of SQLite."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    engine = await select_dialect(url).open()
    try:
        async with engine.connect() as connection:
            size = await connection.execute(text("SELECT pg_database_size(current_database())"))
            return int(size.scalar_one())
    finally:
        await engine.dispose()


def read_memory() -> int:
    """Return the resident bytes of this process (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def open_url(database: str) -> Generator[str]:
    """Yield the URL of an empty database."""
    if database == "postgresql":
        with run_postgres() as server:
            yield server.reset_database()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/memory.sqlite3"


async def measure(database: str, items: Sequence[Item], passages: int) -> Item:
    """Measure one kind of database."""
    with open_url(database) as url:
        async with open_memory(url) as memory:
            return {"database": database, **await measure_size(memory, url, items, passages)} | {
                "recall": await measure_recall(memory, items)
            }


def main() -> None:
    """Print a table, and the results as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_PASSAGES:,} passages")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--clara", action="store_true", help="only the recall of clara-nano's query adapter")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    items = read_items(arguments.data)
    if arguments.clara:
        print(json.dumps(measure_clara_recall(items)))
        return
    passages = QUICK_PASSAGES if arguments.quick else arguments.passages
    results: list[Item] = []
    for database in [arguments.only] if arguments.only else ["sqlite", "postgresql"]:
        result = asyncio.run(measure(database, items, passages))
        for name, value in result.items():
            print(f"{name:<22}{value}", flush=True)
        results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
