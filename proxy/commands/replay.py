"""The command `clara-proxy replay`: the savings of recorded requests, computed without sending them."""

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
from .options import Config, Ratio, exit_with_error
from .report import By, Format, Wide

if TYPE_CHECKING:
    from ..stores.ledger import Ledger
    from .dry_run import DryRunResult

MAX_COMPLAINTS = 10  # printed in full
SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".gz"})
Recordings = Annotated[
    Path, typer.Argument(help="A file of JSON or JSON lines, plain or gzipped, or a folder of such files.")
]
Model = Annotated[str, typer.Option(help="Model of requests that name none; its vocabulary counts the tokens.")]
Mode = Annotated[
    str | None,
    typer.Option(
        help="off, auto or extract; with a CLaRa model also answer, summary or latent; with a pruner prune.",
        show_default=False,
    ),
]


@dataclass(slots=True)
class ListPriceTotals:
    """Input costs in dollars at list price, without prompt caching; `priced` and `unpriced` count requests."""

    received: float = 0.0
    sent: float = 0.0
    priced: int = 0
    unpriced: int = 0

    def add_request(self, result: "DryRunResult") -> None:
        """Add a request, unless the proxy would not have sent it."""
        row, price = result.row, prices.find_price(result.priced_as)
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
        """Return the costs as a sentence."""
        if not self.priced:
            unknown = "The cost of the input is unknown: these models have no list price."
            return unknown if self.unpriced else "No request would have been sent to a provider."
        unpriced = f" ({self.unpriced:,} without a price)" if self.unpriced else ""
        return (
            f"Input at list price, without the provider's cache: ${self.received:,.4f} received, ${self.sent:,.4f} sent"
            f"{unpriced}."
        )


@dataclass(slots=True)
class DryRunReport:
    """The result of a replay: the report, the number of requests, complaints, and skip reasons."""

    report_text: str = ""
    requests: int = 0
    complaints: list[str] = field(default_factory=list[str])
    skipped: Counter[str] = field(default_factory=Counter[str])
    list_price: ListPriceTotals = field(default_factory=ListPriceTotals)

    def add_request(self, location: str, result: "DryRunResult") -> None:
        """Add the result of a request; `location` is its file and line."""
        self.requests += 1
        self.skipped.update(orjson.loads(result.row.skipped))
        self.list_price.add_request(result)
        if result.rejection:
            self.complaints.append(f"rejected: {location}: {result.rejection}")


def replay(
    recordings: Recordings,
    by: By = "tool",
    format: Format = "table",  # noqa: A002
    wide: Wide = False,
    model: Model = "gpt-4o",
    mode: Mode = None,
    ratio: Ratio = None,
    config: Config = None,
) -> None:
    """Compress recorded requests without sending them and print the savings."""
    settings = options.load_settings(config, mode=mode, ratio=ratio)
    try:
        files = list(_find_files(recordings))
        result = asyncio.run(_run_dry_run(files, settings, by, format, model, wide=wide))
    except OSError as error:
        exit_with_error(f"cannot read {error.filename or 'the recordings'}: {error.strerror}", 2)
    except ValueError as error:
        exit_with_error(str(error), 2)
    if result.requests or format != "table":
        typer.echo(result.report_text, nl=False)
    else:
        typer.echo("No readable requests: a recording is JSON or JSON lines of request bodies.")
    for complaint in result.complaints[:MAX_COMPLAINTS]:
        typer.echo(complaint, err=True)
    if len(result.complaints) > MAX_COMPLAINTS:
        typer.echo(f"{len(result.complaints) - MAX_COMPLAINTS:,} more unreadable or rejected", err=True)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in result.skipped.most_common())
    typer.echo(f"Requests: {result.requests:,}, none of them sent. Unchanged passages: {reasons or 'none'}.", err=True)
    if not result.requests:
        raise typer.Exit(1)
    typer.echo(str(result.list_price), err=True)


async def _run_dry_run(
    files: list[Path], settings: Settings, by: str, fmt: str, model: str, *, wide: bool
) -> DryRunReport:
    from ..reports import render  # noqa: PLC0415
    from ..reports.ledger_report import get_terminal_width  # noqa: PLC0415
    from ..stores.errors import StartupError  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    render.render_report([], fmt)  # rejects an unknown format before the work
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.sqlite3"
        try:
            async with Ledger(url) as ledger:
                await ledger.read_totals(by)  # rejects an unknown grouping before the work
                result = await _play_files(files, settings, model, ledger)
        except StartupError as error:
            raise ValueError(str(error)) from None
        result.report_text = await render.build_report(
            url, "1d", by, fmt, None if wide else get_terminal_width(sys.stdout)
        )
    return result


async def _play_files(files: list[Path], settings: Settings, model: str, ledger: "Ledger") -> DryRunReport:
    from .dry_run import open_dry_run, split_recording  # noqa: PLC0415

    report = DryRunReport()
    async with open_dry_run(settings) as dry_run:
        for location, line in _iter_recordings(files):
            try:
                for request in split_recording(_parse_object(line), model):
                    result = await dry_run.run_request(request)
                    ledger.write(result.row)
                    report.add_request(location, result)
            except ValueError as error:
                report.complaints.append(f"unreadable: {location}: {error}")
    return report


def _find_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in SUFFIXES)


def _iter_recordings(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield every recording with its location; a file is one JSON text, or has one per line."""
    for file in files:
        content = file.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        try:
            value: object = orjson.loads(content)
        except orjson.JSONDecodeError:
            lines = enumerate(content.splitlines(), start=1)
            yield from ((f"{file}, line {number}", line) for number, line in lines if line.strip())
        else:
            items = value if is_array(value) else [value]
            yield from ((f"{file}, {number}", orjson.dumps(item)) for number, item in enumerate(items, start=1))


def _parse_object(line: bytes) -> Json:
    try:
        value: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not is_object(value):
        raise ValueError("not a JSON object")
    return value
