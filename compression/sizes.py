"""How small an output gets when no ratio was asked for: by its kind and its length, not at one rate for all.

The first lines of an output are nearly all used, the thousandth hardly ever is. So up to `whole` tokens an output stays
as it is, and beyond that what stays grows by a power less than one. The figures come from what recorded agents used
later (`benchmarks/replay`). Code stays whole: it is there to be edited, and what is used of it stands all over it. JSON
is laid out anew at every size.
"""

from typing import NamedTuple

from . import registry
from .memo import Memo

COMPRESSOR_MEMO_SIZE = 50_000  # compressors remembered, by the hash of the text


class SizeCurve(NamedTuple):
    """`whole` tokens stay; of more, `whole * (tokens / whole) ** power` do."""

    full_tokens: int
    exponent: float


KEEP_ALL = None  # of this kind everything stays
REFORMATTED_KINDS = frozenset(
    {"json"}
)  # what takes fewer tokens laid out anew, with nothing left out, whatever its size
DEFAULT_CURVE = SizeCurve(275, 0.4)
SIZE_CURVES: dict[str, SizeCurve | None] = {
    "code": KEEP_ALL,
    "report": SizeCurve(90, 0.4),
    "listing": SizeCurve(90, 0.45),
    "search": SizeCurve(220, 0.35),
    "diff": SizeCurve(110, 0.9),
    "log": SizeCurve(275, 0.5),
    "prose": SizeCurve(275, 0.5),
    "documents": SizeCurve(330, 0.6),
    "json": SizeCurve(440, 0.7),
    "table": SizeCurve(660, 0.6),
    "html": SizeCurve(660, 0.6),
}


def compute_kind_target(kind: str, tokens: int) -> int | None:
    """Return the tokens that an output of this kind should get, None when it should stay as it is."""
    law = SIZE_CURVES.get(kind, DEFAULT_CURVE)
    if law is None:
        return None
    if tokens <= law.full_tokens:
        return tokens or None if kind in REFORMATTED_KINDS else None
    return max(1, int(law.full_tokens * (tokens / law.full_tokens) ** law.exponent))


def classify_content(text: str) -> str:
    """Name the kind of a text, as the registry finds it."""
    return find_compressor_cached(text).name


find_compressor_cached = Memo(registry.find_compressor, COMPRESSOR_MEMO_SIZE)  # a text's compressor
