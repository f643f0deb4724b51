"""Writes gaps as markers: the only words that the proxy adds to a passage.

The last marker holds the reference to the original, if the client or its model can fetch it on this path. Between
sentences a gap is `[...]`; the last marker says how many sentences are missing. Between words a gap has no marker,
unless it is whole sentences; a line at the end says how many words are missing.
"""

import re

from .compressor import CompressedPassage, Gap

SENTENCE_UNIT, WORD_UNIT = "sentences", "words"
_UNIT = re.compile(r"^((?:similar )?\w+)s('?)(?=\W|$)")


def render(compressed: CompressedPassage, fetch_hint: str | None) -> str:
    """Return the pieces with a short marker per gap; `fetch_hint` goes into the last marker."""
    if compressed.is_inline:
        return _render_words(compressed, fetch_hint)
    gaps = [index for index, part in enumerate(compressed.parts) if isinstance(part, Gap)]
    last = gaps[-1] if gaps else None
    pieces = [
        part
        if isinstance(part, str)
        else _format_last_gap(compressed, part, fetch_hint)
        if index == last
        else _format_gap(part)
        for index, part in enumerate(compressed.parts)
    ]
    if last is None and fetch_hint is not None:
        pieces.append(f"[reformatted; {fetch_hint}]")
    return "\n".join(piece.strip("\n") for piece in pieces)


def _render_words(compressed: CompressedPassage, fetch_hint: str | None) -> str:
    """Return the pieces, which hold the blanks between words, and how many words are missing."""
    parts = compressed.parts
    pieces = [part if isinstance(part, str) else "" if part.unit == WORD_UNIT else "[...]" for part in parts]
    left_out = sum(part.left_out for part in parts if isinstance(part, Gap))
    summary = f"{left_out} of {compressed.total} words left out"
    return "".join(pieces).strip("\n") + (f"\n[{summary}; {fetch_hint}]" if fetch_hint else f"\n[{summary}]")


def _format_gap(gap: Gap) -> str:
    if gap.unit == SENTENCE_UNIT:
        return "[...]"
    return f"[{gap.left_out} {_UNIT.sub(_write_singular, gap.unit) if gap.left_out == 1 else gap.unit} left out]"


def _write_singular(unit: re.Match[str]) -> str:
    """Return the singular of `lines`, `similar rows`, `pieces`, or `files'`."""
    return f"{unit[1]}'s" if unit[2] else unit[1]


def _format_last_gap(compressed: CompressedPassage, gap: Gap, fetch_hint: str | None) -> str:
    if fetch_hint is None and compressed.unit != SENTENCE_UNIT:
        return _format_gap(gap)
    gaps = [part for part in compressed.parts if isinstance(part, Gap)]
    cut = sum(part.left_out for part in gaps if compressed.unit not in part.unit)  # parts of lines, such as columns
    left_out = sum(part.left_out for part in gaps) - cut
    summary = f"{left_out} of {compressed.total - cut} {compressed.unit} left out"
    return f"[{summary}; {fetch_hint}]" if fetch_hint is not None else f"[{summary}]"
