"""The command `clara-proxy show`: one request as the dashboard shows it, for those who have no browser at hand.

It adds nothing up and renews no text's expiry. What clients chose and what conversations held is printed as characters
that move no cursor.
"""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .options import Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ...config.settings import Settings
    from ..dashboard.side_by_side import Comparison
    from ..stores.contents import PassageTexts
    from ..stores.ledger_row import Row

LAST = "last"
RequestId = Annotated[str, typer.Argument(help="The x-clara-request-id of its answer, or `last`.", metavar="REQUEST")]
_LABEL_COLUMNS = ("project", "user", "session", "key")


def show(
    request: RequestId,
    figures: Annotated[bool, typer.Option("--figures", help="No texts, also where they were kept.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Show one request: tokens, dollars, each passage with its size or its reason, and texts where they were kept."""
    from ..reports.savings import locate_ledger, map_ledger_errors  # noqa: PLC0415
    from ..stores.originals import OriginalsError  # noqa: PLC0415

    chosen = options.load_settings(config, data_dir=data_dir)
    try:
        url = locate_ledger(chosen.data_dir.expanduser(), chosen.ledger_url)
        with map_ledger_errors(url):
            row = asyncio.run(_read_row(url, request))
    except ValueError as error:
        exit_with_error(str(error), 2)
    if row is None:
        exit_with_error(f"there is no request {request} in the ledger (any more)", 1)
    texts, why = dict[int, "PassageTexts"](), ""
    try:
        texts = {} if figures else asyncio.run(_read_texts(chosen, row.id))
    except OriginalsError as error:
        why = str(error)
    for line in _format_request(row, texts):
        typer.echo(line)
    if why:
        exit_with_error(f"the texts cannot be read: {why}", 1)


async def _read_row(url: str, request: str) -> "Row | None":
    from ..stores import ledger_queries  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    async with Ledger(url) as ledger:
        if request != LAST:
            return await ledger_queries.find_row(ledger, request)
        return next(iter(await ledger.read_newest_rows(limit=1)), None)


async def _read_texts(chosen: "Settings", request: str) -> "dict[int, PassageTexts]":
    """Return what was kept of a request's passages, by their place. Raises OriginalsError."""
    from ..stores.contents import ContentStore  # noqa: PLC0415
    from ..stores.originals import Originals  # noqa: PLC0415

    where = chosen.originals_url or chosen.data_dir.expanduser() / "originals.sqlite3"
    if isinstance(where, Path) and not where.exists():
        return {}
    originals = Originals(where, chosen.originals_ttl, encryption_keys=chosen.originals_key)
    await originals.start()
    try:
        contents = ContentStore(originals)
        found = {at: await contents.read_texts(request, at) for at in sorted(await contents.list_positions(request))}
    finally:
        await originals.stop()
    return {at: texts for at, texts in found.items() if texts is not None}


def _format_request(row: "Row", texts: "Mapping[int, PassageTexts]") -> Iterator[str]:
    from ..dashboard.row_json import serialize_row  # noqa: PLC0415

    known = serialize_row(row)
    yield from _format_figures(row, known)
    for at, passage in enumerate(known["passages"]):
        yield from ("", _format_passage(passage))
        if at in texts:
            yield from _format_comparison(texts[at])
    if not texts and any(passage["after"] < passage["before"] for passage in known["passages"]):
        yield from ("", "Texts: none here. CLARA_KEEP_CONTENT=passages keeps them, until they expire.")


def _format_figures(row: "Row", known: Mapping[str, Any]) -> Iterator[str]:
    way = known["steps"]
    asked = "" if row.mode_asked == row.mode_used else f" (asked for {row.mode_asked})"
    at = datetime.fromtimestamp(row.at, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    streamed = ", streamed" if row.streamed else ""
    yield _replace_unprintable(f"{row.id}  {at} UTC  {row.model or '(no model)'}  {row.path}{streamed}")
    yield f"mode      {row.mode_used}{asked}; outcome {row.outcome}, status {row.status}"
    added = f" + {way['added']:,} added" if way["added"] else ""
    yield f"tokens    {way['received']:,} received - {way['left_out']:,} left out{added} = {way['sent']:,} sent"
    if row.would_send is not None:
        yield f"          {row.tokens_received - row.would_send:,} would have been saved, had it not only been observed"
    yield f"billed    {_format_bill(row)}"
    parts = (("without us", row.cost_without), ("paid", row.cost), ("net saved", row.saved_cost))
    yield f"dollars   {'; '.join(f'{name} {_format_dollars(amount)}' for name, amount in parts)}"
    yield f"took      {row.latency_ms:,.1f} ms, {row.overhead_ms:,.1f} of it ours"
    labels = [f"{name} {getattr(row, name)}" for name in _LABEL_COLUMNS if getattr(row, name)]
    labels += [f"{name}={value}" for name, value in known["tags"].items()]
    if labels:
        yield _replace_unprintable(f"labels    {', '.join(labels)}")
    if row.shadow_of:
        yield f"shadow    compared with {row.shadow_of}"
    if known["skipped"]:
        yield f"alone     {', '.join(f'{reason} {count:,}' for reason, count in known['skipped'].items())}"


def _format_bill(row: "Row") -> str:
    if row.billed_input is None:
        return "no bill came"
    cached = f", {row.billed_cache_read:,} of it read from the cache" if row.billed_cache_read else ""
    cached += f", {row.billed_cache_write:,} written to it" if row.billed_cache_write else ""
    output = "" if row.billed_output is None else f"; output {row.billed_output:,}"
    return f"input {row.billed_input:,}{cached}{output}"


def _format_dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"{'-' if amount < 0 else ''}${abs(amount):,.6f}"


def _format_passage(passage: Mapping[str, Any]) -> str:
    before, after = passage["before"], passage["after"]
    name = " ".join(filter(None, (passage["kind"], passage["tool"])))
    if before == after:
        return _replace_unprintable(
            f"{name}: {before:,} tokens, left alone: {passage['reason'] or 'it came out no shorter'}"
        )
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return _replace_unprintable(f"{name}: {before:,} -> {after:,} tokens{share}")


def _format_comparison(texts: "PassageTexts") -> Iterator[str]:
    from ..dashboard.side_by_side import compare_texts  # noqa: PLC0415

    if texts.question:
        yield from _prefix_lines("? ", texts.question)
    yield from _format_blocks(compare_texts(texts.before, texts.after), texts)


def _format_blocks(found: "Comparison", texts: "PassageTexts") -> Iterator[str]:
    """Write the two texts as one: `-` was left out, `+` was written, all else is in both."""
    if found.is_rewritten:  # there is no place in the one for each place in the other
        yield from _prefix_lines("- ", texts.before)
        yield from _prefix_lines("+ ", texts.after)
        return
    for block in found.blocks:
        if block.kind == "kept":
            yield from _prefix_lines("  ", block.before)
        else:
            yield from _prefix_lines("- ", block.before)
            yield from _prefix_lines("+ ", block.after)


def _prefix_lines(before: str, text: str) -> Iterator[str]:
    return (before + _replace_unprintable(line) for line in text.splitlines())


def _replace_unprintable(text: str) -> str:
    return "".join(one if one.isprintable() or one == "\t" else "?" for one in text)
