"""The command `clara-proxy report`: what was received, sent, saved and billed."""

import asyncio
import sys
from typing import Annotated

import typer

from . import options
from .options import Config, DataDir, exit_with_error

GROUPING_NAMES = "model, day, mode, tool, kind, project, session, user, key, protocol, outcome, all, tag or tag:NAME"
Since = Annotated[str, typer.Option(help="7d, 24h, 30m or a date.")]
By = Annotated[str, typer.Option(help=f"{GROUPING_NAMES}.")]
Format = Annotated[str, typer.Option("--format", help="table, json, csv, md or html.")]
Wide = Annotated[bool, typer.Option("--wide", help="All columns and whole labels, also where a terminal is narrower.")]


def report(
    since: Since = "30d",
    by: By = "model",
    format: Format = "table",  # noqa: A002
    wide: Wide = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Show what was received, sent, saved and billed."""
    chosen = options.load_settings(config, data_dir=data_dir)
    from ..reports.savings import get_terminal_width, render_savings  # noqa: PLC0415

    width = None if wide else get_terminal_width(sys.stdout)
    folder = chosen.data_dir.expanduser()
    try:
        typer.echo(asyncio.run(render_savings(folder, since, by, format, chosen.ledger_url, width=width)), nl=False)
    except ValueError as error:
        exit_with_error(str(error), 2)
