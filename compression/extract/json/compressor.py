"""JSON: the same values in fewer tokens first; if that is not short enough, the values that the question asks for.

What comes out is laid out anew, so it is not a run of pieces of the text as in the other kinds, but every key and every
value in it is a literal of the text, and values stand in their order (`json_layout` has the form, `json_choice` the
choice). Takes JSON, JSON lines, and JSON with a little other text around it.
"""

from collections.abc import Mapping, Sequence

from ...compressor import Condensed, Gap, Task
from ...markers import render
from ..core.selection import fit, tokens
from . import tree
from .choice import Choice
from .records import tables
from .tree import Node, Parsed, parse
from .writer import UNIT, Laid, Writer

OUTLINE = 0.8  # of the pieces that would fit if they took as little room as they do in the whole: labels take some


class JsonData:
    """Compresses JSON."""

    name = "json"

    def recognises(self, text: str) -> bool:
        """Recognise what a strict parser takes."""
        return tree.takes(text)

    def compress(self, task: Task) -> Condensed | None:
        """Re-lay without loss; when that is still over the target, choose."""
        parsed = parse(task.text)
        if parsed is None:
            return None
        found = tables(task.text, parsed.root)
        laid = Laid(task.text, found)
        whole = _written(laid, parsed, None)
        size, before = tokens(render(whole, None), task.count), tokens(task.text, task.count)
        if size > task.target:
            choice = Choice(task, parsed, found)
            worth = int(OUTLINE * choice.characters * before / max(1, size))
            chosen = fit(task, worth, lambda budget: _written(laid, parsed, choice.kept(budget)))
            if chosen is not None:
                return chosen
        return whole if size < before else None


def _written(laid: Laid, parsed: Parsed, kept: Mapping[Node, int] | None) -> Condensed:
    parts: Sequence[str | Gap] = Writer(laid, kept).write(parsed.root, by_line=parsed.by_line)
    around = [parsed.before] if parsed.before else [], [parsed.after] if parsed.after else []
    return Condensed((*around[0], *parts, *around[1]), parsed.root.leaves, UNIT)
