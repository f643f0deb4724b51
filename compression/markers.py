"""How a gap is written: the only words that the proxy adds to a passage.

A marker claims nothing that cannot be had: the hash stands in it only when the client said that it can fetch
`/v1/retrieve/{hash}`.
"""

from .compressor import Condensed, Gap


def render(condensed: Condensed, fetch: str | None) -> str:
    """Write the pieces down with one short marker per gap, and with `fetch` the way to the original in the last one."""
    gaps = [index for index, part in enumerate(condensed.parts) if isinstance(part, Gap)]
    last = gaps[-1] if gaps else None
    pieces = [
        part if isinstance(part, str) else _marker(part, condensed, fetch if index == last else None)
        for index, part in enumerate(condensed.parts)
    ]
    if last is None and fetch is not None:
        pieces.append(f"[... reformatted; {fetch} ...]")
    return "\n".join(piece.strip("\n") for piece in pieces)


def _marker(gap: Gap, condensed: Condensed, fetch: str | None) -> str:
    if fetch is None:
        return f"[... {gap.left_out} {gap.unit} left out ...]"
    left_out = sum(part.left_out for part in condensed.parts if isinstance(part, Gap))
    return f"[... {left_out} of {condensed.total} {condensed.unit} left out; {fetch} ...]"
