"""The command `clara-proxy show`: one request in the terminal, as the dashboard shows it.

It does not renew the expiry of stored texts. Unprintable characters in labels and texts are replaced, so they cannot
move the cursor.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .options import AsJson, Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ...config.settings import Settings
    from ..dashboard.side_by_side import Comparison
    from ..stores.contents import PassageTexts
    from ..stores.ledger_row import Row

LAST = "last"
MISSING_TEXTS_NOTE = "No stored texts: they were not kept, or have expired. CLARA_KEEP_CONTENT=passages keeps them."
RequestId = Annotated[
    str, typer.Argument(help="The x-clara-request-id of a response, or `last` for the newest.", metavar="REQUEST")
]
_LABEL_COLUMNS = ("project", "user", "session", "key")


def show(
    request: RequestId,
    figures: Annotated[bool, typer.Option("--figures", help="Print no texts, only numbers.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print one request: tokens, dollars, passages, and their texts if they are stored. JSON has no texts."""
    from ..reports.ledger_report import map_ledger_errors  # noqa: PLC0415
    from ..stores.originals import OriginalsError  # noqa: PLC0415

    settings = options.load_settings(config, data_dir=data_dir)
    url = options.locate_ledger(settings)
    try:
        with map_ledger_errors(url):
            row = asyncio.run(_read_row(url, request))
    except ValueError as error:
        exit_with_error(str(error), 2)
    if row is None:
        exit_with_error("the ledger has no requests" if request == LAST else f"no request with the id {request}", 1)
    if as_json:
        from ..dashboard.row_json import serialize_row  # noqa: PLC0415

        options.print_json(serialize_row(row))
        return
    texts: dict[int, PassageTexts] | None = None
    problem = ""
    try:
        texts = None if figures else asyncio.run(_read_texts(settings, row.id))
    except OriginalsError as error:
        problem = str(error)
    for line in _format_request(row, texts):
        typer.echo(line)
    if problem:
        exit_with_error(f"the texts cannot be read: {problem}", 1)


async def _read_row(url: str, request: str) -> "Row | None":
    from ..stores import ledger_queries  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    async with Ledger(url) as ledger:
        if request != LAST:
            return await ledger_queries.find_row(ledger, request)
        return next(iter(await ledger.read_newest_rows(limit=1)), None)


async def _read_texts(settings: "Settings", request: str) -> "dict[int, PassageTexts]":
    """Return the stored texts of a request by passage position. Raises OriginalsError."""
    from ..stores.contents import ContentStore  # noqa: PLC0415

    try:
        async with options.open_originals(settings) as originals:
            contents = ContentStore(originals)
            positions = sorted(await contents.list_positions(request))
            texts = {position: await contents.read_texts(request, position) for position in positions}
    except FileNotFoundError:
        return {}
    return {position: text for position, text in texts.items() if text is not None}


def _format_request(row: "Row", texts: "Mapping[int, PassageTexts] | None") -> Iterator[str]:
    """Format a request with its stored texts by passage position; None if they were not read."""
    from ..dashboard.row_json import serialize_row  # noqa: PLC0415

    values = serialize_row(row)
    yield from _format_figures(row, values)
    for position, passage in enumerate(values["passages"]):
        yield from ("", _format_passage(passage))
        if texts and position in texts:
            yield from _format_comparison(texts[position])
    if texts == {} and any(passage["after"] < passage["before"] for passage in values["passages"]):
        yield from ("", MISSING_TEXTS_NOTE)


def _format_figures(row: "Row", values: Mapping[str, Any]) -> Iterator[str]:
    steps = values["steps"]
    time = options.format_timestamp(row.at, "seconds")
    streamed = ", streamed" if row.streamed else ""
    yield _replace_unprintable(f"{row.id}  {time} UTC  {row.model or '(no model)'}  {row.path}{streamed}")
    yield f"mode      {_format_mode(row)}; outcome {row.outcome}, status {row.status}"
    added = f" + {steps['added']:,} added" if steps["added"] else ""
    yield f"tokens    {steps['received']:,} received - {steps['left_out']:,} left out{added} = {steps['sent']:,} sent"
    if row.would_send is not None:
        yield f"possible  {row.tokens_received - row.would_send:,} tokens saved without observe mode"
    yield f"billed    {_format_bill(row)}"
    amounts = (("without proxy", row.cost_without), ("paid", row.cost), ("net saved", row.saved_cost))
    yield f"dollars   {'; '.join(f'{name} {_format_dollars(amount)}' for name, amount in amounts)}"
    yield f"latency   {row.latency_ms:,.1f} ms, {row.overhead_ms:,.1f} ms of it in the proxy"
    labels = [f"{name} {getattr(row, name)}" for name in _LABEL_COLUMNS if getattr(row, name)]
    labels += [f"{name}={value}" for name, value in values["tags"].items()]
    if labels:
        yield _replace_unprintable(f"labels    {', '.join(labels)}")
    if row.shadow_of:
        yield f"shadow    check of {row.shadow_of}"
    if values["skipped"]:
        yield f"unchanged {', '.join(f'{reason} {count:,}' for reason, count in values['skipped'].items())}"


def _format_mode(row: "Row") -> str:
    if row.outcome == "rejected":  # an invalid header leaves the defaults in the row
        return "unknown"
    return row.mode_used if row.mode_asked == row.mode_used else f"{row.mode_used} (requested: {row.mode_asked})"


def _format_bill(row: "Row") -> str:
    if row.billed_input is None:
        return "nothing" if row.outcome in {"served", "rejected"} else "unknown"
    cached = f", {row.billed_cache_read:,} read from the cache" if row.billed_cache_read else ""
    cached += f", {row.billed_cache_write:,} written to the cache" if row.billed_cache_write else ""
    output = "" if row.billed_output is None else f"; output {row.billed_output:,}"
    return f"input {row.billed_input:,}{cached}{output}"


def _format_dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"{'-' if amount < 0 else ''}${abs(amount):,.6f}"


def _format_passage(passage: Mapping[str, Any]) -> str:
    before, after = passage["before"], passage["after"]
    name = " ".join(filter(None, (passage["kind"], passage["tool"])))
    if before == after:
        text = f"{name}: {before:,} tokens, unchanged: {passage['reason'] or 'no-gain'}"
    else:
        share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
        text = f"{name}: {before:,} -> {after:,} tokens{share}"
    return _replace_unprintable(text)


def _format_comparison(texts: "PassageTexts") -> Iterator[str]:
    from ..dashboard.side_by_side import compare_texts  # noqa: PLC0415

    if texts.question:
        yield from _prefix_lines("? ", texts.question)
    yield from _format_blocks(compare_texts(texts.before, texts.after), texts)


def _format_blocks(comparison: "Comparison", texts: "PassageTexts") -> Iterator[str]:
    """Format two texts as a diff: `-` lines were left out, `+` lines were written, the rest is verbatim."""
    if comparison.is_rewritten:  # its lines have no counterparts
        yield from _prefix_lines("- ", texts.before)
        yield from _prefix_lines("+ ", texts.after)
        return
    for block in comparison.blocks:
        if block.kind == "kept":
            yield from _prefix_lines("  ", block.before)
        else:
            yield from _prefix_lines("- ", block.before)
            yield from _prefix_lines("+ ", block.after)


def _prefix_lines(prefix: str, text: str) -> Iterator[str]:
    return (prefix + _replace_unprintable(line) for line in text.splitlines())


def _replace_unprintable(text: str) -> str:
    return "".join(character if character.isprintable() or character == "\t" else "?" for character in text)
