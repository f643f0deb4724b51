"""Puts what was hidden of a reply back into the conversation, where the model said it.

To the client several rounds were one message, and it sends that message back. Here the rounds that it does not know of
come in before it, what was theirs is cut from its beginning, and calls of ours that stood beside the client's own
return to their places, answered. A client may have dropped thoughts or joined texts: what cannot be told apart stays.
"""

from collections.abc import Sequence

import orjson

from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json, is_array
from .messages_blocks import identify_block, list_blocks

StringEdits = dict[Path, StringEdit]
ArrayEdits = dict[Path, ArrayEdit]
_MESSAGES_PATH: Path = ("messages",)


def build_edits(listed: Sequence[Json], index: int, hidden: Json) -> tuple[StringEdits, ArrayEdits]:
    """Return what `hidden`, as a reply's listener made it, changes about the message of this index."""
    content = listed[index].get("content")
    at: Path = (*_MESSAGES_PATH, index, "content")
    into = {index: [orjson.dumps(message) for message in hidden["before"]]}
    if not is_array(content):
        return _strip_text(at, content, hidden["strip"]), {_MESSAGES_PATH: ArrayEdit(insertions=into)}
    places = _match_blocks(content, hidden["keys"])
    cut = _count_blocks_before(places, hidden["cut"])
    follows = _find_next_user_message(listed, index) if hidden["calls"] else None
    calls: dict[int, list[bytes]] = {}
    weaves: ArrayEdits = {}
    if follows is not None:
        for place, call in hidden["calls"]:
            calls.setdefault(max(cut, _count_blocks_before(places, place)), []).append(orjson.dumps(call))
        if is_array(listed[follows].get("content")):
            weaves[*_MESSAGES_PATH, follows, "content"] = ArrayEdit(
                insertions={0: list(map(orjson.dumps, hidden["after"]))}
            )
        else:  # adjacent messages of a user are one to the model
            into[follows] = [orjson.dumps({"role": "user", "content": hidden["after"]})]
    weaves[_MESSAGES_PATH] = ArrayEdit(insertions=into)
    if cut == len(content) and not calls:  # a message without content would be refused: rather said twice
        return {}, weaves
    weaves[at] = ArrayEdit(cut, calls)
    return _strip_joined_text(at, content, cut, hidden["strip"]), weaves


def _match_blocks(content: Sequence[object], keys: Sequence[list[str]]) -> list[tuple[int, int]]:
    """Pair the indexes of a client's blocks with those that they had in the reply; of strange blocks there is none."""
    found: list[tuple[int, int]] = []
    at = 0
    for index, block in list_blocks(content):
        told = identify_block(block)
        if told in keys[at:]:
            at = keys.index(told, at) + 1
            found.append((index, at - 1))
    return found


def _count_blocks_before(places: Sequence[tuple[int, int]], end: int) -> int:
    """Return how many of the client's blocks lead up to this index in the reply."""
    return max((index + 1 for index, place in places if place < end), default=0)


def _find_next_user_message(listed: Sequence[Json], index: int) -> int | None:
    """Return the index of the user's message that follows, None where something else does."""
    later = (at for at in range(index + 1, len(listed)) if listed[at].get("role") != "system")
    found = next(later, None)
    return found if found is not None and listed[found].get("role") == "user" else None


def _strip_joined_text(at: Path, content: Sequence[object], cut: int, strip: int) -> StringEdits:
    """Cut hidden words from a text into which the client has joined them with later ones."""
    texts = [(place, block["text"]) for place, block in list_blocks(content) if block.get("type") == "text"]
    rest = strip - sum(len(text) for place, text in texts if place < cut)
    place, text = next(((place, text) for place, text in texts if place >= cut), (0, None))
    return _strip_text((*at, place, "text"), text, rest)


def _strip_text(at: Path, text: object, length: int) -> StringEdits:
    """Cut the first characters from a text, if that leaves any."""
    return {at: StringEdit(text, text[length:])} if isinstance(text, str) and 0 < length < len(text) else {}
