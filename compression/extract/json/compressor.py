"""JSON: the same values in fewer tokens first; if that is not short enough, the values that the question asks for.

What comes out is laid out anew, so it is not a run of pieces of the text as in the other kinds, but every key and every
value in it is a literal of the text, and values stand in their order (`json_layout` has the form, `json_choice` the
choice). Takes JSON, JSON lines, and JSON with a little other text around it.
"""

from collections.abc import Mapping, Sequence

from ...compressor import CompressedPassage, Gap, Task
from ...markers import render
from ..core.selection import estimate_token_count, fit_target
from . import tree
from .choice import JsonSelector
from .records import find_tables
from .tree import JsonNode, ParsedJson, parse_json
from .writer import VALUE_UNIT, JsonWriter, WriterContext

OUTLINE_SHARE = (
    0.8  # of the pieces that would fit if they took as little room as they do in the whole: labels take some
)


class JsonCompressor:
    """Compresses JSON."""

    name = "json"

    def recognises(self, text: str) -> bool:
        """Recognise what a strict parser takes."""
        return tree.is_parsable(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Re-lay without loss; when that is still over the target, choose."""
        parsed = parse_json(task.text)
        if parsed is None:
            return None
        found = find_tables(task.text, parsed.root)
        laid = WriterContext(task.text, found)
        whole = _write_tree(laid, parsed, None)
        size, before = (
            estimate_token_count(render(whole, None), task.count),
            estimate_token_count(task.text, task.count),
        )
        if size > task.target:
            choice = JsonSelector(task, parsed, found)
            worth = int(OUTLINE_SHARE * choice.total_characters * before / max(1, size))
            chosen = fit_target(task, worth, lambda budget: _write_tree(laid, parsed, choice.select_nodes(budget)))
            if chosen is not None:
                return chosen
        return whole if size < before else None


def _write_tree(laid: WriterContext, parsed: ParsedJson, kept: Mapping[JsonNode, int] | None) -> CompressedPassage:
    parts: Sequence[str | Gap] = JsonWriter(laid, kept).write(parsed.root, by_line=parsed.is_json_lines)
    around = [parsed.text_before] if parsed.text_before else [], [parsed.text_after] if parsed.text_after else []
    return CompressedPassage((*around[0], *parts, *around[1]), parsed.root.leaf_count, VALUE_UNIT)
