"""Totals of the ledger as a table, JSON, CSV, Markdown or HTML, and the spans of time they are asked for.

It adds up no rows (the ledger does) and knows no terminal; all but `run` is pure. What stands in the cells is said in
`report_cells`, and what of it a narrow table shows in `report_table`.
"""

import csv
import io
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html import escape

import orjson

from ..stores.ledger import Ledger, TotalValue
from ..stores.ledger_totals import compute_drifts
from . import agreement
from .columns import COLUMNS, TotalMapping, format_cell, format_footnote, format_label, summarize_total
from .html_page import render_document
from .text_table import render_table

FORMATS = ("table", "json", "csv", "md", "html")
# Shares and averages: they have no sum.
_NOT_SUMMED = frozenset({"group", "saved_percent", "latency_ms", "overhead_ms", "drift", "drift_estimated"})
_SPAN_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def build_report(url: str, span: str, by: str, fmt: str, width: int | None = None) -> str:
    """Report on the ledger at `url` from `span` (see `since`) on; ValueError when an argument makes no sense.

    A table is as wide as its figures need, or `width` columns at most, if that is said.
    """
    render_report([], fmt)  # an unknown format is refused before a ledger is made
    start = parse_since(span, time.time())
    async with Ledger(url) as ledger:
        groups = await ledger.read_totals(by, start)
        total = await ledger.read_totals("all", start)
        checked = await agreement.read_agreement(ledger, start)
        lost = await ledger.count_lost_rows()
    notes = [summarize_total(total[0] if total else {})]
    notes += [agreement.format_agreement(checked)] if checked is not None else []
    notes += [f"{lost:,} rows were lost since this ledger began: their requests are in no figure here."] if lost else []
    return render_report(groups, fmt, total[0] if total else None, notes=notes, width=width)


def render_report(
    groups: Sequence[TotalMapping],
    fmt: str,
    total: TotalMapping | None = None,
    *,
    notes: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Write totals down in a format of `FORMATS`, one line a group and one for all; ValueError for another format.

    `total` is the line for all, as `Ledger.totals("all")` gives it. Without it the groups are added up, which is right
    where no request is in two of them (not by tool or by tag). A sum is unknown only where every part is; beside the
    cost stands the number of requests that had no price, so that it can be seen what the cost leaves out. `notes` are
    sentences below, where people read it; `width` is how wide a table may be.
    """
    lines = [_add_percentages(group) for group in groups]
    last = _add_percentages({**(sum_groups(groups) if total is None else total), "group": "total"})
    if fmt == "table":
        return render_table(lines, last, width) + "".join(f"\n{note}" for note in notes) + "\n" * bool(notes)
    if fmt == "json":
        return orjson.dumps({"groups": lines, "total": last}, option=orjson.OPT_INDENT_2).decode() + "\n"
    if fmt == "csv":
        return _render_csv([*lines, last])
    notes = [note for note in (format_footnote(last), *notes) if note]
    if fmt == "md":
        return _render_markdown([*lines, last]) + "".join(f"\n{_escape_markdown(note)}\n" for note in notes)
    if fmt == "html":
        return _render_html([*lines, last], notes)
    raise ValueError(f"a report is one of {', '.join(FORMATS)}, not {fmt!r}")


def sum_groups(groups: Sequence[TotalMapping]) -> dict[str, TotalValue]:
    """Add groups up, figure by figure; a sum is None when nothing is known of it in any group."""
    total: dict[str, TotalValue] = {}
    for group in groups:
        for name, figure in group.items():
            if name not in _NOT_SUMMED and not isinstance(figure, str):
                before = total.get(name)
                total[name] = figure if not isinstance(before, int | float) else before + (figure or 0)
    return total


def parse_since(text: str, now: float) -> float:
    """Read `30m`, `24h`, `7d`, `2w` (before `now`) or an ISO date or time (UTC unless it says otherwise).

    Both `now` and the answer are Unix seconds. Raises ValueError with what was expected.
    """
    text = text.strip()
    span = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    if span is not None:
        return now - timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])}).total_seconds()
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"a time is 30m, 24h, 7d, 2w or a date as in 2026-11-30, not {text[:40]!r}") from None


def _add_percentages(group: TotalMapping) -> dict[str, TotalValue]:
    received, saved = group.get("received"), group.get("saved")
    known = dict(group)
    if isinstance(received, int | float) and isinstance(saved, int | float):
        known["saved_percent"] = 100.0 * saved / received if received else None
    if "drift_sent" in group:
        known |= compute_drifts(group)
        for name in ("drift", "drift_estimated"):
            share = known[name]
            known[f"{name}_percent"] = 100.0 * share if isinstance(share, float) else None
    return known


def _render_csv(lines: Sequence[TotalMapping]) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["group", *COLUMNS.values()])
    writer.writerows([escape_formula(str(line.get("group") or "")), *map(line.get, COLUMNS.values())] for line in lines)
    return page.getvalue()


def escape_formula(text: str) -> str:
    """Return a label as a spreadsheet may have it."""
    # A spreadsheet would run a label that begins like a formula.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _render_html(lines: Sequence[TotalMapping], notes: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("group", *COLUMNS))
    rows = "".join(
        f"<tr><td>{escape(format_label(line))}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in _format_cells(line))}</tr>"
        for line in lines
    )
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    body = f'<h1>clara-proxy: what was saved</h1><div class="wide"><table><tr>{head}</tr>{rows}</table></div>{below}'
    return render_document("clara-proxy: what was saved", body)


def _format_cells(line: TotalMapping) -> list[str]:
    return [format_cell(name, line) for name in COLUMNS.values()]


def _render_markdown(lines: Sequence[TotalMapping]) -> str:
    rows = [["group", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    rows += [[_escape_markdown(format_label(line)), *map(_escape_markdown, _format_cells(line))] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", text)
