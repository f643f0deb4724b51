"""The content of one message of Anthropic's, a text or a list of blocks: what of it is text, and what tells it apart.

Pure reading, nothing is written here. Counted and otherwise left alone are blocks of a kind that is not known, what the
provider's own tools bring (web search, code execution), and documents that an answer is to cite by places in them.
"""

from collections.abc import Collection, Iterator

import orjson

from ...compression.transcript import TextSlot
from .json_edit import Path
from .json_types import Json, is_array, is_object

REASONING_TYPES = frozenset({"thinking", "redacted_thinking"})  # clients may leave them out when they send a reply back
DOCUMENT_TYPES = frozenset({"document", "search_result"})
_TEXT_TYPES = frozenset({"text"})
_READABLE_TYPES = _TEXT_TYPES | DOCUMENT_TYPES
_TEXTLESS_TYPES = frozenset({"image", "redacted_thinking"})
_IDENTIFIER_FIELDS = frozenset(
    {"type", "id", "tool_use_id", "caller", "media_type", "file_id", "url", "page_age", "file_type"}
)
_OPAQUE_FIELDS = frozenset({"data", "signature", "encrypted_content", "encrypted_index", "encrypted_stdout"})
_VOLATILE_FIELDS = frozenset({"cache_control", "citations"})  # what comes and goes, or is said elsewhere
_UNCOUNTED_FIELDS = _IDENTIFIER_FIELDS | _OPAQUE_FIELDS | _VOLATILE_FIELDS


def list_blocks(content: object) -> list[tuple[int, Json]]:
    """List the blocks of a content with their indexes; a plain text has none."""
    return [(place, block) for place, block in enumerate(content) if is_object(block)] if is_array(content) else []


def get_block_type(block: Json) -> str:
    """Return the type of a block, which may be anything."""
    return str(block.get("type"))


def filter_blocks(content: object, *kinds: str) -> list[tuple[int, Json]]:
    """List the blocks of some kinds with their indexes."""
    return [(place, block) for place, block in list_blocks(content) if get_block_type(block) in kinds]


def iter_slots(path: Path, content: object, kinds: Collection[str] = _READABLE_TYPES) -> Iterator[TextSlot]:
    """List the texts of a content in order, with their places: its words, and what its documents and findings say."""
    if isinstance(content, str):
        yield TextSlot(path, content)
    for place, block in filter_blocks(content, *kinds):
        yield from iter_block_slots((*path, place), block)


def iter_text_slots(path: Path, content: object) -> Iterator[TextSlot]:
    """List what is said in a content itself: the plain text, or the blocks of type `text`."""
    return iter_slots(path, content, _TEXT_TYPES)


def iter_block_slots(path: Path, block: Json) -> Iterator[TextSlot]:
    """List the texts of one block that may be shortened, with their places."""
    kind, source = get_block_type(block), block.get("source")
    if kind == "text":
        if isinstance(text := block.get("text"), str):
            yield TextSlot((*path, "text"), text)
    elif _is_cited(block):
        return
    elif kind == "search_result":
        yield from iter_text_slots((*path, "content"), block.get("content"))
    elif is_object(source) and source.get("type") == "content":
        yield from iter_text_slots((*path, "source", "content"), source.get("content"))
    elif is_object(source) and source.get("type") == "text" and isinstance(text := source.get("data"), str):
        yield TextSlot((*path, "source", "data"), text)


def _is_cited(block: Json) -> bool:
    """Say whether the answer is to cite a document: by its characters or blocks, as they were sent."""
    citations = block.get("citations")
    return is_object(citations) and bool(citations.get("enabled"))


def iter_texts(content: object) -> Iterator[str]:
    """List all text of a content as a model reads it, for counting."""
    if isinstance(content, str):
        yield content
    for _, block in list_blocks(content):
        kind, source = get_block_type(block), block.get("source")
        if kind == "tool_use":
            yield from (str(block.get("name")), orjson.dumps(block.get("input")).decode())
        elif kind == "tool_result":
            yield from iter_texts(block.get("content"))
        elif kind not in _TEXTLESS_TYPES:
            yield from _iter_strings(block, _UNCOUNTED_FIELDS)
        if kind == "document" and is_object(source) and source.get("type") == "text":
            yield str(source.get("data"))


def identify_block(block: Json) -> list[str]:
    """Return what tells a block from others, also when it has been through a client's hands."""
    kind = get_block_type(block)
    if kind == "text":
        return [kind, str(block.get("text"))]
    if kind in REASONING_TYPES:
        return [kind, str(block.get("signature") or block.get("data") or block.get("thinking"))]
    if kind == "tool_use":
        return [
            kind,
            str(block.get("id")),
            str(block.get("name")),
            *_iter_strings(block.get("input"), _VOLATILE_FIELDS),
        ]
    if kind == "tool_result":
        return [kind, str(block.get("tool_use_id")), *iter_texts(block.get("content"))]
    named = block.get("id") or block.get("tool_use_id")
    return [kind, str(named)] if named else [kind, *_iter_strings(block, _VOLATILE_FIELDS)]


def _iter_strings(value: object, excluded_fields: Collection[str]) -> Iterator[str]:
    """List the strings in a value, those of an object in the order of its keys; no recursion, whatever its depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif is_array(one):
            waiting.extend(reversed(one))
        elif is_object(one):
            waiting.extend(one[name] for name in sorted(one, reverse=True) if name not in excluded_fields)
