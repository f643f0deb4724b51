"""What elements of a conversation cost in tokens, as their wire counts them in a request. Knows no protocol."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import orjson

from ...compression.tokens import TokenCounter
from .json_edit import Path, StringEdit
from .json_types import Json
from .protocol import Conversation, ProtocolAdapter


def count_elements(adapter: ProtocolAdapter, listed: Sequence[Json], vocabulary: TokenCounter) -> int:
    """Return what messages or items add to a request."""
    read = adapter.read_conversation({adapter.elements_key: list(listed)})
    if read is None:  # of no known shape: what stands there
        return sum(vocabulary.count(orjson.dumps(one).decode()) for one in listed)
    return read.overhead_tokens - _count_overhead(adapter.read_conversation) + sum(map(vocabulary.count, read.texts()))


def count_insertions(adapter: ProtocolAdapter, path: Path, texts: Iterable[bytes], vocabulary: TokenCounter) -> int:
    """Return what JSON texts add that come into the array at a path: tools, elements, or parts of one element."""
    if path[0] != adapter.elements_key:
        return sum(vocabulary.count(one.decode()) for one in texts)
    read: list[Json] = [orjson.loads(one) for one in texts]
    if len(path) == 1:
        return count_elements(adapter, read, vocabulary)
    bare: Json = {"role": "assistant", "content": ""}
    return count_elements(adapter, [{**bare, str(path[-1]): read}], vocabulary) - count_elements(
        adapter, [bare], vocabulary
    )


def count_edits(edits: Mapping[Path, StringEdit], vocabulary: TokenCounter) -> dict[Path, int]:
    """Return by how many tokens strings grew, or shrank below nought."""
    return {path: vocabulary.count(edit.new) - vocabulary.count(edit.old) for path, edit in edits.items()}


@lru_cache(maxsize=8)
def _count_overhead(read: Callable[[Json], Conversation | None]) -> int:
    """Return what a request without any element costs."""
    nothing = read({"messages": [], "input": []})
    return 0 if nothing is None else nothing.overhead_tokens
