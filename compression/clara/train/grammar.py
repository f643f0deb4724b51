"""Many phrasings from few patterns, read from `grammar.txt`; not the sentences written out, which are in `kinds.txt`.

A paragraph of the file is one kind; marks are those of `kinds.txt`. `(a|b|)` stands for one of its parts, and may hold
others; `[noun|noun]` for "{s}'s noun" or "the noun of {s}". `?:` asks for the noun phrases behind it, `?>` for clauses,
in a dozen ways. No phrasing holds one of those that `kinds.txt` sets apart, and a tenth of them, by
their hash, is set apart here.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .values import held_out

Group = tuple[str, ...]  # what one pattern gives
MARKS = ("=", "?", "!")
_INNERMOST = re.compile(r"\(([^()]*)\)")
_NOUNS = re.compile(r"\[([^\[\]]*)\]")
_NOUN_PHRASES = (
    "What is @?",
    "What's @?",
    "Can you tell me @?",
    "Do you know @?",
    "Do you remember @?",
    "Could you say what @ is?",
    "Tell me @.",
    "Please tell me @.",
    "I would like to know @.",
)
_CLAUSES = (
    "Can you tell me @?",
    "Do you know @?",
    "Do you remember @?",
    "Tell me @.",
    "I wonder @.",
    "Please say @.",
    "I would like to know @.",
)


def expand(pattern: str) -> Iterator[str]:
    """Yield every text that a pattern stands for."""
    found = _INNERMOST.search(pattern)
    if found is None:
        yield re.sub(" +([.?,])", r"\1", re.sub(" +", " ", pattern))
        return
    for part in found[1].split("|"):
        yield from expand(pattern[: found.start()] + part + pattern[found.end() :])


def lines(mark: str, pattern: str) -> Group:
    """Return the phrasings of one line of the file."""
    pattern = _NOUNS.sub(lambda found: "|".join(f"{{s}}'s {n}|the {n} of {{s}}" for n in found[1].split("|")), pattern)
    if mark == "=" or len(mark) == 1:
        return tuple(dict.fromkeys(expand(pattern)))
    frames = _NOUN_PHRASES if mark.endswith(":") else _CLAUSES
    said = dict.fromkeys(expand(f"({pattern})"))
    return tuple(frame.replace("@", each) for each in said for frame in frames)


def core(line: str) -> str:
    """Return a phrasing without its capital and its full stop, to be looked for in others."""
    return line.lower().rstrip(".?")


def without(groups: Iterable[Group], is_out: Callable[[str], bool]) -> tuple[Group, ...]:
    """Return groups without some of their phrasings; a group that is left empty goes."""
    kept = (tuple(each for each in group if not is_out(each)) for group in groups)
    return tuple(group for group in kept if group)


def apart(groups: Iterable[Group], line: str) -> tuple[Group, ...]:
    """Return groups without the phrasings that hold one that is set apart."""
    return without(groups, lambda each: core(line) in each.lower())


def sides(groups: Iterable[Group], *, unseen: bool) -> tuple[Group, ...]:
    """Return the nine tenths to learn, or the tenth that is never learned."""
    return without(groups, lambda each: held_out(each) != unseen)


def read() -> dict[str, dict[str, tuple[Group, ...]]]:
    """Return kind -> mark (`MARKS`) -> groups of phrasings."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return dict(_kind(paragraph) for paragraph in text.strip().split("\n\n"))


def _kind(paragraph: str) -> tuple[str, dict[str, tuple[Group, ...]]]:
    name, *written = paragraph.splitlines()
    found: dict[str, list[Group]] = {mark: [] for mark in MARKS}
    for line in written:
        mark, pattern = line.split(" ", 1)
        found[mark[0]].append(lines(mark, pattern))
    return name, {mark: tuple(groups) for mark, groups in found.items()}
