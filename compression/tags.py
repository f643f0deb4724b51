"""The two tags by which a user's text steers compression: `<clara:keep>` and `<clara:compress>`.

Tags count that open and close in order; they are not forwarded. A `keep` that never closes holds to the end, so that
nothing is lost that was meant to stay, and stands where it is, as it may be no tag. Anything else is ordinary text.
"""

import re
from typing import Literal, NamedTuple

TagAction = Literal["keep", "compress"]
_CLARA_TAG = re.compile(r"<(/?)clara:(keep|compress)>")


class TaggedSpan(NamedTuple):
    """A tagged stretch of a text: `outer` with its tags, `inner` without; offsets in characters."""

    action: TagAction
    outer: tuple[int, int]
    inner: tuple[int, int]


def find_tagged_spans(text: str) -> list[TaggedSpan]:
    """List the tagged stretches in order; stretches do not nest."""
    if "<clara:" not in text:
        return []
    found: list[TaggedSpan] = []
    opened: re.Match[str] | None = None
    for tag in _CLARA_TAG.finditer(text):
        if not tag[1]:
            opened = opened or tag
        elif opened is not None and tag[2] == opened[2]:
            wish: TagAction = "keep" if tag[2] == "keep" else "compress"
            found.append(TaggedSpan(wish, (opened.start(), tag.end()), (opened.end(), tag.start())))
            opened = None
    if opened is not None and opened[2] == "keep":
        rest = (opened.start(), len(text))
        found.append(TaggedSpan("keep", rest, rest))
    return found
