"""The command line of the originals: `clara-proxy originals list`, `show` and `purge`. For whoever runs the proxy."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ...config.settings import Settings
from ..stores.originals import Originals, OriginalsError, cut_excerpt
from ..stores.originals_store import EntryInfo
from . import options
from .options import Config, DataDir, exit_with_error

app = typer.Typer(help="The passages that were replaced: what is kept, for whom, until when.", no_args_is_help=True)
Owner = Annotated[str | None, typer.Option(help="Only what this owner stored: the hash of a key.", show_default=False)]
Result = TypeVar("Result")
NOTE_PREFIX = "~"  # before the names of what `Originals.remember` keeps


@app.command("list")
def list_originals(
    owner: Owner = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List what is kept, those first that are kept longest: name, owner, bytes as stored, expiry (UTC)."""
    held = _run_with_originals(
        options.load_settings(config, data_dir=data_dir), lambda kept: _read_entries(kept, owner, limit)
    )
    for entry in held:
        until = datetime.fromtimestamp(entry.expires, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
        typer.echo(f"{entry.name}  {entry.owner}  {entry.size:,} bytes, until {until}")
    if not held:
        typer.echo("nothing is kept", err=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The hash that stands in the marker.")],
    query: Annotated[str | None, typer.Option(help="Only the lines about this.", show_default=False)] = None,
    lines: Annotated[str | None, typer.Option(help="Only these lines, as 10-20.", show_default=False)] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print an original."""
    text = _run_with_originals(
        options.load_settings(config, data_dir=data_dir), lambda kept: _find_original(kept, name)
    )
    if text is None:
        exit_with_error(f"there is no original {name}", 1)
    try:
        typer.echo(cut_excerpt(text, query, lines))
    except ValueError as error:
        exit_with_error(str(error), 2)


@app.command()
def purge(
    owner: Owner = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what was promised for longer.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Wipe what has expired; with --all or --owner also what has not, so that markers out there lead nowhere."""
    chosen = options.load_settings(config, data_dir=data_dir)
    if not (everything or owner):
        typer.echo(f"{_run_with_originals(chosen, lambda kept: kept.delete_expired()):,} wiped")
        return
    typer.echo("What clients were promised goes too; it is stored anew when it is next shortened.", err=True)
    if not yes and not typer.confirm("Wipe?"):
        raise typer.Exit(1)
    typer.echo(f"{_run_with_originals(chosen, lambda kept: kept.delete_all(owner)):,} wiped")


async def _read_entries(kept: Originals, owner: str | None, limit: int) -> list[EntryInfo]:
    """Return at most so many originals; beside them the store has notes of the proxy's own, which nobody can fetch."""
    asked = limit
    while True:
        held = await kept.list_entries(owner, limit=asked)
        found = [entry for entry in held if not entry.name.startswith(NOTE_PREFIX)]
        if len(found) >= limit or len(held) < asked:
            return found[:limit]
        asked *= 4


async def _find_original(kept: Originals, name: str) -> str | None:
    for entry in await kept.list_entries(name=name, limit=1):
        return await kept.get(entry.owner, name)
    return None


def _run_with_originals(chosen: Settings, work: Callable[[Originals], Awaitable[Result]]) -> Result:
    async def done() -> Result:
        kept = _create_originals(chosen)
        await kept.start()
        try:
            return await work(kept)
        finally:
            await kept.stop()

    try:
        return asyncio.run(done())
    except OriginalsError as error:
        exit_with_error(str(error), 1)


def _create_originals(chosen: Settings) -> Originals:
    where = chosen.originals_url or chosen.data_dir.expanduser() / "originals.sqlite3"
    if isinstance(where, Path) and not where.exists():
        exit_with_error(
            f"there are no originals in {where.parent}; has the proxy been run with this data directory?", 2
        )
    return Originals(where, chosen.originals_ttl, time.time, encryption_keys=chosen.originals_key)
