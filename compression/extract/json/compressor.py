"""Compresses JSON: the same values in fewer tokens, and then, if necessary, a selection by the question.

The output has a layout of its own (`writer`), so it is no sequence of verbatim pieces. But every key and every value is
a literal of the text, and values keep their order. Accepts JSON, JSON lines, and JSON with a little text around it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...compressor import CompressedPassage, Task
from ...markers import render
from ..core.selection import estimate_token_count, fit_target
from . import tree
from .records import find_tables
from .selector import JsonSelector
from .tree import JsonNode, ParsedJson, parse_json
from .weights import JsonWeights
from .writer import VALUE_UNIT, JsonWriter, WriterContext

DEFAULT_JSON_WEIGHTS = JsonWeights()


@dataclass(frozen=True)
class JsonCompressor:
    """Compresses JSON."""

    name = "json"
    weights: JsonWeights = DEFAULT_JSON_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True for text that a strict parser accepts."""
        return tree.is_parsable(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Change the layout without loss; if the outcome exceeds the target, select values."""
        parsed = parse_json(task.text)
        if parsed is None:
            return None
        tables = find_tables(task.text, parsed.root)
        context = WriterContext(task.text, tables)
        complete = _write_tree(context, parsed, None)
        size = estimate_token_count(render(complete, None), task.count)
        total = estimate_token_count(task.text, task.count)
        if size > task.target:
            selector = JsonSelector(task, parsed, tables, self.weights)
            characters = int(self.weights.outline_share * selector.total_characters * total / max(1, size))
            selection = fit_target(
                task,
                characters,
                lambda budget: _write_tree(context, parsed, selector.select_nodes(budget)),
                self.weights.good_enough_shares,
            )
            if selection is not None:
                return selection
        return complete if size < total else None


def _write_tree(context: WriterContext, parsed: ParsedJson, kept: Mapping[JsonNode, int] | None) -> CompressedPassage:
    parts = JsonWriter(context, kept).write(parsed.root, is_json_lines=parsed.is_json_lines)
    before = [parsed.text_before] if parsed.text_before else []
    after = [parsed.text_after] if parsed.text_after else []
    return CompressedPassage((*before, *parts, *after), parsed.root.leaf_count, VALUE_UNIT)
