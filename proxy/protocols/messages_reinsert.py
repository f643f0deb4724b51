"""Re-insertion of hidden calls into an Anthropic conversation, where the model made them.

The client saw several rounds as one message, and sends that message back. The hidden rounds come in before it, their
blocks are dropped from its beginning, and hidden calls beside the client's own return to their positions, with their
results. A client may have dropped thinking or joined texts: where blocks cannot be matched, the message stays as it is.
"""

from collections.abc import Sequence

from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json, is_array
from .messages_blocks import identify_block, list_blocks
from .protocol import BodyEdits

_MESSAGES_PATH: Path = ("messages",)


def build_edits(messages: Sequence[Json], index: int, hidden: Json) -> BodyEdits:
    """Return the edits that put the record of a `MessagesReplyFilter` back at the message with this index."""
    content = messages[index].get("content")
    path: Path = (*_MESSAGES_PATH, index, "content")
    insertions: dict[int, list[Json]] = {index: hidden["before"]}
    if not is_array(content):
        return _strip_text(path, content, hidden["strip"]), {_MESSAGES_PATH: ArrayEdit(insertions=insertions)}
    matches = _match_blocks(content, hidden["keys"])
    drop_count = _count_blocks_before(matches, hidden["cut"])
    user_index = _find_next_user_message(messages, index) if hidden["calls"] else None
    calls: dict[int, list[Json]] = {}
    array_edits: dict[Path, ArrayEdit] = {}
    if user_index is not None:
        for position, call in hidden["calls"]:
            calls.setdefault(max(drop_count, _count_blocks_before(matches, position)), []).append(call)
        if is_array(messages[user_index].get("content")):
            array_edits[*_MESSAGES_PATH, user_index, "content"] = ArrayEdit(insertions={0: hidden["after"]})
        else:  # the model reads adjacent messages of a user as one
            insertions[user_index] = [{"role": "user", "content": hidden["after"]}]
    array_edits[_MESSAGES_PATH] = ArrayEdit(insertions=insertions)
    if drop_count == len(content) and not calls:  # the API rejects a message without content: rather repeat it
        return {}, array_edits
    array_edits[path] = ArrayEdit(drop_count, calls)
    return _strip_joined_text(path, content, drop_count, hidden["strip"]), array_edits


def _match_blocks(content: Sequence[object], keys: Sequence[list[str]]) -> list[tuple[int, int]]:
    """Pair the indexes of the client's blocks with their indexes in the reply, as far as they match."""
    matches: list[tuple[int, int]] = []
    start = 0
    for index, block in list_blocks(content):
        key = identify_block(block)
        if key in keys[start:]:
            start = keys.index(key, start) + 1
            matches.append((index, start - 1))
    return matches


def _count_blocks_before(matches: Sequence[tuple[int, int]], end: int) -> int:
    """Return the number of the client's blocks that precede this index of the reply."""
    return max((index + 1 for index, position in matches if position < end), default=0)


def _find_next_user_message(messages: Sequence[Json], index: int) -> int | None:
    """Return the index of the next message if it is the user's, ignoring system messages."""
    for later in range(index + 1, len(messages)):
        if (role := messages[later].get("role")) != "system":
            return later if role == "user" else None
    return None


def _strip_joined_text(path: Path, content: Sequence[object], drop_count: int, strip: int) -> dict[Path, StringEdit]:
    """Remove hidden text from the beginning of a text that the client has joined with it."""
    texts = [(position, block["text"]) for position, block in list_blocks(content) if block.get("type") == "text"]
    rest = strip - sum(len(text) for position, text in texts if position < drop_count)
    for position, text in texts:
        if position >= drop_count:
            return _strip_text((*path, position, "text"), text, rest)
    return {}


def _strip_text(path: Path, text: object, length: int) -> dict[Path, StringEdit]:
    """Remove the first characters of a text if others remain."""
    return {path: StringEdit(text, text[length:])} if isinstance(text, str) and 0 < length < len(text) else {}
