"""The commands `clara-proxy ledger export`, `verify` and `prune`."""

import asyncio
import csv
import sys
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer

from . import options
from .options import Config, DataDir, Since, exit_with_error

if TYPE_CHECKING:
    from ..stores.ledger import Ledger

app = typer.Typer(help="The ledger: export, verify, prune.", no_args_is_help=True)
Result = TypeVar("Result")
SECONDS_PER_DAY = 86_400


@app.command()
def export(
    since: Since = "30d",
    format: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",  # noqa: A002
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print all rows, oldest first."""
    if format not in {"jsonl", "csv"}:
        exit_with_error(f"unknown export format {format!r}; use jsonl or csv", 2)
    url = options.locate_ledger(options.load_settings(config, data_dir=data_dir))
    _run_on_ledger(url, _export_rows(url, since, format))


@app.command()
def verify(data_dir: DataDir = None, config: Config = None) -> None:
    """Verify the database file, every row, and the totals of the rows. Exits with status 1 if a check fails."""
    url = options.locate_ledger(options.load_settings(config, data_dir=data_dir))
    raise typer.Exit(_run_on_ledger(url, _verify_ledger(url)))


@app.command()
def prune(
    days: Annotated[
        int | None, typer.Option(min=1, help="Days to keep. Default: CLARA_LEDGER_DAYS.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Delete old rows and their totals, in whole days."""
    settings = options.load_settings(config, data_dir=data_dir)
    url = options.locate_ledger(settings)
    days = days or settings.ledger_days
    if days is None:
        exit_with_error("set how many days to keep, with --days or CLARA_LEDGER_DAYS", 2)
    typer.echo(f"{_run_on_ledger(url, _prune_ledger(url, days)):,} rows deleted")


async def _export_rows(url: str, since: str, fmt: str) -> None:
    from ..reports.render import escape_formula, escape_json_controls, parse_since  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415
    from ..stores.ledger_row import Row  # noqa: PLC0415

    start = parse_since(since, time.time())
    async with Ledger(url) as ledger:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        if fmt == "csv":
            lines.writerow(Row._fields)
        async for row in ledger.iter_rows(start):
            if fmt == "csv":
                lines.writerow([escape_formula(value) if isinstance(value, str) else value for value in row])
            else:
                sys.stdout.write(escape_json_controls(orjson.dumps(row._asdict()).decode()) + "\n")


async def _verify_ledger(url: str) -> int:
    from ..reports.ledger_report import LedgerError, map_ledger_errors  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    try:
        with map_ledger_errors(url):
            async with Ledger(url) as ledger:
                return await _print_audit(ledger)
    except LedgerError as error:
        typer.echo(f"FAIL  {error}")
        return 1


async def _print_audit(ledger: "Ledger") -> int:
    """Print the findings of an audit; return 1 if there is a problem, else 0."""
    from ..stores.ledger_audit import audit  # noqa: PLC0415

    status = 0
    async for finding in audit(ledger):
        options.print_finding(finding.name, finding.result, is_ok=not finding.problem, remedy=finding.problem)
        status = 1 if finding.problem else status
    if lost := await ledger.count_lost_rows():
        typer.echo(f"      {lost:,} rows were lost since this ledger was created")
    return status


async def _prune_ledger(url: str, days: int) -> int:
    from ..stores.ledger import Ledger  # noqa: PLC0415

    async with Ledger(url) as ledger:
        return await ledger.prune(time.time() - days * SECONDS_PER_DAY)


def _run_on_ledger(url: str, work: Coroutine[Any, Any, Result]) -> Result:
    from ..reports.ledger_report import map_ledger_errors  # noqa: PLC0415

    try:
        with map_ledger_errors(url):
            return asyncio.run(work)
    except (ValueError, OSError) as error:
        exit_with_error(str(error), 2)
