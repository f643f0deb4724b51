"""What elements of a conversation cost in tokens, as their wire counts them in a request. Knows no protocol."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import orjson

from ...compression.tokens import Vocabulary
from .json_edit import Edit, Path
from .json_types import Json
from .protocol import Conversation, Wire


def elements(wire: Wire, listed: Sequence[Json], counted: Vocabulary) -> int:
    """Return what messages or items add to a request."""
    read = wire.read({wire.elements: list(listed)})
    if read is None:  # of no known shape: what stands there
        return sum(counted.count(orjson.dumps(one).decode()) for one in listed)
    return read.overhead - _overhead(wire.read) + sum(map(counted.count, read.texts()))


def woven(wire: Wire, path: Path, texts: Iterable[bytes], counted: Vocabulary) -> int:
    """Return what JSON texts add that come into the array at a path: tools, elements, or parts of one element."""
    if path[0] != wire.elements:
        return sum(counted.count(one.decode()) for one in texts)
    read: list[Json] = [orjson.loads(one) for one in texts]
    if len(path) == 1:
        return elements(wire, read, counted)
    bare: Json = {"role": "assistant", "content": ""}
    return elements(wire, [{**bare, str(path[-1]): read}], counted) - elements(wire, [bare], counted)


def edited(edits: Mapping[Path, Edit], counted: Vocabulary) -> dict[Path, int]:
    """Return by how many tokens strings grew, or shrank below nought."""
    return {path: counted.count(edit.new) - counted.count(edit.old) for path, edit in edits.items()}


@lru_cache(maxsize=8)
def _overhead(read: Callable[[Json], Conversation | None]) -> int:
    """Return what a request without any element costs."""
    nothing = read({"messages": [], "input": []})
    return 0 if nothing is None else nothing.overhead
