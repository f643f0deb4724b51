"""The command line of the ledger: `clara-proxy ledger export`, `verify` and `prune`."""

import asyncio
import csv
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer

from . import options
from .options import Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ..stores.ledger import Ledger

app = typer.Typer(
    help="The ledger: take it elsewhere, see whether it adds up, forget the oldest.", no_args_is_help=True
)
Since = Annotated[str, typer.Option(help="7d, 24h, 30m or a date.")]
Result = TypeVar("Result")


@app.command()
def export(
    since: Since = "30d",
    format: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",  # noqa: A002
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print every row, oldest first."""
    if format not in {"jsonl", "csv"}:
        exit_with_error(f"an export is jsonl or csv, not {format!r}", 2)
    url = _get_ledger_url(config, data_dir)
    _run_on_ledger(url, _export_rows(url, since, format))


@app.command()
def verify(data_dir: DataDir = None, config: Config = None) -> None:
    """See whether the file is whole, every row adds up, and the totals are those of the rows."""
    url = _get_ledger_url(config, data_dir)
    raise typer.Exit(_run_on_ledger(url, _verify_ledger(url)))


@app.command()
def prune(
    days: Annotated[
        int | None, typer.Option(min=1, help="Keep so many; else CLARA_LEDGER_DAYS.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Delete rows, and what they add up to, of whole days that are longer ago."""
    url = _get_ledger_url(config, data_dir)
    kept = days or options.load_settings(config).ledger_days
    if kept is None:
        exit_with_error("say how many days to keep, with --days or CLARA_LEDGER_DAYS", 2)
    typer.echo(f"{_run_on_ledger(url, _prune_ledger(url, kept)):,} rows deleted")


async def _export_rows(url: str, since: str, fmt: str) -> None:
    from ..reports.render import escape_formula  # noqa: PLC0415
    from ..reports.render import parse_since as read  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415
    from ..stores.ledger_row import Row  # noqa: PLC0415

    start = read(since, time.time())
    async with Ledger(url) as ledger:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        if fmt == "csv":
            lines.writerow(Row._fields)
        async for row in ledger.iter_rows(start):
            if fmt == "csv":
                lines.writerow([escape_formula(value) if isinstance(value, str) else value for value in row])
            else:
                sys.stdout.write(orjson.dumps(row._asdict()).decode() + "\n")


async def _verify_ledger(url: str) -> int:
    from ..reports.savings import LedgerError, map_ledger_errors  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    try:
        with map_ledger_errors(url):
            async with Ledger(url) as ledger:
                return await _print_audit(ledger)
    except LedgerError as error:
        typer.echo(f"FAIL  {error}")
        return 1


async def _print_audit(ledger: "Ledger") -> int:
    """Print what is found; return 1 if something is wrong."""
    from ..stores.ledger_audit import audit  # noqa: PLC0415

    wrong = 0
    async for finding in audit(ledger):
        typer.echo(f"{'FAIL' if finding.problem else 'ok  '}  {finding.name}: {finding.result}")
        if finding.problem:
            typer.echo(f"      -> {finding.problem}")
            wrong = 1
    if lost := await ledger.count_lost_rows():
        typer.echo(f"      {lost:,} rows were lost since this ledger began")
    return wrong


async def _prune_ledger(url: str, days: int) -> int:
    from ..stores.ledger import Ledger  # noqa: PLC0415

    async with Ledger(url) as ledger:
        return await ledger.prune(time.time() - days * 86_400)


def _run_on_ledger(url: str, work: Coroutine[Any, Any, Result]) -> Result:
    from ..reports.savings import map_ledger_errors  # noqa: PLC0415

    try:
        with map_ledger_errors(url):
            return asyncio.run(work)
    except (ValueError, OSError) as error:
        exit_with_error(str(error), 2)


def _get_ledger_url(config: Path | None, data_dir: Path | None) -> str:
    """Return where the ledger is; a file must be there already."""
    from ..reports.savings import locate_ledger  # noqa: PLC0415

    chosen = options.load_settings(config, data_dir=data_dir)
    try:
        return locate_ledger(chosen.data_dir.expanduser(), chosen.ledger_url)
    except ValueError as error:
        exit_with_error(str(error), 2)
