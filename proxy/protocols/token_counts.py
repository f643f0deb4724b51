"""The size of conversation elements and of edits in tokens, as the protocol's adapter counts a request."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from ...compression.tokens import TokenCounter
from . import json_codec
from .json_edit import Path, StringEdit
from .json_types import Json
from .protocol import Conversation, ProtocolAdapter


def count_elements(adapter: ProtocolAdapter, elements: Sequence[Json], vocabulary: TokenCounter) -> int:
    """Return the number of tokens that messages or items add to a request."""
    conversation = adapter.read_conversation({adapter.elements_key: list(elements)})
    if conversation is None:  # elements of an unknown shape count as their JSON text
        return _count_json(elements, vocabulary)
    overhead = conversation.overhead_tokens - _count_overhead(adapter.read_conversation)
    return overhead + sum(map(vocabulary.count, conversation.texts()))


def count_insertions(adapter: ProtocolAdapter, path: Path, elements: Sequence[Json], vocabulary: TokenCounter) -> int:
    """Return the number of tokens that elements add to the array at a path: tools, elements, or parts of an element."""
    if path[0] != adapter.elements_key:
        return _count_json(elements, vocabulary)
    if len(path) == 1:
        return count_elements(adapter, elements, vocabulary)
    bare: Json = {"role": "assistant", "content": ""}
    extended = {**bare, str(path[-1]): list(elements)}
    return count_elements(adapter, [extended], vocabulary) - count_elements(adapter, [bare], vocabulary)


def count_edits(edits: Mapping[Path, StringEdit], vocabulary: TokenCounter) -> dict[Path, int]:
    """Return by how many tokens each string grows, negative if it shrinks."""
    return {path: vocabulary.count(edit.new) - vocabulary.count(edit.old) for path, edit in edits.items()}


def _count_json(values: Iterable[Json], vocabulary: TokenCounter) -> int:
    return sum(vocabulary.count(json_codec.dumps(value).decode()) for value in values)


@lru_cache(maxsize=8)
def _count_overhead(read_conversation: Callable[[Json], Conversation | None]) -> int:
    """Return the number of tokens of a request without elements."""
    empty = read_conversation({"messages": [], "input": []})
    return 0 if empty is None else empty.overhead_tokens
