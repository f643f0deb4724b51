"""Totals of the ledger as a table, JSON, CSV, Markdown or HTML, and the spans of time they are asked for.

It adds up no rows (the ledger does) and knows no terminal; all but `run` is pure. The invariant: what is not known is
shown as unknown and never as nought, and a saving below nought is shown as it is.
"""

import csv
import io
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from . import shadows
from .html_page import document
from .ledger import Figure, Ledger
from .ledger_totals import drifts

Total = Mapping[str, Figure]

FORMATS = ("table", "json", "csv", "md", "html")
_FOR_PEOPLE = frozenset({"table", "md"})

# What a column is called, and the figure of `Ledger.totals` it shows.
_COLUMNS = {
    "requests": "requests",
    "received": "received",
    "sent": "sent",
    "saved": "saved",
    "saved %": "saved_percent",
    "billed input": "billed_input",
    "drift %": "drift_percent",
    "cached": "cache_read",
    "output": "billed_output",
    "without us $": "cost_without",
    "cost $": "cost",
    "net saved $": "saved_cost",
    "no price": "unpriced",
    "compressor s": "compressor_seconds",
    "failures": "failures",
}
_MONEY = frozenset({"cost_without", "cost", "saved_cost"})
# Shares and averages: they have no sum.
_NOT_ADDED = frozenset({"group", "saved_percent", "latency_ms", "overhead_ms", "drift", "drift_estimated"})
_SPANS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def run(url: str, span: str, by: str, fmt: str) -> str:
    """Report on the ledger at `url` from `span` (see `since`) on; ValueError when an argument makes no sense."""
    render([], fmt)  # an unknown format is refused before a ledger is made
    start = since(span, time.time())
    ledger = Ledger(url)
    await ledger.start()
    try:
        groups = await ledger.totals(by, start)
        total = await ledger.totals("all", start)
        checked = await shadows.agreement(ledger, start)
    finally:
        await ledger.stop()
    page = render(groups, fmt, total[0] if total else None)
    return f"{page}\n{shadows.told(checked)}\n" if checked is not None and fmt in _FOR_PEOPLE else page


def render(groups: Sequence[Total], fmt: str, total: Total | None = None) -> str:
    """Write totals down in a format of `FORMATS`, one line a group and one for all; ValueError for another format.

    `total` is the line for all, as `Ledger.totals("all")` gives it. Without it the groups are added up, which is right
    where no request is in two of them (not by tool or by tag). A sum is unknown only where every part is; beside the
    cost stands the number of requests that had no price, so that it can be seen what the cost leaves out.
    """
    lines = [_completed(group) for group in groups]
    last = _completed({**(added(groups) if total is None else total), "group": "total"})
    if fmt == "table":
        return _table(lines, last)
    if fmt == "json":
        return orjson.dumps({"groups": lines, "total": last}, option=orjson.OPT_INDENT_2).decode() + "\n"
    if fmt == "csv":
        return _csv([*lines, last])
    if fmt == "md":
        return _markdown([*lines, last])
    if fmt == "html":
        return _page([*lines, last])
    raise ValueError(f"a report is one of {', '.join(FORMATS)}, not {fmt!r}")


def added(groups: Sequence[Total]) -> dict[str, Figure]:
    """Add groups up, figure by figure; a sum is None when nothing is known of it in any group."""
    total: dict[str, Figure] = {}
    for group in groups:
        for name, figure in group.items():
            if name not in _NOT_ADDED and not isinstance(figure, str):
                before = total.get(name)
                total[name] = figure if not isinstance(before, int | float) else before + (figure or 0)
    return total


def since(text: str, now: float) -> float:
    """Read `30m`, `24h`, `7d`, `2w` (before `now`) or an ISO date or time (UTC unless it says otherwise).

    Both `now` and the answer are Unix seconds. Raises ValueError with what was expected.
    """
    text = text.strip()
    span = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    if span is not None:
        return now - timedelta(**{_SPANS[span[2]]: int(span[1])}).total_seconds()
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"a time is 30m, 24h, 7d, 2w or a date as in 2026-11-30, not {text[:40]!r}") from None


