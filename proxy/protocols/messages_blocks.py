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
_TEXT = frozenset({"text"})
_READ = _TEXT | DOCUMENT_TYPES
_NO_TEXT = frozenset({"image", "redacted_thinking"})
_NAMES = frozenset({"type", "id", "tool_use_id", "caller", "media_type", "file_id", "url", "page_age", "file_type"})
_CODED = frozenset({"data", "signature", "encrypted_content", "encrypted_index", "encrypted_stdout"})
_ASIDE = frozenset({"cache_control", "citations"})  # what comes and goes, or is said elsewhere
_NOT_COUNTED = _NAMES | _CODED | _ASIDE


def list_blocks(content: object) -> list[tuple[int, Json]]:
    """List the blocks of a content with their indexes; a plain text has none."""
    return [(place, block) for place, block in enumerate(content) if is_object(block)] if is_array(content) else []


def get_block_type(block: Json) -> str:
    """Return the type of a block, which may be anything."""
    return str(block.get("type"))


def filter_blocks(content: object, *kinds: str) -> list[tuple[int, Json]]:
    """List the blocks of some kinds with their indexes."""
    return [(place, block) for place, block in list_blocks(content) if get_block_type(block) in kinds]


def iter_slots(at: Path, content: object, kinds: Collection[str] = _READ) -> Iterator[TextSlot]:
    """List the texts of a content in order, with their places: its words, and what its documents and findings say."""
    if isinstance(content, str):
        yield TextSlot(at, content)
    for place, block in filter_blocks(content, *kinds):
        yield from iter_block_slots((*at, place), block)


def iter_text_slots(at: Path, content: object) -> Iterator[TextSlot]:
    """List what is said in a content itself: the plain text, or the blocks of type `text`."""
    return iter_slots(at, content, _TEXT)


def iter_block_slots(at: Path, block: Json) -> Iterator[TextSlot]:
    """List the texts of one block that may be shortened, with their places."""
    kind, source = get_block_type(block), block.get("source")
    if kind == "text":
        if isinstance(text := block.get("text"), str):
            yield TextSlot((*at, "text"), text)
    elif _is_cited(block):
        return
    elif kind == "search_result":
        yield from iter_text_slots((*at, "content"), block.get("content"))
    elif is_object(source) and source.get("type") == "content":
        yield from iter_text_slots((*at, "source", "content"), source.get("content"))
    elif is_object(source) and source.get("type") == "text" and isinstance(text := source.get("data"), str):
        yield TextSlot((*at, "source", "data"), text)


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
        elif kind not in _NO_TEXT:
            yield from _strings(block, _NOT_COUNTED)
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
        return [kind, str(block.get("id")), str(block.get("name")), *_strings(block.get("input"), _ASIDE)]
    if kind == "tool_result":
        return [kind, str(block.get("tool_use_id")), *iter_texts(block.get("content"))]
    named = block.get("id") or block.get("tool_use_id")
    return [kind, str(named)] if named else [kind, *_strings(block, _ASIDE)]


def _strings(value: object, without: Collection[str]) -> Iterator[str]:
    """List the strings in a value, those of an object in the order of its keys; no recursion, whatever its depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif is_array(one):
            waiting.extend(reversed(one))
        elif is_object(one):
            waiting.extend(one[name] for name in sorted(one, reverse=True) if name not in without)
