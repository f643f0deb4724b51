"""Finds the tags by which a user's text controls compression: `<clara:keep>` and `<clara:compress>`.

Tags count if they open and close in order; they are not forwarded. A `keep` that is never closed reaches to the end of
the text, and its tag is forwarded as it may not be one. Anything else is ordinary text.
"""

import re
from typing import Literal, NamedTuple

TagAction = Literal["keep", "compress"]
_CLARA_TAG = re.compile(r"<(/?)clara:(keep|compress)>")


class TaggedSpan(NamedTuple):
    """A tagged span of a text: `outer` with its tags, `inner` without; offsets in characters."""

    action: TagAction
    outer: tuple[int, int]
    inner: tuple[int, int]


def find_tagged_spans(text: str) -> list[TaggedSpan]:
    """Return the tagged spans in order; spans do not nest."""
    if "<clara:" not in text:
        return []
    spans: list[TaggedSpan] = []
    opening: re.Match[str] | None = None
    for tag in _CLARA_TAG.finditer(text):
        if not tag[1]:
            opening = opening or tag
        elif opening is not None and tag[2] == opening[2]:
            action: TagAction = "keep" if tag[2] == "keep" else "compress"
            spans.append(TaggedSpan(action, (opening.start(), tag.end()), (opening.end(), tag.start())))
            opening = None
    if opening is not None and opening[2] == "keep":
        rest = (opening.start(), len(text))
        spans.append(TaggedSpan("keep", rest, rest))
    return spans
