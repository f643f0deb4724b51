"""What a planted output is, and the words that it is made of.

One fact is what the question asks for; the other two are errors or outliers that nobody asked about. A fact is a
literal: it survives when it stands in what is left. Nothing is taken from real data; no compressor is tuned to an item.
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
    """An output, what is asked of it, the literal that answers, and two literals that nobody asked for."""

    name: str
    text: str
    question: str
    answer: str
    unasked_facts: tuple[str, str]


def choose_word(chance: Random) -> str:
    """Return a word."""
    return chance.choice(WORDS)


def choose_words(chance: Random, many: int) -> str:
    """Return so many words."""
    return " ".join(chance.choices(WORDS, k=many))


def make_sentence(chance: Random) -> str:
    """Return a sentence of eight to twenty words."""
    return choose_words(chance, chance.randint(8, 20)).capitalize() + "."


def choose_places(chance: Random, many: int) -> tuple[int, int, int]:
    """Choose three different places, none of them at an end."""
    first, second, third = chance.sample(range(many // 20 + 1, many - many // 20 - 1), 3)
    return first, second, third


def format_time(at: int) -> str:
    """Return the time so many seconds after the first."""
    return f"2026-03-{1 + at // 86400 % 28:02}T{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}"
