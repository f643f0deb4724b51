"""The kinds of facts that clara-nano knows, as sentences with holes, read from `kinds.txt`; not the values in them.

A paragraph of the file is one kind. Its first line names it, whom it is about, what makes `v` and, for some, `a`; a
line with `=` is a statement, with `?` a question for `v`, with `!` one for `a`. `{s}` is whom it is about. The last
statement and the last question of every kind are never trained on: they are the held-out phrasings. Lines with a `+`
behind their mark are learned from the course's second half on, and those that `grammar` composes in its last part.
"""

from dataclasses import dataclass
from pathlib import Path

from . import grammar
from .grammar import Group


@dataclass(frozen=True, slots=True)
class Sayings:
    """The ways to say one thing: `first` (the last of them held out), `more` of them, `composed` by patterns."""

    first: tuple[str, ...]
    more: tuple[str, ...]
    composed: tuple[Group, ...]
    composed_apart: tuple[Group, ...]  # never learned


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact: who it is about, what makes `v` and `a`, how it is said, how `v` and `a` are asked for."""

    name: str
    about: str
    v: str
    a: str
    told: Sayings
    ask_v: Sayings
    ask_a: Sayings

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that were there first; the first two are what a restatement says."""
        return self.told.first


_GRAMMAR = grammar.read()


def _kind(paragraph: str) -> Kind:
    head, *lines = paragraph.splitlines()
    name, about, v, *a = head.split()
    return Kind(name, about, v, a[0] if a else "", *(_sayings(name, mark, lines) for mark in grammar.MARKS))


def _sayings(name: str, mark: str, lines: list[str]) -> Sayings:
    first, more = (
        tuple(line.removeprefix(begin) for line in lines if line.startswith(begin))
        for begin in (f"{mark} ", f"{mark}+ ")
    )
    composed = grammar.apart(_GRAMMAR[name][mark], first[-1]) if first else ()
    learned, unseen = (grammar.sides(composed, unseen=side) for side in (False, True))
    known = {*first, *more}
    return Sayings(first, more, learned, grammar.without(unseen, lambda line: line in known))


def _read() -> tuple[Kind, ...]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(_kind(paragraph) for paragraph in text.strip().split("\n\n"))


KINDS = _read()
