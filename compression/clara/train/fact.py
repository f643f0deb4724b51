"""One made-up fact: what it is about, how it is said and asked for, and which facts, values and phrasings are chosen.

Seeded. What is held out is decided by value (`values.held_out`) and by phrasing (the last statement and the last
question of every kind, and a tenth of what `grammar` composes).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from . import values, words
from .kinds import KINDS, Kind, Sayings
from .subjects import subject as subject_of

COMPOSED = 0.6  # of phrasings where composed ones are learned
_NOISE = (*words.GENERAL, *words.NOUNS, *words.ADJECTIVES, *words.FOODS, *words.PLACES, *words.JOBS, *words.FIRST_NAMES)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so: `v` of `subject`, with `a` as its other half where the kind has one."""

    kind: Kind
    subject: str
    v: str
    a: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What must not be stated twice in an episode with different values."""
        return self.kind.name, self.subject, self.a

    def say(self, template: str) -> str:
        """Return the fact as a sentence."""
        user = self.subject == "the user"
        subject = "User" if user and template.startswith("{s}") else self.subject
        text = template.format(s=subject, v=self.v, a=self.a)
        return text[0].upper() + text[1:]

    def ask(self, template: str) -> str:
        """Return a question about it."""
        text = template.format(s=self.subject, v=self.v, a=self.a)
        return text[0].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Mix:
    """What an episode is made of: numbers of documents, facts and questions, and shares from 0 to 1.

    `noise` is the share of values that are random words; `unseen` and `rephrased` choose the held-out values and
    phrasings (never in training), `rich` adds the phrasings of the course's second half, `composed` those of its last
    part (with `rephrased`: the held-out ones among these), and harder questions without an answer than `hard`,
    which makes most of them ask the same of somebody else; `whose` makes somebody else less often the user or almost
    the same name.
    """

    documents: int = 1
    facts: int = 1
    questions: int = 1
    abstain: float = 0.0
    noise: float = 0.0
    unseen: bool = False
    rephrased: bool = False
    rich: bool = False
    hard: bool = False
    composed: bool = False
    whose: bool = False
    kinds: tuple[Kind, ...] = KINDS


def fact(rng: random.Random, mix: Mix, subject: str | None = None, kind: Kind | None = None) -> Fact:
    """Return one random fact."""
    if kind is None:
        kinds = [kind for kind in mix.kinds if subject is None or kind.about == "person"]
        kind = rng.choice(kinds)
    about = subject if subject is not None and kind.about == "person" else subject_of(kind.about, rng)
    if rng.random() < mix.noise:
        v = values.spelled(rng, 1, 3) if mix.composed else noise(rng)
    else:
        v = values.value(kind.v, rng, unseen=mix.unseen)
    return Fact(kind, about, v, values.value(kind.a, rng, unseen=False) if kind.a else "")


def noise(rng: random.Random, least: int = 2, most: int = 4) -> str:
    """Return unconnected words, numbers or made-up names: what must be copied letter by letter."""
    parts = [
        rng.choice((rng.choice(_NOISE), rng.choice(_NOISE), values.made_up(rng), str(rng.randint(0, 9999))))
        for _ in range(rng.randint(least, most))
    ]
    return " ".join(parts)


def phrasings(sayings: Sayings, mix: Mix) -> Sequence[str]:
    """Return the sentences to choose from: those of training, with or without the later ones, or the held-out one."""
    if mix.rephrased:
        return sayings.first[-1:]
    return (*sayings.first[:-1], *sayings.more) if mix.rich else sayings.first[:-1]


def phrasing(rng: random.Random, sayings: Sayings, mix: Mix) -> str:
    """Return one sentence with holes."""
    groups = sayings.composed_apart if mix.rephrased else sayings.composed
    if mix.composed and groups and (mix.rephrased or rng.random() < COMPOSED):
        return rng.choice(rng.choice(groups))
    return rng.choice(phrasings(sayings, mix))
