"""Draws the training log as one SVG file, without a plotting library."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

_WIDTH, _HEIGHT, _MARGIN = 720, 360, 48
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
_NOT_PLOTTED = ("step", "seconds", "rate")


def read_curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) points of each metric in a `log.jsonl`; later lines replace earlier ones of a step."""
    curves: dict[str, dict[int, float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name not in _NOT_PLOTTED:
                curves.setdefault(name, {})[record["step"]] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def draw_losses(log: Path, picture: Path) -> None:
    """Write an SVG plot of the log; accuracies (names ending with "_right") are not plotted."""
    curves = {name: points for name, points in read_curves(log).items() if not name.endswith("_right")}
    points = [point for curve in curves.values() for point in curve] or [(1, 1.0)]
    last, top = max(step for step, _ in points), max(value for _, value in points)
    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>', *_axes(last, top)]
    for index, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{_polyline(curve, last, top)}"/>')
        parts.append(_text(_WIDTH - 90, _MARGIN + 16 * index, name, colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">'
    picture.write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")


def _axes(last: int, top: float) -> list[str]:
    right, bottom = _WIDTH - _MARGIN, _HEIGHT - _MARGIN
    frame = f'<polyline fill="none" stroke="black" points="{_MARGIN},{_MARGIN} {_MARGIN},{bottom} {right},{bottom}"/>'
    labels = [_text(8, bottom, "0", "black"), _text(8, _MARGIN, f"{top:.2g}", "black")]
    return [frame, *labels, _text(right - 40, bottom + 20, f"step {last}", "black")]


def _polyline(points: Sequence[tuple[int, float]], last: int, top: float) -> str:
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    pixels = ((_MARGIN + width * step / last, _HEIGHT - _MARGIN - height * value / top) for step, value in points)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="11" fill="{colour}">{escape(text)}</text>'
