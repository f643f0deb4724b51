"""The commands `clara-proxy stores list`, `show`, `search` and `delete`: vector stores on this machine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from . import memory_options, options
from .memory_options import KeyName
from .options import AsJson, Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ...config.settings import Settings
    from ..stores.memory_schema import ChunkHit, StoreFile, VectorStore
    from ..stores.memory_store import MemoryStore

app = typer.Typer(help="Vector stores on this machine: list, show, search, delete.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name or id of the vector store.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, max=50, help="Maximum number of passages.")]
Result = TypeVar("Result")
NOT_FOUND_REMEDY = "see `clara-proxy stores list`, and name the owner of a store of another key with --key"


@app.command("list")
def list_stores(key: KeyName = None, as_json: AsJson = False, data_dir: DataDir = None, config: Config = None) -> None:
    """List the stores, the newest first: id, name, files, size, last use (UTC)."""
    settings = options.load_settings(config, data_dir=data_dir)
    stores = _run(settings, key, lambda memory, owner: memory.list_stores(owner))
    if as_json:
        options.print_json([_describe_store(store) for store in stores])
        return
    for store in stores:
        typer.echo(_format_store(store))
    if not stores:
        typer.echo("there are no stores", err=True)


@app.command()
def show(
    store: Name, key: KeyName = None, as_json: AsJson = False, data_dir: DataDir = None, config: Config = None
) -> None:
    """Show a store and its files."""
    settings = options.load_settings(config, data_dir=data_dir)

    async def read(memory: "MemoryStore", owner: str) -> "tuple[VectorStore, list[StoreFile]]":
        return await memory.get_store(owner, store), await memory.list_store_files(owner, store)

    found, files = _run(settings, key, read)
    if as_json:
        options.print_json(_describe_store(found) | {"files": [file._asdict() for file in files]})
        return
    typer.echo(_format_store(found))
    for file in files:
        note = f": {file.error}" if file.error else ""
        typer.echo(f"  {file.file_id}  {file.name}  {file.status}{note}")


@app.command()
def search(
    store: Name,
    question: Annotated[str, typer.Argument(help="What to find.", show_default=False)],
    limit: Limit = 5,
    key: KeyName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print the best passages of a store for a question. Exits with status 1 without any."""
    settings = options.load_settings(config, data_dir=data_dir)
    hits = _run(settings, key, lambda memory, owner: find_passages(memory, owner, store, question, limit))
    print_passages(hits, as_json=as_json)
    raise typer.Exit(0 if hits else 1)


@app.command()
def delete(
    store: Name,
    files: Annotated[bool, typer.Option("--files", help="Also delete the files that are in no other store.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    key: KeyName = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Delete a store with its passages and vectors. Its files stay unless --files is given."""
    settings = options.load_settings(config, data_dir=data_dir)
    found = _run(settings, key, lambda memory, owner: memory.get_store(owner, store))
    if not yes and not typer.confirm(f"Delete {_format_store(found)}?"):
        raise typer.Exit(1)

    async def remove(memory: "MemoryStore", owner: str) -> int:
        entries = await memory.list_store_files(owner, found.id) if files else []
        await memory.delete_store(owner, found.id)
        others = [store.id for store in await memory.list_stores(owner)] if files else []
        kept = {entry.file_id for other in others for entry in await memory.list_entries(other)}
        unused = [entry.file_id for entry in entries if entry.file_id not in kept]
        for file_id in unused:
            await memory.delete_file(owner, file_id)
        return len(unused)

    count = _run(settings, key, remove)
    typer.echo(f"deleted {found.name or found.id}" + (f" and {count:,} files" if files else ""))


async def find_passages(
    memory: "MemoryStore", owner: str, store_name: str, question: str, limit: int
) -> "list[ChunkHit]":
    """Return the best passages of a store for a question, best first. Raises MemoryNotFoundError."""
    from ..memory.search import MemorySearch  # noqa: PLC0415 - slow, and `--help` does not need it

    store = await memory.get_store(owner, store_name)
    hits = await MemorySearch(memory, 0).search(store, question, limit)
    await memory.touch(store.id)
    return hits


def print_passages(hits: "list[ChunkHit]", *, as_json: bool) -> None:
    """Print passages with their number, file and sections."""
    if as_json:
        options.print_json([describe_passage(number, hit) for number, hit in enumerate(hits, 1)])
        return
    for number, hit in enumerate(hits, 1):
        typer.echo(f"{format_source(number, hit)}  {hit.score:.2f}\n{options.replace_unprintable(hit.text)}\n")
    if not hits:
        typer.echo("no passage fits the question", err=True)


def format_source(number: int, hit: "ChunkHit") -> str:
    """Return the number, the file and the sections of a passage: `[1] manual.md > Manual > Battery`."""
    return options.replace_unprintable(" > ".join([f"[{number}] {hit.name}", *hit.titles]).replace("\n", " "))


def describe_passage(number: int, hit: "ChunkHit") -> dict[str, Any]:
    """Return a passage as JSON."""
    return {
        "number": number,
        "file_id": hit.file_id,
        "file": hit.name,
        "titles": list(hit.titles),
        "start": hit.start,
        "end": hit.end,
        "score": round(hit.score, 4),
        "text": hit.text,
    }


def _describe_store(store: "VectorStore") -> dict[str, Any]:
    return store._asdict() | {"file_counts": dict(store.file_counts)}


def _format_store(store: "VectorStore") -> str:
    files = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in store.file_counts.items())
    used = options.format_timestamp(store.last_active)
    return f"{store.id}  {store.name or '(no name)'}  files: {files or '0'}  {store.usage_bytes:,} bytes  {used}"


def _run(settings: "Settings", key: str | None, work: "Callable[[MemoryStore, str], Awaitable[Result]]") -> Result:
    async def run() -> Result:
        owner = await memory_options.resolve_owner(settings, key)
        async with memory_options.open_database(settings) as memory:
            return await work(memory, owner)

    from ..stores.memory_store import MemoryNotFoundError  # noqa: PLC0415

    try:
        return asyncio.run(run())
    except MemoryNotFoundError as error:
        exit_with_error(f"{error}; {NOT_FOUND_REMEDY}", 1)
