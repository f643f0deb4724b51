"""Compresses a text that is wrapped in JSON, such as the output of a shell: `{"returncode": 1, "output": "..."}`.

The long strings are compressed by the kind of their own content and written without escapes, one line a line. All other
fields stay as they are. JSON of many records is not of this kind.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from ..compressor import CompressedPassage, Compressor, Gap, Task
from .core.base_weights import ExtractWeights, weight


@dataclass(frozen=True, slots=True)
class WrappedWeights(ExtractWeights):
    """Weights of text in JSON."""

    min_text_characters: int = weight(300, "a wrapped text", "characters")
    min_line_ends: int = weight(3, "line ends of a wrapped text", "line ends")
    min_wrapped_share: float = weight(0.6, "wrapped texts, at least", "share of text")
    max_texts: int = weight(4, "wrapped texts, at most", "texts")
    max_text_parts: int = weight(40, "wrapped texts among parts of type `text`, at most", "texts")


DEFAULT_WRAPPED_WEIGHTS = WrappedWeights()

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*+:)?', re.DOTALL)
_PART_START = re.compile(r'"type"\s*:\s*"(?:input_|output_)?text"')


class WrappedText(NamedTuple):
    """A string of a JSON text: its offsets without the quotes, and its value."""

    start: int
    end: int
    value: str


class WrappedCompressor:
    """Compresses the long strings of a JSON text; `find_compressor` chooses the compressor of each."""

    name = "wrapped"

    def __init__(
        self, find_compressor: Callable[[str], Compressor], weights: WrappedWeights = DEFAULT_WRAPPED_WEIGHTS
    ) -> None:
        self._find_compressor = find_compressor
        self.weights = weights

    def recognises(self, text: str) -> bool:
        """Return True for JSON that consists mostly of one long text, or of a few."""
        return bool(find_wrapped_texts(text, self.weights))

    def unwrap(self, text: str) -> str:
        """Return the longest wrapped text."""
        return max((item.value for item in find_wrapped_texts(text, self.weights)), key=len, default="")

    def compress(self, task: Task) -> CompressedPassage | None:
        """Compress each wrapped text to its share of the target; a text with another unit than the longest stays."""
        items = find_wrapped_texts(task.text, self.weights)
        compressed = self._compress_items(task, items)
        longest = max(compressed, key=lambda index: len(items[index].value), default=None)
        if longest is None:
            return None
        unit = compressed[longest].unit
        parts: list[str | Gap] = []
        position = total = 0
        for index, item in enumerate(items):
            parts.append(task.text[position : item.start])
            position = item.end
            result = compressed.get(index)
            if result is None or result.unit != unit:
                parts.append(item.value)
                continue
            parts += result.parts
            total += result.total
        parts.append(task.text[position:])
        usages = [result.usage for result in compressed.values()]
        return CompressedPassage(tuple(parts), total, unit, usages[0])

    def _compress_items(self, task: Task, items: Sequence[WrappedText]) -> dict[int, CompressedPassage]:
        """Return the compressed texts by their index."""
        tokens = [task.count(item.value) for item in items]
        available = max(1, task.target - max(0, task.count(task.text) - sum(tokens)) // 2)
        compressed: dict[int, CompressedPassage] = {}
        for index, item in enumerate(items):
            target = available * tokens[index] // max(1, sum(tokens))
            result = None
            if 0 < target < tokens[index]:
                result = self._find_compressor(item.value).compress(Task(item.value, task.question, target, task.count))
            if result is not None:
                compressed[index] = result
        return compressed


def find_wrapped_texts(text: str, weights: WrappedWeights) -> list[WrappedText]:
    """Return the wrapped texts of a JSON text in order; none if it is no JSON, or consists of other values."""
    if "\\n" not in text or text.lstrip()[:1] not in ("{", "["):
        return []
    spans = [
        (match.start() + 1, match.end() - 1)
        for match in _STRING.finditer(text)
        if match[1] is None and match.end() - match.start() > weights.min_text_characters
    ]
    limit = weights.max_text_parts if _PART_START.search(text) else weights.max_texts
    size = sum(end - start for start, end in spans if text.count("\\n", start, end) >= weights.min_line_ends)
    if not 0 < len(spans) <= limit or size < weights.min_wrapped_share * len(text):
        return []
    try:
        orjson.loads(text)
        items = [WrappedText(start, end, json.loads(text[start - 1 : end + 1])) for start, end in spans]
        orjson.dumps([item.value for item in items])  # refuses lone surrogates
    except (ValueError, TypeError, RecursionError):
        return []
    return items
