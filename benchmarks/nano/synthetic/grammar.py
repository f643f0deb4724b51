"""Phrasings generated from patterns, read from `grammar.txt`.

Each paragraph of the file is one kind of fact, with the line marks of `fact_kinds.txt`. `(a|b|)` is a choice, may be
empty and may be nested. `[noun|noun]` means "{s}'s noun" or "the noun of {s}". `?:` lines hold noun phrases and `?>`
lines hold clauses; each is put into a dozen question frames. Phrasings that contain a held-out phrasing of
`fact_kinds.txt` are dropped, and a tenth of the rest, by hash, is held out.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .values import is_held_out

Group = tuple[str, ...]  # the phrasings of one pattern
MARKS = ("=", "?", "!")
_INNERMOST_CHOICE = re.compile(r"\(([^()]*)\)")
_NOUNS = re.compile(r"\[([^\[\]]*)\]")
_NOUN_PHRASE_FRAMES = (
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
_CLAUSE_FRAMES = (
    "Can you tell me @?",
    "Do you know @?",
    "Do you remember @?",
    "Tell me @.",
    "I wonder @.",
    "Please say @.",
    "I would like to know @.",
)


def expand_pattern(pattern: str) -> Iterator[str]:
    """Yield every text of a pattern."""
    choice = _INNERMOST_CHOICE.search(pattern)
    if choice is None:
        yield re.sub(" +([.?,])", r"\1", re.sub(" +", " ", pattern))
        return
    for part in choice[1].split("|"):
        yield from expand_pattern(pattern[: choice.start()] + part + pattern[choice.end() :])


def expand_line(mark: str, pattern: str) -> Group:
    """Return the phrasings of one line of the file."""
    pattern = _NOUNS.sub(
        lambda match: "|".join(f"{{s}}'s {noun}|the {noun} of {{s}}" for noun in match[1].split("|")), pattern
    )
    if mark == "=" or len(mark) == 1:
        return tuple(dict.fromkeys(expand_pattern(pattern)))
    frames = _NOUN_PHRASE_FRAMES if mark.endswith(":") else _CLAUSE_FRAMES
    texts = dict.fromkeys(expand_pattern(f"({pattern})"))
    return tuple(frame.replace("@", text) for text in texts for frame in frames)


def normalize_phrasing(phrasing: str) -> str:
    """Return a phrasing in lower case and without its final punctuation, for substring search."""
    return phrasing.lower().rstrip(".?")


def drop_phrasings(groups: Iterable[Group], should_drop: Callable[[str], bool]) -> tuple[Group, ...]:
    """Return groups without some of their phrasings and without empty groups."""
    remaining = (tuple(phrasing for phrasing in group if not should_drop(phrasing)) for group in groups)
    return tuple(group for group in remaining if group)


def drop_containing(groups: Iterable[Group], held_out: str) -> tuple[Group, ...]:
    """Return groups without the phrasings that contain a held-out phrasing."""
    return drop_phrasings(groups, lambda phrasing: normalize_phrasing(held_out) in phrasing.lower())


def select_side(groups: Iterable[Group], *, held_out: bool) -> tuple[Group, ...]:
    """Return the held-out tenth of the phrasings, or the other nine tenths."""
    return drop_phrasings(groups, lambda phrasing: is_held_out(phrasing) != held_out)


def read_grammar() -> dict[str, dict[str, tuple[Group, ...]]]:
    """Return the groups of phrasings by kind and by mark (`MARKS`)."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return dict(_parse_kind(paragraph) for paragraph in text.strip().split("\n\n"))


def _parse_kind(paragraph: str) -> tuple[str, dict[str, tuple[Group, ...]]]:
    name, *lines = paragraph.splitlines()
    groups: dict[str, list[Group]] = {mark: [] for mark in MARKS}
    for line in lines:
        mark, pattern = line.split(" ", 1)
        groups[mark[0]].append(expand_line(mark, pattern))
    return name, {mark: tuple(phrasings) for mark, phrasings in groups.items()}
