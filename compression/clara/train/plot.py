"""The loss log as a picture: one SVG, drawn by hand so that no plotting library is needed."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

_WIDTH, _HEIGHT, _EDGE = 720, 360, 48
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
_NOT_LOSSES = ("step", "seconds", "rate")


def curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each figure of a `log.jsonl` as (step, value); a resumed run's later lines replace earlier ones."""
    found: dict[str, dict[int, float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name not in _NOT_LOSSES:
                found.setdefault(name, {})[record["step"]] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def draw(log: Path, picture: Path) -> None:
    """Write a picture of the log; a log without lines gives an empty one."""
    lines = {name: points for name, points in curves(log).items() if not name.endswith("_right")}
    everything = [point for points in lines.values() for point in points] or [(1, 1.0)]
    last, top = max(step for step, _ in everything), max(value for _, value in everything)
    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>', *_axes(last, top)]
    for place, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{_path(points, last, top)}"/>')
        parts.append(_text(_WIDTH - 90, _EDGE + 16 * place, name, colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">'
    picture.write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")


def _axes(last: int, top: float) -> list[str]:
    right, bottom = _WIDTH - _EDGE, _HEIGHT - _EDGE
    frame = f'<polyline fill="none" stroke="black" points="{_EDGE},{_EDGE} {_EDGE},{bottom} {right},{bottom}"/>'
    marks = [_text(8, bottom, "0", "black"), _text(8, _EDGE, f"{top:.2g}", "black")]
    return [frame, *marks, _text(right - 40, bottom + 20, f"step {last}", "black")]


def _path(points: Sequence[tuple[int, float]], last: int, top: float) -> str:
    across, up = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE
    places = ((_EDGE + across * step / last, _HEIGHT - _EDGE - up * value / top) for step, value in points)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="11" fill="{colour}">{escape(text)}</text>'
