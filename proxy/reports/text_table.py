"""A report as a text table that fits the terminal. Pure.

The invariant: no number is ever truncated. If the table is too wide, whole columns are left out, the least important
ones first, and a line below names them.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from .columns import COLUMNS, TotalMapping, format_footnote, format_label, format_short_cell, has_value

MAX_LABEL_WIDTH = 40  # characters
_SHORT_LABEL_WIDTH, _MIN_LABEL_WIDTH = 24, 12  # in narrow and in very narrow tables
_COLUMN_GAP = 2  # characters between two columns
_CONSOLE_WIDTH = 1_000
# Columns that may be left out, in this order, and the label width that is tried first. Columns without known values are
# left out before these.
_OPTIONAL_COLUMNS = {
    **dict.fromkeys(
        ("compressor_seconds", "unpriced", "drift_percent", "cache_read", "billed_output"), MAX_LABEL_WIDTH
    ),
    **dict.fromkeys(("billed_input", "cost_without", "failures"), _SHORT_LABEL_WIDTH),
    **dict.fromkeys(("cost", "saved"), _MIN_LABEL_WIDTH),
}
_WARNING_COLUMNS = frozenset({"unpriced", "failures"})  # left out last unless they are 0


class _ColumnSizes(NamedTuple):
    """The width of the longest label, and of every column including the gap before it."""

    label: int
    columns: dict[str, int]

    def measure_width(self, columns: Sequence[str]) -> int:
        """Return the width of a table of these columns without its labels."""
        return 1 + sum(self.columns[heading] for heading in columns)

    def fits_width(self, columns: Sequence[str], width: int, max_label: int) -> bool:
        """Return True if a table of these columns fits, with labels of at most `max_label` characters."""
        return min(self.label, max_label) + self.measure_width(columns) <= width


def render_table(lines: Sequence[TotalMapping], last: TotalMapping, width: int | None = None) -> str:
    """Draw the groups and the last line, in at most `width` characters per line."""
    columns, label_width = (list(COLUMNS), None) if width is None else _select_columns([*lines, last], width)
    table = _draw_table(lines, last, columns, label_width)
    hidden = [name for name in COLUMNS if name not in columns]
    notes = [format_footnote(last), f"not shown: {', '.join(hidden)} (show all: --wide)" if hidden else ""]
    return table.rstrip("\n") + "\n" + "".join(f"{note}\n" for note in notes if note)


def _select_columns(lines: Sequence[TotalMapping], width: int) -> tuple[list[str], int]:
    """Return the headings of the columns that fit, and the width of the labels."""
    sizes = _ColumnSizes(
        max(5, *(cell_len(format_label(line)) for line in lines)),
        {heading: _COLUMN_GAP + _measure_column(heading, lines) for heading in COLUMNS},
    )
    headings, max_label = list(COLUMNS), MAX_LABEL_WIDTH
    if not sizes.fits_width(headings, width, max_label):
        empty = _find_empty_columns(lines)
        headings = [heading for heading, name in COLUMNS.items() if name not in empty]
        for heading in _order_removable(lines, headings):
            max_label = min(max_label, _OPTIONAL_COLUMNS[COLUMNS[heading]])
            if sizes.fits_width(headings, width, max_label):
                break
            headings.remove(heading)
    return headings, max(_MIN_LABEL_WIDTH, min(MAX_LABEL_WIDTH, width - sizes.measure_width(headings)))


def _find_empty_columns(lines: Sequence[TotalMapping]) -> set[str]:
    """Return the columns without a known value in any line."""
    empty = {name for name in COLUMNS.values() if not any(has_value(format_short_cell(name, line)) for line in lines)}
    return empty | {"unpriced"} if "cost" in empty else empty  # without any price, the number of unpriced is obvious


def _order_removable(lines: Sequence[TotalMapping], headings: Sequence[str]) -> list[str]:
    """Return the headings that may be left out, the first one first."""
    headings_by_name = {COLUMNS[heading]: heading for heading in headings}
    names = [name for name in _OPTIONAL_COLUMNS if name in headings_by_name]
    warnings = [name for name in names if name in _WARNING_COLUMNS and any(line.get(name) for line in lines)]
    return [headings_by_name[name] for name in (*(name for name in names if name not in warnings), *warnings)]


def _measure_column(heading: str, lines: Sequence[TotalMapping]) -> int:
    return max(*map(len, heading.split()), *(len(format_short_cell(COLUMNS[heading], line)) for line in lines))


def _draw_table(
    lines: Sequence[TotalMapping], last: TotalMapping, columns: Sequence[str], label_width: int | None
) -> str:
    table = Table(show_footer=True, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    if label_width is None:
        table.add_column("group", footer=format_label(last), overflow="fold", max_width=MAX_LABEL_WIDTH)
    else:
        table.add_column("group", footer=format_label(last), overflow="ellipsis", max_width=label_width, no_wrap=True)
    for heading in columns:
        footer = format_short_cell(COLUMNS[heading], last)
        table.add_column(heading.replace(" ", "\n"), footer=footer, justify="right", vertical="bottom", no_wrap=True)
    for line in lines:
        table.add_row(format_label(line), *(format_short_cell(COLUMNS[heading], line) for heading in columns))
    output = io.StringIO()
    # Wide enough for any table: a truncated number is a wrong number.
    Console(file=output, width=_CONSOLE_WIDTH, markup=False, highlight=False, color_system=None).print(table)
    return "\n".join(row.rstrip() for row in output.getvalue().split("\n"))
