"""The command `clara-proxy digest`: one page about a week, to be sent to somebody."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import Config, DataDir, exit_with_error

Since = Annotated[str, typer.Option(help="7d, 24h or a date.")]
Out = Annotated[Path | None, typer.Option(help="Where the page goes; without it, to standard output.")]


def digest(since: Since = "7d", out: Out = None, data_dir: DataDir = None, config: Config = None) -> None:
    """Write one HTML page about what was saved: figures, days, models, tools, and what the figures leave out."""
    chosen = options.load_settings(config, data_dir=data_dir)
    from ..reports.savings import locate_ledger  # noqa: PLC0415

    try:
        made = asyncio.run(_render_digest(locate_ledger(chosen.data_dir.expanduser(), chosen.ledger_url), since))
        if out is not None:
            out.write_text(made, encoding="utf-8")
    except (ValueError, OSError) as error:
        exit_with_error(str(error), 2)
    typer.echo(f"written: {out}" if out is not None else made, nl=out is not None)


async def _render_digest(url: str, since: str) -> str:
    from ..reports import digest_page, render  # noqa: PLC0415
    from ..reports.savings import map_ledger_errors  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    now = time.time()
    start = render.parse_since(since, now)
    with map_ledger_errors(url):
        async with Ledger(url) as ledger:
            return digest_page.render_page(await digest_page.load_digest(ledger, start, now))