def _completed(group: Total) -> dict[str, Figure]:
    received, saved = group.get("received"), group.get("saved")
    known = dict(group)
    if isinstance(received, int | float) and isinstance(saved, int | float):
        known["saved_percent"] = 100.0 * saved / received if received else None
    if "drift_sent" in group:
        known |= drifts(group)
        for name in ("drift", "drift_estimated"):
            share = known[name]
            known[f"{name}_percent"] = 100.0 * share if isinstance(share, float) else None
    return known


def _cell(name: str, group: Total) -> str:
    if name not in group:
        return "-"  # cannot be told by group, as the cost by tool
    figure = group[name]
    if name == "drift_percent":
        return _drift(figure, group.get("drift_estimated_percent"))
    if isinstance(figure, str):
        return figure
    if figure is None:
        return "-" if name == "saved_percent" else "unknown"
    if name in _MONEY:
        return f"{figure:,.4f}"
    return f"{figure:,.1f}" if isinstance(figure, float) else f"{figure:,}"


def _drift(exact: Figure, estimated: Figure) -> str:
    """Show what the provider counted beyond our count; `~` where only a stand-in for its vocabulary has counted."""
    if isinstance(exact, float):
        return f"{exact:+.1f}"
    return f"~{estimated:+.1f}" if isinstance(estimated, float) else "-"


def _short(name: str, group: Total) -> str:
    figure = group.get(name)
    if not isinstance(figure, int) or abs(figure) < 1_000_000:
        return _cell(name, group)
    return f"{figure / 1e9:,.3f}G" if abs(figure) >= 1_000_000_000 else f"{figure / 1e6:,.3f}M"


def _label(group: Total) -> str:
    text = str(group.get("group") or "(none)")
    return "".join(character if character.isprintable() else "?" for character in text)  # clients choose labels


def _table(lines: Sequence[Total], last: Total) -> str:
    table = Table(show_footer=True, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("group", footer=_label(last), overflow="fold", max_width=40)
    for heading, name in _COLUMNS.items():
        footer = _short(name, last)
        table.add_column(heading.replace(" ", "\n"), footer=footer, justify="right", vertical="bottom", no_wrap=True)
    for line in lines:
        table.add_row(_label(line), *(_short(name, line) for name in _COLUMNS.values()))
    page = io.StringIO()
    # As wide as the figures need: a number cut off is a wrong number.
    Console(file=page, width=1_000, markup=False, highlight=False, color_system=None).print(table)
    return "\n".join(row.rstrip() for row in page.getvalue().split("\n"))


def _csv(lines: Sequence[Total]) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["group", *_COLUMNS.values()])
    writer.writerows([safe(str(line.get("group") or "")), *map(line.get, _COLUMNS.values())] for line in lines)
    return page.getvalue()


def safe(text: str) -> str:
    """Return a label as a spreadsheet may have it."""
    # A spreadsheet would run a label that begins like a formula.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _page(lines: Sequence[Total]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("group", *_COLUMNS))
    rows = "".join(
        f"<tr><td>{escape(_label(line))}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(line))}</tr>"
        for line in lines
    )
    body = f'<h1>clara-proxy: what was saved</h1><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    return document("clara-proxy: what was saved", body)


def _cells(line: Total) -> list[str]:
    return [_cell(name, line) for name in _COLUMNS.values()]


def _markdown(lines: Sequence[Total]) -> str:
    rows = [["group", *_COLUMNS], ["---", *["---:"] * len(_COLUMNS)]]
    rows += [
        [re.sub(r"([\\|`*_<\[\]])", r"\\\1", _label(line)), *(_cell(name, line) for name in _COLUMNS.values())]
        for line in lines
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
