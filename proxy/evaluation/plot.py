"""Draws quality against tokens as one SVG file, with one panel for each data file.

Series differ in colour, marker and label. The colours are those of Okabe and Ito for all kinds of colour vision,
darkened to a contrast of at least 4.5 to 1 with the white ground.
"""

from collections.abc import Sequence
from html import escape
from math import log10
from typing import NamedTuple

from .methods import FULL_TEXT
from .summary import Interval, SummaryRow

_WIDTH, _PANEL_HEIGHT = 860, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 56, 56  # margins of a panel; the legend is in the right one
_STYLE = 'font-family="system-ui, sans-serif" font-size="13" fill="#1a1a1a"'
COLOURS = ("#0072B2", "#B44A00", "#007A5A", "#A8467F", "#8A6100", "#2F6F95", "#5B4B9A", "#555555")
_LABEL_WIDTH = 30  # pixels
_MARKERS = ("circle", "square", "triangle", "diamond")
_TICKS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class _Point(NamedTuple):
    tokens: float
    quality: Interval
    label: str


class _Scale(NamedTuple):
    """Maps tokens (logarithmic) and shares (0 to `top`) to pixels of the panel that begins at `offset`."""

    low: float
    high: float
    top: float
    offset: int

    def x(self, tokens: float) -> float:
        """Return the horizontal pixel of a number of tokens."""
        share = (log10(max(tokens, 1)) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        """Return the vertical pixel of a share."""
        return self.offset + _PANEL_HEIGHT - _BOTTOM - share / self.top * (_PANEL_HEIGHT - _TOP - _BOTTOM)


def draw_plot(rows: Sequence[SummaryRow]) -> str:
    """Return the plot as SVG: F1, or without a reader the share of answers kept verbatim."""
    data_names = list(dict.fromkeys(row.data for row in rows))
    names = list(dict.fromkeys(_name_series(row) for row in rows))
    has_reader = any(row.f1 is not None for row in rows)
    quality = "F1 of the reader" if has_reader else "answers kept verbatim"
    height = _PANEL_HEIGHT * max(1, len(data_names))
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc" {_STYLE}>',
        f'<title id="title">{quality}, against tokens</title>',
        f'<desc id="desc">{escape(_describe(rows, quality, has_reader=has_reader))}</desc>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for index, data in enumerate(data_names):
        parts += _draw_panel([row for row in rows if row.data == data], names, quality, index * _PANEL_HEIGHT)
    return "\n".join([*parts, "</svg>", ""])


def _draw_panel(rows: Sequence[SummaryRow], names: Sequence[str], quality: str, offset: int) -> list[str]:
    series: dict[str, list[_Point]] = {name: [] for name in names}
    for row in rows:
        measured = row.f1 if quality.startswith("F1") else row.kept
        if measured is not None and row.tokens > 0:
            label = f"{row.ratio:g}x" if row.ratio else ""
            series[_name_series(row)].append(_Point(row.tokens, measured, label))
    points = [point for line in series.values() for point in line]
    if not points:
        return []
    top = min(1.0, 0.1 * (int(max(point.quality.high for point in points) * 10) + 1))
    scale = _Scale(
        min(point.tokens for point in points) / 1.3, max(point.tokens for point in points) * 1.3, top, offset
    )
    parts = _draw_axes(scale, f"{rows[0].data}, {rows[0].questions} questions", quality)
    for index, (name, line) in enumerate(series.items()):
        if line:
            parts += _draw_series(scale, sorted(line), index)
            legend_y = offset + _TOP + 22 * index
            parts.append(_marker(_WIDTH - _RIGHT + 24, legend_y, index))
            parts.append(f'<text x="{_WIDTH - _RIGHT + 36}" y="{legend_y + 4}">{escape(name)}</text>')
    return parts


def _draw_axes(scale: _Scale, title: str, quality: str) -> list[str]:
    left, right = _LEFT, _WIDTH - _RIGHT
    top, bottom = scale.y(scale.top), scale.y(0)
    parts = [f'<text x="{left}" y="{scale.offset + 24}" font-size="16" font-weight="600">{escape(title)}</text>']
    steps = 5
    for step in range(steps + 1):
        share = scale.top * step / steps
        y = scale.y(share)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for tick in (tick for tick in _TICKS if scale.low <= tick <= scale.high):
        x = scale.x(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{bottom:.1f}" x2="{x:.1f}" y2="{bottom + 5:.1f}" stroke="#1a1a1a"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{tick:,}</text>')
    parts.append(
        f'<polyline fill="none" stroke="#1a1a1a" points="{left},{top:.1f} {left},{bottom:.1f} {right},{bottom:.1f}"/>'
    )
    middle = (top + bottom) / 2
    return [
        *parts,
        f'<text x="{(left + right) / 2}" y="{bottom + 42:.1f}" text-anchor="middle">tokens (mean, log scale)</text>',
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">{quality}</text>',
    ]


def _draw_series(scale: _Scale, line: Sequence[_Point], index: int) -> list[str]:
    colour = COLOURS[index % len(COLOURS)]
    pixels = [(scale.x(point.tokens), scale.y(point.quality.mean)) for point in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    parts = [f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>']
    labels: list[tuple[float, float, str]] = []
    for point, (x, y) in zip(line, pixels, strict=True):
        low, high = scale.y(point.quality.low), scale.y(point.quality.high)
        parts.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        parts.append(_marker(x, y, index))
        if labels and x - labels[-1][0] < _LABEL_WIDTH:
            labels[-1] = (x, y, f"{labels[-1][2]}, {point.label}")
        else:
            labels.append((x, y, point.label))
    offset = -9 if index % 2 else 18  # neighbours have their labels on opposite sides
    for x, y, label in labels:
        parts.append(f'<text x="{x + 6:.1f}" y="{y + offset:.1f}" font-size="11" fill="{colour}">{label}</text>')
    return parts


def _marker(x: float, y: float, index: int) -> str:
    colour, shape = COLOURS[index % len(COLOURS)], _MARKERS[index % len(_MARKERS)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    corners = {
        "square": ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
        "triangle": ((0, -6), (5.5, 4.5), (-5.5, 4.5)),
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
    }[shape]
    return f'<polygon fill="{colour}" points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}"/>'


def _name_series(row: SummaryRow) -> str:
    name = "full text" if row.method == FULL_TEXT else row.method
    return f"{name} ({row.model.rpartition('/')[2]})" if row.model else name


def _describe(rows: Sequence[SummaryRow], quality: str, *, has_reader: bool) -> str:
    """Return the plot's numbers as text, for screen readers."""
    sentences: list[str] = []
    for row in rows:
        measured = row.f1 if has_reader else row.kept
        if measured is not None:
            size = f" at {row.ratio:g}x" if row.ratio else ""
            sentences.append(f"{row.data}, {_name_series(row)}{size}: {row.tokens:.0f} tokens, {measured.mean:.0%}.")
    return f"{quality}. {' '.join(sentences)}"
