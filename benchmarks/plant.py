"""A planted output, and the vocabulary of its text.

One fact answers the question; two others are errors or outliers that the question does not mention. A fact is a
literal, and survives if the compressed output contains it. Nothing comes from real data, and no compressor is tuned to
an item.
"""

import re
from random import Random
from typing import NamedTuple

WORDS: list[str] = re.findall(
    r"\w+",
    """account balance batch branch buffer cache channel client cluster column commit config cursor daemon deploy device
    driver engine event export field filter folder gateway handle header import index invoice kernel ledger license
    listener locale manifest memory message metric module network node offset order packet parser payload policy pool
    process profile proxy queue quota record region registry release render report request resource retry route
    runtime sample schema scope search segment server session shard signal snapshot socket source stream table target
    tenant thread token topic trace transfer update user vendor version volume window worker""",
)


class Plant(NamedTuple):
    """An output, a question, the literal that answers it, and two literals that the question does not mention."""

    name: str
    text: str
    question: str
    answer: str
    unasked_facts: tuple[str, str]


def choose_word(rng: Random) -> str:
    """Return a random word."""
    return rng.choice(WORDS)


def choose_words(rng: Random, count: int) -> str:
    """Return random words, separated by blanks."""
    return " ".join(rng.choices(WORDS, k=count))


def make_sentence(rng: Random) -> str:
    """Return a sentence of eight to twenty words."""
    return choose_words(rng, rng.randint(8, 20)).capitalize() + "."


def choose_places(rng: Random, count: int) -> tuple[int, int, int]:
    """Return three different indices, none of them near an end."""
    first, second, third = rng.sample(range(count // 20 + 1, count - count // 20 - 1), 3)
    return first, second, third


def format_time(seconds: int) -> str:
    """Return a time so many seconds after the start."""
    return f"2026-03-{1 + seconds // 86400 % 28:02}T{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
