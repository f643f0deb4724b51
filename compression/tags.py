"""The two tags by which a user's text steers compression: `<clara:keep>` and `<clara:compress>`.

Only tags that open and close in order count; anything else is ordinary text. The tags themselves are never forwarded.
"""

import re
from typing import Literal, NamedTuple

Wish = Literal["keep", "compress"]
_TAG = re.compile(r"<(/?)clara:(keep|compress)>")


class Tagged(NamedTuple):
    """A tagged stretch of a text: `outer` with its tags, `inner` without; offsets in characters."""

    wish: Wish
    outer: tuple[int, int]
    inner: tuple[int, int]


def find(text: str) -> list[Tagged]:
    """List the tagged stretches in order; stretches do not nest."""
    if "<clara:" not in text:
        return []
    found: list[Tagged] = []
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = opened or tag
        elif opened is not None and tag[2] == opened[2]:
            wish: Wish = "keep" if tag[2] == "keep" else "compress"
            found.append(Tagged(wish, (opened.start(), tag.end()), (opened.end(), tag.start())))
            opened = None
    return found
