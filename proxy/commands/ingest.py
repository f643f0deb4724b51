"""The command `clara-proxy ingest`: files of this machine into a vector store, without a running proxy."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from ...config.extras import describe_install
from ..memory.convert import NEEDS_EXTRA
from . import memory_options, options
from .memory_options import KeyName, StoreName
from .options import AsJson, Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from rich.progress import Progress

    from ...config.settings import Settings
    from ..memory.ingestion import Ingestion, IngestSummary

WATCH_INTERVAL = 1.0  # seconds; polling also sees network drives and the volumes of containers
Sources = Annotated[list[Path], typer.Argument(help="Folders and files.", show_default=False)]
Prune = Annotated[bool, typer.Option("--prune", help="Delete files from the store that are gone from the folders.")]
Watch = Annotated[bool, typer.Option("--watch", help="Keep running, and ingest files when they change.")]


def ingest(
    sources: Sources,
    store: StoreName,
    prune: Prune = False,
    watch: Watch = False,
    key: KeyName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Put files into a vector store: new and changed ones. Exits with status 1 if a file cannot be read.

    Hidden files, links, binary files, and files that .gitignore excludes are skipped. An interrupted run continues.
    """
    settings = options.load_settings(config, data_dir=data_dir)
    try:
        failures = asyncio.run(_ingest(settings, sources, store, key, prunes=prune, watches=watch, prints_json=as_json))
    except FileNotFoundError as error:
        exit_with_error(f"{error.filename} does not exist", 2)
    except KeyboardInterrupt:
        typer.echo("interrupted; the next run continues", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(1 if failures else 0)


async def _ingest(
    settings: "Settings",
    sources: Sequence[Path],
    store_name: str,
    key: str | None,
    *,
    prunes: bool,
    watches: bool,
    prints_json: bool,
) -> int:
    from ..memory.ingestion import Ingestion, open_or_create_store  # noqa: PLC0415 - slow, `--help` does not need it

    for source in sources:
        source.resolve(strict=True)
    owner = await memory_options.resolve_owner(settings, key)
    async with memory_options.open_database(settings, creates=True) as memory:
        ingestion = Ingestion(memory, owner, await open_or_create_store(memory, owner, store_name))
        state = _read_state(sources) if watches else None
        summary = await _run_once(ingestion, sources, prunes=prunes, prints_json=prints_json)
        if watches:
            typer.echo("watching for changes; Ctrl-C ends it", err=True)
        while watches:
            await asyncio.sleep(WATCH_INTERVAL)
            previous, state = state, await asyncio.to_thread(_read_state, sources)
            if state != previous:
                summary = await _run_once(ingestion, sources, prunes=prunes, prints_json=prints_json)
    return len(summary.failed)


def _read_state(sources: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Return modification time and size of each file to ingest."""
    from ..memory import file_discovery  # noqa: PLC0415

    state: dict[Path, tuple[int, int]] = {}
    for file in file_discovery.find_files(sources):
        with suppress(FileNotFoundError):  # deleted meanwhile
            status = file.path.stat()
            state[file.path] = status.st_mtime_ns, status.st_size
    return state


async def _run_once(
    ingestion: "Ingestion", sources: Sequence[Path], *, prunes: bool, prints_json: bool
) -> "IngestSummary":
    start = perf_counter()
    with _show_progress(is_shown=not prints_json and sys.stderr.isatty()) as progress:
        task = None if progress is None else progress.add_task("", total=None)

        def on_progress(done: int, total: int, name: str) -> None:
            if progress is not None and task is not None:
                progress.update(task, completed=done, total=total, name=_shorten(name))

        summary = await ingestion.run(sources, prunes=prunes, on_progress=on_progress)
    seconds = perf_counter() - start
    if prints_json:
        options.print_json(asdict(summary) | {"seconds": round(seconds, 3)})
        return summary
    for path, reason in summary.failed.items():
        typer.echo(f"skipped {path}: {reason}", err=True)
    if any(NEEDS_EXTRA in reason for reason in summary.failed.values()):
        typer.echo(f"install the extra: {describe_install('memory')}", err=True)
    typer.echo(_format_summary(summary, seconds))
    return summary


def _show_progress(*, is_shown: bool) -> "AbstractContextManager[Progress | None]":
    if not is_shown:
        return nullcontext()
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    name = TextColumn("{task.fields[name]}", markup=False)
    return Progress(*columns, name, console=Console(stderr=True), transient=True)


def _shorten(name: str, limit: int = 50) -> str:
    return name if len(name) <= limit else f"…{name[-limit + 1 :]}"


def _format_summary(summary: "IngestSummary", seconds: float) -> str:
    counts = {
        "added": summary.added,
        "replaced": summary.replaced,
        "unchanged": summary.unchanged,
        "duplicates": summary.duplicates,
        "removed": summary.removed,
        "not text": summary.not_text,
        "failed": len(summary.failed),
    }
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    size = f"; {summary.chunks:,} new passages" if summary.chunks else ""
    return f"{summary.store_name}: {parts or 'no files'}{size} ({seconds:.1f} s)"
