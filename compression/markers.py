"""How a gap is written: the only words that the proxy adds to a passage, and as few of them as will do.

A marker claims nothing that cannot be had: the way to the original stands in the last one, and only where the client or
its model can go it. Between sentences a gap is `[...]`, as people write it; the last one says how many are missing.
"""

from .compressor import CompressedPassage, Gap

SENTENCE_UNIT = "sentences"


def render(condensed: CompressedPassage, fetch_hint: str | None) -> str:
    """Write the pieces down with one short marker per gap, and with `fetch` the way to the original in the last one."""
    gaps = [index for index, part in enumerate(condensed.parts) if isinstance(part, Gap)]
    last = gaps[-1] if gaps else None
    pieces = [
        part
        if isinstance(part, str)
        else _format_last_gap(condensed, part, fetch_hint)
        if index == last
        else _format_gap(part)
        for index, part in enumerate(condensed.parts)
    ]
    if last is None and fetch_hint is not None:
        pieces.append(f"[reformatted; {fetch_hint}]")
    return "\n".join(piece.strip("\n") for piece in pieces)


def _format_gap(gap: Gap) -> str:
    return "[...]" if gap.unit == SENTENCE_UNIT else f"[{gap.left_out} {gap.unit} left out]"


def _format_last_gap(condensed: CompressedPassage, gap: Gap, fetch: str | None) -> str:
    if fetch is None and condensed.unit != SENTENCE_UNIT:
        return _format_gap(gap)
    left_out = sum(part.left_out for part in condensed.parts if isinstance(part, Gap))
    told = f"{left_out} of {condensed.total} {condensed.unit} left out"
    return f"[{told}; {fetch}]" if fetch is not None else f"[{told}]"
