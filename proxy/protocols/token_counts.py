"""What elements of a conversation cost in tokens, as their wire counts them in a request. Knows no protocol."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import orjson

from ...compression.tokens import TokenCounter
from .json_edit import StringEdit, Path
from .json_types import Json
from .protocol import Conversation, ProtocolAdapter


def count_elements(wire: ProtocolAdapter, listed: Sequence[Json], counted: TokenCounter) -> int:
    """Return what messages or items add to a request."""
    read = wire.read_conversation({wire.elements_key: list(listed)})
    if read is None:  # of no known shape: what stands there
        return sum(counted.count(orjson.dumps(one).decode()) for one in listed)
    return read.overhead_tokens - _overhead(wire.read_conversation) + sum(map(counted.count, read.texts()))


def count_insertions(wire: ProtocolAdapter, path: Path, texts: Iterable[bytes], counted: TokenCounter) -> int:
    """Return what JSON texts add that come into the array at a path: tools, elements, or parts of one element."""
    if path[0] != wire.elements_key:
        return sum(counted.count(one.decode()) for one in texts)
    read: list[Json] = [orjson.loads(one) for one in texts]
    if len(path) == 1:
        return count_elements(wire, read, counted)
    bare: Json = {"role": "assistant", "content": ""}
    return count_elements(wire, [{**bare, str(path[-1]): read}], counted) - count_elements(wire, [bare], counted)


def count_edits(edits: Mapping[Path, StringEdit], counted: TokenCounter) -> dict[Path, int]:
    """Return by how many tokens strings grew, or shrank below nought."""
    return {path: counted.count(edit.new) - counted.count(edit.old) for path, edit in edits.items()}


@lru_cache(maxsize=8)
def _overhead(read: Callable[[Json], Conversation | None]) -> int:
    """Return what a request without any element costs."""
    nothing = read({"messages": [], "input": []})
    return 0 if nothing is None else nothing.overhead_tokens
