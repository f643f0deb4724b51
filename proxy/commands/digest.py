"""The command `clara-proxy digest`: a summary of the savings as one HTML page."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import Config, DataDir, Since, exit_with_error

Out = Annotated[Path | None, typer.Option(help="Output file. Default: standard output.", show_default=False)]


def digest(since: Since = "7d", out: Out = None, data_dir: DataDir = None, config: Config = None) -> None:
    """Write a summary of the savings as one HTML page."""
    settings = options.load_settings(config, data_dir=data_dir)
    url = options.locate_ledger(settings)
    try:
        page = asyncio.run(_render_digest(url, since))
        if out is not None:
            out.write_text(page, encoding="utf-8")
    except (ValueError, OSError) as error:
        exit_with_error(str(error), 2)
    typer.echo(f"written to {out}" if out is not None else page, nl=out is not None)


async def _render_digest(url: str, since: str) -> str:
    from ..reports import digest_page, render  # noqa: PLC0415
    from ..reports.ledger_report import map_ledger_errors  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    now = time.time()
    start = render.parse_since(since, now)
    with map_ledger_errors(url):
        async with Ledger(url) as ledger:
            return digest_page.render_page(await digest_page.load_digest(ledger, start, now))
