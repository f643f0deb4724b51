"""The kinds of facts that clara-nano knows, as sentences with holes, read from `kinds.txt`; not the values in them.

A paragraph of the file is one kind. Its first line names it, whom it is about, what makes `v` and, for some, `a`; a
line with `=` is a statement, with `?` a question for `v`, with `!` one for `a`. `{s}` is whom it is about. The last
statement and the last question of every kind are never trained on: they are the held-out phrasings. Lines with a `+`
behind their mark are learned in the last part of the course only.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact: who it is about, what makes `v` and `a`, how it is said, how `v` and `a` are asked for."""

    name: str
    about: str
    v: str
    a: str
    statements: tuple[str, ...]
    ask_v: tuple[str, ...]
    ask_a: tuple[str, ...]
    more_statements: tuple[str, ...] = ()
    more_ask_v: tuple[str, ...] = ()
    more_ask_a: tuple[str, ...] = ()


def _kind(paragraph: str) -> Kind:
    head, *lines = paragraph.splitlines()
    name, about, v, *a = head.split()
    marks = ("= ", "? ", "! ", "=+ ", "?+ ", "!+ ")
    told = [tuple(line.removeprefix(mark) for line in lines if line.startswith(mark)) for mark in marks]
    return Kind(name, about, v, a[0] if a else "", *told)


def _read() -> tuple[Kind, ...]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(_kind(paragraph) for paragraph in text.strip().split("\n\n"))


KINDS = _read()
