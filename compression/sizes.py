"""How small an output gets when no ratio was asked for: by its kind and its length, not at one rate for all.

The first lines of an output are nearly all used, the thousandth hardly ever is. So up to `whole` tokens an output stays
as it is, and beyond that what stays grows by a power less than one. The figures come from what recorded agents used
later (`benchmarks/replay`). Code stays whole: it is there to be edited, and what is used of it stands all over it. JSON
is laid out anew at every size.
"""

from typing import NamedTuple

from . import registry
from .memo import Remembered

KEPT = 50_000  # compressors remembered, by the hash of the text


class Law(NamedTuple):
    """`whole` tokens stay; of more, `whole * (tokens / whole) ** power` do."""

    whole: int
    power: float


ALL = None  # of this kind everything stays
LAID_OUT = frozenset({"json"})  # what takes fewer tokens laid out anew, with nothing left out, whatever its size
DEFAULT = Law(275, 0.4)
LAWS: dict[str, Law | None] = {
    "code": ALL,
    "report": Law(90, 0.4),
    "listing": Law(90, 0.45),
    "search": Law(220, 0.35),
    "diff": Law(110, 0.9),
    "log": Law(275, 0.5),
    "prose": Law(275, 0.5),
    "documents": Law(330, 0.6),
    "json": Law(440, 0.7),
    "table": Law(660, 0.6),
    "html": Law(660, 0.6),
}


def target(kind: str, tokens: int) -> int | None:
    """Return the tokens that an output of this kind should get, None when it should stay as it is."""
    law = LAWS.get(kind, DEFAULT)
    if law is None:
        return None
    if tokens <= law.whole:
        return tokens or None if kind in LAID_OUT else None
    return max(1, int(law.whole * (tokens / law.whole) ** law.power))


def kind(text: str) -> str:
    """Name the kind of a text, as the registry finds it."""
    return find(text).name


find = Remembered(registry.find, KEPT)  # a text's compressor
