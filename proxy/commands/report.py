"""The command `clara-proxy report`: tokens received, sent, saved and billed, from the ledger."""

import asyncio
import sys
from typing import Annotated

import typer

from . import options
from .options import AsJson, Config, DataDir, Since, exit_with_error

GROUPING_NAMES = "model, day, mode, tool, kind, project, session, user, key, protocol, outcome, all, tag or tag:NAME"
By = Annotated[str, typer.Option(help=f"One row per {GROUPING_NAMES}.")]
Format = Annotated[str, typer.Option("--format", help="table, json, csv, md or html.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Print all columns and full labels, even if the terminal is narrow.")
]


def report(
    since: Since = "30d",
    by: By = "model",
    format: Format = "table",  # noqa: A002
    as_json: AsJson = False,
    wide: Wide = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print tokens received, sent, saved and billed."""
    settings = options.load_settings(config, data_dir=data_dir)
    from ..reports.ledger_report import get_terminal_width, render_savings  # noqa: PLC0415

    format = "json" if as_json else format  # noqa: A001
    width = None if wide else get_terminal_width(sys.stdout)
    folder = settings.data_dir.expanduser()
    try:
        typer.echo(asyncio.run(render_savings(folder, since, by, format, settings.ledger_url, width=width)), nl=False)
    except ValueError as error:
        exit_with_error(str(error), 2)
