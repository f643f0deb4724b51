"""The content of an Anthropic message, a text or a list of blocks: its texts, and the identity of its blocks.

This module only reads. Blocks of an unknown type, the results of the provider's own tools (web search, code execution)
and documents with citations by position are counted and otherwise left alone.
"""

from collections.abc import Collection, Iterator

from ...compression.transcript import TextSlot
from . import json_codec
from .json_edit import Path
from .json_types import Json, is_array, is_object

REASONING_TYPES = frozenset({"thinking", "redacted_thinking"})  # clients may drop them from a reply they send back
DOCUMENT_TYPES = frozenset({"document", "search_result"})
_TEXT_TYPES = frozenset({"text"})
_READABLE_TYPES = _TEXT_TYPES | DOCUMENT_TYPES
_TEXTLESS_TYPES = frozenset({"image", "redacted_thinking"})
_IDENTIFIER_FIELDS = frozenset(
    {"type", "id", "tool_use_id", "caller", "media_type", "file_id", "url", "page_age", "file_type"}
)
_OPAQUE_FIELDS = frozenset({"data", "signature", "encrypted_content", "encrypted_index", "encrypted_stdout"})
_VOLATILE_FIELDS = frozenset({"cache_control", "citations"})  # clients add and remove them
_UNCOUNTED_FIELDS = _IDENTIFIER_FIELDS | _OPAQUE_FIELDS | _VOLATILE_FIELDS


def list_blocks(content: object) -> list[tuple[int, Json]]:
    """List the blocks of a content with their indexes. A plain text has none."""
    return (
        [(position, block) for position, block in enumerate(content) if is_object(block)] if is_array(content) else []
    )


def get_block_type(block: Json) -> str:
    """Return the type of a block; it may have any value."""
    return str(block.get("type"))


def filter_blocks(content: object, *types: str) -> list[tuple[int, Json]]:
    """List the blocks of some types with their indexes."""
    return [(position, block) for position, block in list_blocks(content) if get_block_type(block) in types]


def iter_slots(path: Path, content: object, types: Collection[str] = _READABLE_TYPES) -> Iterator[TextSlot]:
    """Yield the texts of a content in order, with their paths: its own text, documents and search results."""
    if isinstance(content, str):
        yield TextSlot(path, content)
    for position, block in filter_blocks(content, *types):
        yield from iter_block_slots((*path, position), block)


def iter_text_slots(path: Path, content: object) -> Iterator[TextSlot]:
    """Yield a content's own text: the plain text, or the blocks of type `text`."""
    return iter_slots(path, content, _TEXT_TYPES)


def iter_block_slots(path: Path, block: Json) -> Iterator[TextSlot]:
    """Yield the compressible texts of one block, with their paths."""
    block_type, source = get_block_type(block), block.get("source")
    if block_type == "text":
        if isinstance(text := block.get("text"), str):
            yield TextSlot((*path, "text"), text)
    elif _has_citations(block):
        return
    elif block_type == "search_result":
        yield from iter_text_slots((*path, "content"), block.get("content"))
    elif is_object(source) and source.get("type") == "content":
        yield from iter_text_slots((*path, "source", "content"), source.get("content"))
    elif is_object(source) and source.get("type") == "text" and isinstance(text := source.get("data"), str):
        yield TextSlot((*path, "source", "data"), text)


def _has_citations(block: Json) -> bool:
    """Return True if the reply cites a document by positions in it, which compression would shift."""
    citations = block.get("citations")
    return is_object(citations) and bool(citations.get("enabled"))


def iter_texts(content: object) -> Iterator[str]:
    """Yield all text of a content that counts as input."""
    if isinstance(content, str):
        yield content
    for _, block in list_blocks(content):
        block_type, source = get_block_type(block), block.get("source")
        if block_type == "tool_use":
            yield from (str(block.get("name")), json_codec.dumps(block.get("input")).decode())
        elif block_type == "tool_result":
            yield from iter_texts(block.get("content"))
        elif block_type not in _TEXTLESS_TYPES:
            yield from _iter_strings(block, _UNCOUNTED_FIELDS)
        if block_type == "document" and is_object(source) and source.get("type") == "text":
            yield str(source.get("data"))


def identify_block(block: Json) -> list[str]:
    """Return strings that identify a block, even after a client has parsed and rewritten it."""
    block_type = get_block_type(block)
    if block_type == "text":
        return [block_type, str(block.get("text"))]
    if block_type in REASONING_TYPES:
        return [block_type, str(block.get("signature") or block.get("data") or block.get("thinking"))]
    if block_type == "tool_use":
        arguments = _iter_strings(block.get("input"), _VOLATILE_FIELDS)
        return [block_type, str(block.get("id")), str(block.get("name")), *arguments]
    if block_type == "tool_result":
        return [block_type, str(block.get("tool_use_id")), *iter_texts(block.get("content"))]
    block_id = block.get("id") or block.get("tool_use_id")
    return [block_type, str(block_id)] if block_id else [block_type, *_iter_strings(block, _VOLATILE_FIELDS)]


def _iter_strings(value: object, excluded_fields: Collection[str]) -> Iterator[str]:
    """Yield the strings in a value, in the order of sorted keys, without recursion."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif is_array(item):
            stack.extend(reversed(item))
        elif is_object(item):
            stack.extend(item[name] for name in sorted(item, reverse=True) if name not in excluded_fields)
