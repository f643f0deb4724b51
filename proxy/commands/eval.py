"""The command `clara-proxy eval`: compares compressors on questions with known answers."""

import asyncio
import io
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import client_environment
from ...config.settings import Settings
from . import options
from .options import AsJson, Config, exit_with_error

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..evaluation.cases import Case
    from ..evaluation.methods import Compressors
    from ..evaluation.readers import Reader
    from ..evaluation.records import Record
    from ..evaluation.summary import Interval, SummaryRow

DEFAULT_VOCABULARY = "gpt-4o"
LOCAL_READER = "clara"
Data = Annotated[
    list[Path],
    typer.Argument(
        help="Files of JSON lines with question, document and answer, plain or gzipped.", show_default=False
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(help="Methods, separated by commas: full, extract, bm25, head-tail, ... Default: all that work here."),
]
Ratios = Annotated[str, typer.Option(help="Compression ratios, separated by commas.")]
ReaderUrl = Annotated[
    str | None,
    typer.Option(
        help="Base URL of the reader, an OpenAI-compatible endpoint. Default: OPENAI_BASE_URL, else OpenAI.",
        show_default=False,
    ),
]
ReaderModel = Annotated[
    str | None,
    typer.Option(
        help="Model that answers the questions; clara is the local CLaRa. Default: no reader.", show_default=False
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Maximum number of questions of each file.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Random seed of the sample that --limit takes.")]
Out = Annotated[Path, typer.Option(help="Output directory. An unfinished evaluation found there is resumed.")]
Concurrency = Annotated[
    int, typer.Option(min=1, help="Questions at the same time. More than 1 makes the seconds less exact.")
]


def evaluate(
    data: Data,
    methods: Methods = None,
    ratios: Ratios = "2,4,10,16",
    reader_url: ReaderUrl = None,
    reader_model: ReaderModel = None,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = Path("clara-evaluation"),
    concurrency: Concurrency = 1,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Compare compressors on questions with known answers: tokens, answers kept, and a reader's scores.

    Baselines of equal size are measured beside them: BM25 passages, and the beginning and end of the text.
    """
    settings = options.load_settings(config)
    from ...compression.models.errors import ModelError  # noqa: PLC0415 - slow, and `--help` does not need it
    from ..evaluation.cases import EvaluationDataError, read_cases  # noqa: PLC0415
    from ..evaluation.plot import draw_plot  # noqa: PLC0415
    from ..evaluation.readers import ReaderError  # noqa: PLC0415
    from ..evaluation.summary import summarise  # noqa: PLC0415

    try:
        cases = [case for path in data for case in read_cases(path, limit, seed)]
        sizes = _parse_ratios(ratios)
        out.mkdir(parents=True, exist_ok=True)
        records = asyncio.run(
            _measure(settings, cases, (methods, sizes), (reader_url, reader_model), (out, concurrency))
        )
    except (EvaluationDataError, OSError) as error:
        exit_with_error(str(error), 2)
    except (ReaderError, ModelError) as error:
        exit_with_error(f"{error}; run the same command again to resume", 1)
    except KeyboardInterrupt:
        exit_with_error(f"interrupted; run the same command again to resume from {out}", 130)
    rows = summarise(records)
    plot = out / "plot.svg"
    plot.write_text(draw_plot(rows), encoding="utf-8")
    if as_json:
        options.print_json([_to_json(row) for row in rows])
        return
    typer.echo(format_table(rows))
    typer.echo(f"Records: {out / 'records.jsonl'}. Plot: {plot}.")


def _parse_ratios(text: str) -> list[float]:
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError:
        ratios = [0.0]
    if not all(1 < ratio <= 1000 for ratio in ratios):
        exit_with_error(f"invalid ratios {text!r} (--ratios): use numbers above 1, such as 2,4,10", 2)
    return sorted(set(ratios))


async def _measure(
    settings: Settings,
    cases: "Sequence[Case]",
    method_options: tuple[str | None, list[float]],
    reader_options: tuple[str | None, str | None],
    run_options: tuple[Path, int],
) -> "list[Record]":
    """Measure missing records; return all records of these cases, of earlier runs with other models, too."""
    from ...compression.tokens import get_token_counter  # noqa: PLC0415
    from ..evaluation.methods import open_compressors  # noqa: PLC0415
    from ..evaluation.records import RecordFile  # noqa: PLC0415
    from ..evaluation.runner import Evaluation  # noqa: PLC0415

    (names, ratios), (out, concurrency) = method_options, run_options
    async with AsyncExitStack() as stack:
        compressors = await stack.enter_async_context(open_compressors(settings))
        evaluation = Evaluation(
            compressors,
            compressors.list_methods(_parse_methods(names, compressors), ratios),
            await _open_reader(settings, compressors, reader_options, stack),
            get_token_counter(reader_options[1] or DEFAULT_VOCABULARY),
            RecordFile(out / "records.jsonl"),
            version("clara-proxy"),
            concurrency,
        )
        with _show_progress() as progress:
            task = progress.add_task("questions", total=len(cases))
            await evaluation.run(cases, lambda: progress.advance(task))
        return evaluation.select_records(cases)


def _parse_methods(text: str | None, compressors: "Compressors") -> list[str]:
    names = compressors.names if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in compressors.names:
            exit_with_error(f"unknown method {name!r} (--methods); available: {', '.join(compressors.names)}", 2)
    return names


async def _open_reader(
    settings: Settings,
    compressors: "Compressors",
    reader_options: tuple[str | None, str | None],
    stack: AsyncExitStack,
) -> "Reader | None":
    from ..evaluation.readers import ClaraReader, EndpointReader  # noqa: PLC0415
    from ..http.upstream import Upstream  # noqa: PLC0415

    url, model = reader_options
    if model is None:
        if url is not None:
            exit_with_error("--reader-url needs the name of a model: --reader-model NAME", 2)
        return None
    if url is None and model == LOCAL_READER:
        if compressors.clara is None:
            exit_with_error("the reader clara needs a CLaRa model: install the extra [clara], or set CLARA_MODEL", 2)
        return ClaraReader(compressors.clara, settings.clara_timeout)
    default = client_environment.read_client_upstreams().get("upstream_base_url", client_environment.OPENAI_DEFAULT_URL)
    url = url or default
    upstream = Upstream(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        decompress=True,
        proxy=settings.upstream_proxy,
    )
    stack.push_async_callback(upstream.close)
    return EndpointReader(upstream, url, model, client_environment.read_openai_key(url))


def _show_progress() -> "Progress":
    """Return a progress bar on standard error; without a terminal, it prints its last state only."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def format_table(rows: "Sequence[SummaryRow]") -> str:
    """Return the rows as a table for each data file, with notes."""
    return "\n".join(
        _format_data_table([row for row in rows if row.data == data])
        for data in dict.fromkeys(row.data for row in rows)
    )


def _format_data_table(rows: "Sequence[SummaryRow]") -> str:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("method", "ratio"):
        table.add_column(heading, no_wrap=True)
    has_reader = any(row.f1 is not None for row in rows)
    scores = ("EM", "F1", "F1 vs full") if has_reader else ()
    for heading in ("tokens", "share", "answers kept", *scores, "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        intervals = (row.em, row.f1, row.f1_difference) if has_reader else ()
        table.add_row(
            f"{row.method} ({row.model})" if row.model else row.method,
            f"{row.ratio:g}x" if row.ratio else "",
            f"{row.tokens:,.0f}",
            f"{row.share:.1%}",
            _format_interval(row.kept),
            *(_format_interval(interval, is_signed=interval is row.f1_difference) for interval in intervals),
            f"{row.compress_seconds + row.reader_seconds:.3f}",
        )
    output = io.StringIO()
    Console(file=output, width=1_000, markup=False, highlight=False, color_system=None).print(table)
    lines = [line.rstrip() for line in output.getvalue().splitlines() if line.strip()]
    count = max(row.questions for row in rows)
    heading = f"{rows[0].data}: {count} question{'s' if count != 1 else ''}, intervals of 95 %"
    return "\n".join([heading, *lines, *_format_notes(rows), ""])


def _format_interval(interval: "Interval | None", *, is_signed: bool = False) -> str:
    if interval is None:
        return ""
    sign = "+" if is_signed else ""
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.mean:{sign}.1f} [{low:{sign}.0f}, {high:{sign}.0f}]"


def _format_notes(rows: "Sequence[SummaryRow]") -> list[str]:
    notes: list[str] = []
    for row in rows:
        name = f"{row.method} {row.ratio:g}x" if row.ratio else row.method
        if row.reasons:
            counts = ", ".join(f"{reason} {count}" for reason, count in row.reasons.items())
            notes.append(f"{name}: {sum(row.reasons.values())} texts unchanged ({counts})")
        if row.errors:
            notes.append(f"{name}: the reader refused {row.errors} texts; they count as wrong answers")
    return notes


def _to_json(row: "SummaryRow") -> dict[str, object]:
    fields = asdict(row)
    for name in ("kept", "em", "f1", "f1_difference"):
        interval = getattr(row, name)
        fields[name] = None if interval is None else interval._asdict()
    return fields
