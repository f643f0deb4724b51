"""Reports: totals of the ledger as a table, JSON, CSV, Markdown or HTML.

`columns` formats the cells, and `text_table` chooses the columns of a narrow table. Only `build_report` reads a ledger.
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
from .columns import (
    COLUMNS,
    TotalMapping,
    describe_details,
    format_cell,
    format_footnote,
    format_label,
    summarize_total,
)
from .html_page import render_document
from .text_table import render_table

FORMATS = ("table", "json", "csv", "md", "html")
# Shares and averages have no sum.
_NOT_SUMMED = frozenset({"group", "saved_percent", "latency_ms", "overhead_ms", "drift", "drift_estimated"})
_TITLE = "clara-proxy: savings"
_SPAN_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_JSON_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


async def build_report(url: str, span: str, by: str, fmt: str, width: int | None = None) -> str:
    """Return a report on the ledger at `url` from `span` (see `parse_since`) on.

    `width` limits the width of a table. Raises ValueError for an invalid argument.
    """
    render_report([], fmt)  # rejects an unknown format before a ledger is created
    start = parse_since(span, time.time())
    async with Ledger(url) as ledger:
        groups = await ledger.read_totals(by, start)
        total = await ledger.read_totals("all", start)
        results = await agreement.read_agreement(ledger, start)
        lost = await ledger.count_lost_rows()
    notes = [summarize_total(total[0] if total else {}), *describe_details(total[0] if total else {})]
    notes += [agreement.format_agreement(results)] if results is not None else []
    notes += (
        [f"{lost:,} rows were lost since this ledger was created; the report does not include them."] if lost else []
    )
    return render_report(groups, fmt, total[0] if total else None, notes=notes, width=width)


def render_report(
    groups: Sequence[TotalMapping],
    fmt: str,
    total: TotalMapping | None = None,
    *,
    notes: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Return totals in a format of `FORMATS`, one line per group and a last line for all.

    Args:
        groups: the totals of the groups.
        fmt: one of `FORMATS`; anything else raises ValueError.
        total: the last line, from `Ledger.read_totals("all")`. By default the groups are added up, which is only right
            if no request is in two groups (not by tool or tag).
        notes: sentences below the table; JSON and CSV omit them.
        width: the maximum width of a text table.
    """
    lines = [_add_percentages(group) for group in groups]
    last = _add_percentages({**(sum_groups(groups) if total is None else total), "group": "total"})
    if fmt == "table":
        return render_table(lines, last, width) + "".join(f"\n{note}" for note in notes) + "\n" * bool(notes)
    if fmt == "json":
        text = orjson.dumps({"groups": lines, "total": last}, option=orjson.OPT_INDENT_2).decode()
        return escape_json_controls(text) + "\n"
    if fmt == "csv":
        return _render_csv([*lines, last])
    notes = [note for note in (format_footnote(last), *notes) if note]
    if fmt == "md":
        return _render_markdown([*lines, last]) + "".join(f"\n{_escape_markdown(note)}\n" for note in notes)
    if fmt == "html":
        return _render_html([*lines, last], notes)
    raise ValueError(f"unknown report format {fmt!r}; use one of {', '.join(FORMATS)}")


def sum_groups(groups: Sequence[TotalMapping]) -> dict[str, TotalValue]:
    """Return the sums over groups; None for a sum unknown in every group."""
    total: dict[str, TotalValue] = {}
    for group in groups:
        for name, value in group.items():
            if name not in _NOT_SUMMED and not isinstance(value, str):
                subtotal = total.get(name)
                total[name] = value if not isinstance(subtotal, int | float) else subtotal + (value or 0)
    return total


def parse_since(text: str, now: float) -> float:
    """Parse `30m`, `24h`, `7d` or `2w` (before `now`), or an ISO date or time (UTC without an offset).

    `now` and the result are Unix seconds. Raises ValueError for anything else.
    """
    text = text.strip()
    span = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    if span is not None:
        return now - timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])}).total_seconds()
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"invalid time {text[:40]!r}: use 30m, 24h, 7d, 2w or a date such as 2026-11-30") from None


def _add_percentages(group: TotalMapping) -> dict[str, TotalValue]:
    received, saved = group.get("received"), group.get("saved")
    values = dict(group)
    if isinstance(received, int | float) and isinstance(saved, int | float):
        values["saved_percent"] = 100.0 * saved / received if received else None
    if "drift_sent" in group:
        values |= compute_drifts(group)
        for name in ("drift", "drift_estimated"):
            share = values[name]
            values[f"{name}_percent"] = 100.0 * share if isinstance(share, float) else None
    return values


def _render_csv(lines: Sequence[TotalMapping]) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["group", *COLUMNS.values()])
    writer.writerows([escape_formula(str(line.get("group") or "")), *map(line.get, COLUMNS.values())] for line in lines)
    return page.getvalue()


def escape_json_controls(text: str) -> str:
    """Return JSON text with escapes for the control characters that JSON allows, which a terminal would obey."""
    return _JSON_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escape_formula(text: str) -> str:
    """Return a label that a spreadsheet does not evaluate as a formula, and without control characters."""
    text = _CONTROLS.sub("\ufffd", text)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _render_html(lines: Sequence[TotalMapping], notes: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("group", *COLUMNS))
    cells = ((format_label(line), *_format_cells(line)) for line in lines)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    footer = "".join(f"<p>{escape(note)}</p>" for note in notes)
    body = f'<h1>{_TITLE}</h1><div class="wide"><table><tr>{head}</tr>{rows}</table></div>{footer}'
    return render_document(_TITLE, body)


def _format_cells(line: TotalMapping) -> list[str]:
    return [format_cell(name, line) for name in COLUMNS.values()]


def _render_markdown(lines: Sequence[TotalMapping]) -> str:
    rows = [["group", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    rows += [[_escape_markdown(format_label(line)), *map(_escape_markdown, _format_cells(line))] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", text)
