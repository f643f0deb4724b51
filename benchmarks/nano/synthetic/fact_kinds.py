"""The kinds of synthetic facts as sentence templates, read from `fact_kinds.txt`.

Each paragraph of the file is one kind. Its first line gives the name and the types of the subject, the value and,
optionally, the attribute. A line with `=` is a statement, one with `?` a question about the value, one with `!` a
question about the attribute. The placeholders are `{s}` (subject), `{v}` (value) and `{a}` (attribute). The last
statement and the last question of every kind are held out of training. A `+` after the mark delays a line to the second
half of the training.
"""

from dataclasses import dataclass
from pathlib import Path

from . import grammar
from .grammar import Group


@dataclass(frozen=True, slots=True)
class Phrasings:
    """The templates for one statement or question; the last `base` template and `composed_held_out` are held out."""

    base: tuple[str, ...]
    late: tuple[str, ...]
    composed: tuple[Group, ...]
    composed_held_out: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class FactKind:
    """One kind of fact: the types of its parts, and the phrasings of its statements and questions.

    `attribute_type` is empty if the kind has no attribute. A restatement uses the first two base statements.
    """

    name: str
    subject_type: str
    value_type: str
    attribute_type: str
    statements: Phrasings
    value_questions: Phrasings
    attribute_questions: Phrasings


_GRAMMAR = grammar.read_grammar()


def _parse_kind(paragraph: str) -> FactKind:
    head, *lines = paragraph.splitlines()
    name, subject_type, value_type, *attribute_type = head.split()
    phrasings = (_parse_phrasings(name, mark, lines) for mark in grammar.MARKS)
    return FactKind(name, subject_type, value_type, attribute_type[0] if attribute_type else "", *phrasings)


def _parse_phrasings(name: str, mark: str, lines: list[str]) -> Phrasings:
    base, late = (
        tuple(line.removeprefix(prefix) for line in lines if line.startswith(prefix))
        for prefix in (f"{mark} ", f"{mark}+ ")
    )
    composed = grammar.drop_containing(_GRAMMAR[name][mark], base[-1]) if base else ()
    trained, held_out = (grammar.select_side(composed, held_out=side) for side in (False, True))
    fixed = {*base, *late}
    return Phrasings(base, late, trained, grammar.drop_phrasings(held_out, lambda phrasing: phrasing in fixed))


def _read_kinds() -> tuple[FactKind, ...]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(_parse_kind(paragraph) for paragraph in text.strip().split("\n\n"))


KINDS = _read_kinds()
