"""The commands `clara-proxy originals list`, `show` and `purge`, for the operator of the proxy."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...config.settings import Settings
from . import options
from .options import AsJson, Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ..stores.originals import Originals
    from ..stores.originals_store import EntryInfo

app = typer.Typer(
    help="Stored originals of compressed passages, and kept texts: list, show, purge.", no_args_is_help=True
)
Owner = Annotated[
    str | None, typer.Option(help="Only texts of this owner: the hash of an API key.", show_default=False)
]
Result = TypeVar("Result")
NOTE_PREFIX = "~"  # prefix of the names that `Originals.store_note` uses


@app.command("list")
def list_originals(
    owner: Owner = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of texts.")] = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List originals and kept texts, the latest expiry first: hash, owner, stored bytes, expiry (UTC)."""
    settings = options.load_settings(config, data_dir=data_dir)
    entries = _run_with_originals(settings, lambda originals: _read_entries(originals, owner, limit))
    if as_json:
        options.print_json([entry._asdict() for entry in entries])
        return
    for entry in entries:
        expiry = options.format_timestamp(entry.expires, "seconds")
        typer.echo(f"{entry.name}  {entry.owner}  {entry.size:,} bytes, until {expiry}")
    if not entries:
        typer.echo("no originals or kept texts are stored", err=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Hash in the marker.")],
    query: Annotated[str | None, typer.Option(help="Print only lines about this.", show_default=False)] = None,
    lines: Annotated[
        str | None, typer.Option(help="Print only these lines, such as 10-20.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print an original or a kept text."""
    from ..stores.originals import cut_excerpt  # noqa: PLC0415 - slow, and `--help` does not need it

    settings = options.load_settings(config, data_dir=data_dir)
    text = _run_with_originals(settings, lambda originals: _find_original(originals, name))
    if text is None:
        exit_with_error(f"there is no original {name}; it may have expired", 1)
    try:
        typer.echo(cut_excerpt(text, query, lines))
    except ValueError as error:
        exit_with_error(str(error), 2)


@app.command()
def purge(
    owner: Owner = None,
    everything: Annotated[bool, typer.Option("--all", help="Also delete texts that have not expired.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Delete expired originals. --all and --owner also delete originals that clients could still fetch back."""
    settings = options.load_settings(config, data_dir=data_dir)
    if everything or owner:
        typer.echo("Unexpired originals are deleted too. Clients can no longer fetch them back.", err=True)
        if not yes and not typer.confirm("Delete?"):
            raise typer.Exit(1)
        count = _run_with_originals(settings, lambda originals: originals.delete_all(owner))
    else:
        count = _run_with_originals(settings, lambda originals: originals.delete_expired())
    typer.echo(f"{count:,} deleted")


async def _read_entries(originals: "Originals", owner: str | None, limit: int) -> "list[EntryInfo]":
    """Return up to `limit` originals; the store also holds notes of the proxy, which are skipped."""
    batch = limit
    while True:
        stored = await originals.list_entries(owner, limit=batch)
        entries = [entry for entry in stored if not entry.name.startswith(NOTE_PREFIX)]
        if len(entries) >= limit or len(stored) < batch:
            return entries[:limit]
        batch *= 4


async def _find_original(originals: "Originals", name: str) -> str | None:
    for entry in await originals.list_entries(name=name, limit=1):
        return await originals.get(entry.owner, name)
    return None


def _run_with_originals(settings: Settings, work: "Callable[[Originals], Awaitable[Result]]") -> Result:
    from ..stores.originals import OriginalsError  # noqa: PLC0415 - slow, and `--help` does not need it

    async def run() -> Result:
        async with options.open_originals(settings) as originals:
            return await work(originals)

    try:
        return asyncio.run(run())
    except FileNotFoundError as error:
        exit_with_error(str(error), 2)
    except OriginalsError as error:
        exit_with_error(str(error), 1)
