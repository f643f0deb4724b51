"""The command `clara-proxy replay`: what recorded requests would have saved, with nothing sent anywhere."""

import asyncio
import gzip
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from ...config import prices
from ...config.settings import Settings
from ..protocols.json_types import Json, is_array, is_object
from . import options
from .options import Config, exit_with_error
from .report import By, Format, Wide

if TYPE_CHECKING:
    from ..stores.ledger import Ledger
    from .dry_run import DryRunResult

SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".gz"})
Recordings = Annotated[Path, typer.Argument(help="A file of JSON or JSON lines, packed with gzip or not, or a folder.")]
Model = Annotated[str, typer.Option(help="Whose vocabulary counts requests that name no model.")]
Mode = Annotated[
    str | None,
    typer.Option(help="auto, extract or off; answer, summary or latent where CLaRa is.", show_default=False),
]
Ratio = Annotated[float | None, typer.Option(help="How many times smaller.", show_default=False)]


@dataclass(slots=True)
class ListPriceTotals:
    """What prompts would cost at list price, in dollars, if no provider cached anything; `unpriced` have no price."""

    received: float = 0.0
    sent: float = 0.0
    priced: int = 0
    unpriced: int = 0

    def add_request(self, played: "DryRunResult") -> None:
        """Add a request, if it would have been sent."""
        row, price = played.row, prices.find_price(played.priced_as)
        if row.outcome != "ok":
            return
        sent = row.tokens_sent if row.would_send is None else row.would_send
        rates = [None if price is None else price.rates_for(tokens).input for tokens in (row.tokens_received, sent)]
        if rates[0] is None or rates[1] is None:
            self.unpriced += 1
            return
        self.received += row.tokens_received * rates[0]
        self.sent += sent * rates[1]
        self.priced += 1

    def __str__(self) -> str:
        """Say it in a sentence."""
        if not self.priced:
            unknown = "What the input costs is not known: these models have no list price."
            return unknown if self.unpriced else "No request would have been sent to a provider."
        unpriced = f" ({self.unpriced:,} requests have no price)" if self.unpriced else ""
        return (
            f"Input at list price, without the provider's cache: ${self.received:,.4f} received, ${self.sent:,.4f} sent"
            f"{unpriced}."
        )


@dataclass(slots=True)
class DryRunReport:
    """What a replay showed: the report, how many requests are in it, what was not read or refused, what was left."""

    report_text: str = ""
    requests: int = 0
    complaints: list[str] = field(default_factory=list[str])
    skipped: Counter[str] = field(default_factory=Counter[str])
    list_price: ListPriceTotals = field(default_factory=ListPriceTotals)

    def add_request(self, place: str, played: "DryRunResult") -> None:
        """Add what became of a request that stands at this place."""
        self.requests += 1
        self.skipped.update(orjson.loads(played.row.skipped))
        self.list_price.add_request(played)
        if played.rejection:
            self.complaints.append(f"refused: {place}: {played.rejection}")


def replay(  # noqa: PLR0913, PLR0917 - one parameter an option
    recordings: Recordings,
    by: By = "tool",
    format: Format = "table",  # noqa: A002
    wide: Wide = False,
    model: Model = "gpt-4o",
    mode: Mode = None,
    ratio: Ratio = None,
    config: Config = None,
) -> None:
    """Show what recorded requests would have saved: shortened as the proxy does it, and sent nowhere."""
    chosen = options.load_settings(config, mode=mode, ratio=ratio)
    try:
        files = list(_find_files(recordings))
        done = asyncio.run(_run_dry_run(files, chosen, by, format, model, wide=wide))
    except (OSError, ValueError) as error:
        exit_with_error(str(error), 2)
    typer.echo(done.report_text, nl=False)
    for complaint in done.complaints[:10]:
        typer.echo(complaint, err=True)
    if len(done.complaints) > 10:
        typer.echo(f"not read or refused: {len(done.complaints) - 10:,} more", err=True)
    left = ", ".join(f"{reason} {count:,}" for reason, count in done.skipped.most_common())
    typer.echo(f"{done.requests:,} requests, none of them sent. Passages left alone: {left or 'none'}.", err=True)
    if not done.requests:
        raise typer.Exit(1)
    typer.echo(str(done.list_price), err=True)


async def _run_dry_run(
    files: list[Path], chosen: Settings, by: str, fmt: str, model: str, *, wide: bool
) -> DryRunReport:
    from ..reports import render  # noqa: PLC0415
    from ..reports.savings import get_terminal_width  # noqa: PLC0415
    from ..stores.errors import StartupError  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    render.render_report([], fmt)  # what cannot be shown is refused before anything is done
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.sqlite3"
        try:
            async with Ledger(url) as ledger:
                await ledger.read_totals(by)  # an unknown grouping, too
                done = await _play_files(files, chosen, model, ledger)
        except StartupError as error:
            raise ValueError(str(error)) from None
        done.report_text = await render.build_report(
            url, "1d", by, fmt, None if wide else get_terminal_width(sys.stdout)
        )
    return done


async def _play_files(files: list[Path], chosen: Settings, model: str, ledger: "Ledger") -> DryRunReport:
    from .dry_run import open_dry_run, split_recording  # noqa: PLC0415

    done = DryRunReport()
    async with open_dry_run(chosen) as stage:
        for place, line in _iter_recordings(files):
            try:
                for request in split_recording(_parse_object(line), model):
                    played = await stage.run_request(request)
                    ledger.write(played.row)
                    done.add_request(place, played)
            except ValueError as error:
                done.complaints.append(f"not read: {place}: {error}")
    return done


def _find_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in SUFFIXES)


def _iter_recordings(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield every recording, with the place where it stands: a file is one JSON text, or one a line."""
    for file in files:
        content = file.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        try:
            whole: object = orjson.loads(content)
        except orjson.JSONDecodeError:
            lines = enumerate(content.splitlines(), start=1)
            yield from ((f"{file}, line {number}", line) for number, line in lines if line.strip())
        else:
            listed = whole if is_array(whole) else [whole]
            yield from ((f"{file}, {number}", orjson.dumps(one)) for number, one in enumerate(listed, start=1))


def _parse_object(line: bytes) -> Json:
    try:
        found: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not is_object(found):
        raise ValueError("not a JSON object")
    return found
