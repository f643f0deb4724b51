"""A report as a table of characters: all of it, or as much as there is room for. Pure.

The invariant: no figure is ever cut. Where the room is too small, whole columns are left out, those first that say
least, and the table says which.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from .columns import COLUMNS, TotalMapping, format_footnote, format_label, format_short_cell, has_value

MAX_LABEL_WIDTH = 40  # columns of a label
_SHORT_LABEL_WIDTH, _MIN_LABEL_WIDTH = 24, 12  # where the room is small, and where it is too small for what matters
_COLUMN_GAP = 2  # columns from one column to the next
_CONSOLE_WIDTH = 1_000
# What may be left out, in this order, each with the columns that a label has before it comes to that. All those of
# which nothing is known go before.
_OPTIONAL_COLUMNS = {
    **dict.fromkeys(
        ("compressor_seconds", "unpriced", "drift_percent", "cache_read", "billed_output"), MAX_LABEL_WIDTH
    ),
    **dict.fromkeys(("billed_input", "cost_without", "failures"), _SHORT_LABEL_WIDTH),
    **dict.fromkeys(("cost", "saved"), _MIN_LABEL_WIDTH),
}
_WARNING_COLUMNS = frozenset({"unpriced", "failures"})  # which are warnings otherwise, and go last


class _ColumnSizes(NamedTuple):
    """How wide things are: the longest label, and every column with what is before it."""

    label: int
    columns: dict[str, int]

    def measure_width(self, columns: Sequence[str]) -> int:
        """Return how wide a table of these columns is without its labels."""
        return 1 + sum(self.columns[heading] for heading in columns)

    def fits_width(self, columns: Sequence[str], width: int, most: int) -> bool:
        """Say whether a table of these columns, with labels of at most so many, is no wider than that."""
        return min(self.label, most) + self.measure_width(columns) <= width


def render_table(lines: Sequence[TotalMapping], last: TotalMapping, width: int | None = None) -> str:
    """Draw groups and the line for all; in `width` columns, if that is said, else as wide as the figures need."""
    columns, room = (list(COLUMNS), None) if width is None else _select_columns([*lines, last], width)
    page = _draw_table(lines, last, columns, room)
    hidden = [name for name in COLUMNS if name not in columns]
    notes = [format_footnote(last), f"not shown: {', '.join(hidden)} (all of it: --wide)" if hidden else ""]
    return page.rstrip("\n") + "\n" + "".join(f"{note}\n" for note in notes if note)


def _select_columns(lines: Sequence[TotalMapping], width: int) -> tuple[list[str], int]:
    """Return the headings of the columns there is room for, and how wide labels may be."""
    sizes = _ColumnSizes(
        max(5, *(cell_len(format_label(line)) for line in lines)),
        {heading: _COLUMN_GAP + _measure_column(heading, lines) for heading in COLUMNS},
    )
    kept, most = list(COLUMNS), MAX_LABEL_WIDTH
    if not sizes.fits_width(kept, width, most):
        silent = _find_empty_columns(lines)
        kept = [heading for heading, figure in COLUMNS.items() if figure not in silent]
        for heading in _order_removable(lines, kept):
            most = min(most, _OPTIONAL_COLUMNS[COLUMNS[heading]])
            if sizes.fits_width(kept, width, most):
                break
            kept.remove(heading)
    return kept, max(_MIN_LABEL_WIDTH, min(MAX_LABEL_WIDTH, width - sizes.measure_width(kept)))


def _find_empty_columns(lines: Sequence[TotalMapping]) -> set[str]:
    """Return the figures of which nothing is known in any line."""
    found = {
        figure for figure in COLUMNS.values() if not any(has_value(format_short_cell(figure, line)) for line in lines)
    }
    return found | {"unpriced"} if "cost" in found else found  # no price is known: that has been said


def _order_removable(lines: Sequence[TotalMapping], kept: Sequence[str]) -> list[str]:
    """Return those of the kept headings that can be left out, the first to go first."""
    headings = {COLUMNS[heading]: heading for heading in kept}
    rest = [figure for figure in _OPTIONAL_COLUMNS if figure in headings]
    warning = [figure for figure in rest if figure in _WARNING_COLUMNS and any(line.get(figure) for line in lines)]
    return [headings[figure] for figure in (*(one for one in rest if one not in warning), *warning)]


def _measure_column(heading: str, lines: Sequence[TotalMapping]) -> int:
    return max(*map(len, heading.split()), *(len(format_short_cell(COLUMNS[heading], line)) for line in lines))


def _draw_table(lines: Sequence[TotalMapping], last: TotalMapping, columns: Sequence[str], room: int | None) -> str:
    table = Table(show_footer=True, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    if room is None:
        table.add_column("group", footer=format_label(last), overflow="fold", max_width=MAX_LABEL_WIDTH)
    else:
        table.add_column("group", footer=format_label(last), overflow="ellipsis", max_width=room, no_wrap=True)
    for heading in columns:
        footer = format_short_cell(COLUMNS[heading], last)
        table.add_column(heading.replace(" ", "\n"), footer=footer, justify="right", vertical="bottom", no_wrap=True)
    for line in lines:
        table.add_row(format_label(line), *(format_short_cell(COLUMNS[heading], line) for heading in columns))
    page = io.StringIO()
    # As wide as the figures need: a number cut off is a wrong number.
    Console(file=page, width=_CONSOLE_WIDTH, markup=False, highlight=False, color_system=None).print(table)
    return "\n".join(row.rstrip() for row in page.getvalue().split("\n"))
