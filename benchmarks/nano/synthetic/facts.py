"""Random synthetic facts: subject, value and phrasing, from a seeded generator.

Values are held out by hash (`values.is_held_out`). Of the phrasings, the last base template of every kind and a tenth
of the composed ones are held out.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from . import values, word_lists
from .fact_kinds import KINDS, FactKind, Phrasings
from .subjects import make_subject

COMPOSED_SHARE = 0.6  # of phrasings, if the specification allows composed ones
_NOISE_WORDS = (
    *word_lists.GENERAL,
    *word_lists.NOUNS,
    *word_lists.ADJECTIVES,
    *word_lists.FOODS,
    *word_lists.PLACES,
    *word_lists.JOBS,
    *word_lists.FIRST_NAMES,
)


@dataclass(frozen=True, slots=True)
class Fact:
    """The value of a subject; `attribute` is empty if the kind has none."""

    kind: FactKind
    subject: str
    value: str
    attribute: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, subject and attribute: an episode states at most one value for a key."""
        return self.kind.name, self.subject, self.attribute

    @property
    def topic(self) -> tuple[str, str]:
        """Kind and subject."""
        return self.kind.name, self.subject

    def statement(self, template: str) -> str:
        """Return the fact as a sentence."""
        is_user = self.subject == "the user" and template.startswith("{s}")
        return self._fill(template, "User" if is_user else self.subject)

    def question(self, template: str) -> str:
        """Return a question about the fact."""
        return self._fill(template, self.subject)

    def _fill(self, template: str, subject: str) -> str:
        text = template.format(s=subject, v=self.value, a=self.attribute)
        return text[0].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """The sizes of an episode and its share of special cases (0 to 1).

    `unanswerable` is the share of questions without an answer, `noise` that of values made of random words.
    `unseen_values` and `unseen_phrasings` select the held-out side and are never used in training.
    `late_phrasings` and `composed_phrasings` add the phrasings of later parts of the training.
    `hard_negatives` makes most unanswerable questions ask about another subject; with `composed_phrasings` they are
    close to a stated fact, and with `subject_negatives` the other subject is less often the user or a similar name.
    """

    documents: int = 1
    facts_per_document: int = 1
    questions: int = 1
    unanswerable: float = 0.0
    noise: float = 0.0
    unseen_values: bool = False
    unseen_phrasings: bool = False
    late_phrasings: bool = False
    hard_negatives: bool = False
    composed_phrasings: bool = False
    subject_negatives: bool = False
    kinds: tuple[FactKind, ...] = KINDS


def make_fact(rng: random.Random, spec: EpisodeSpec, subject: str | None = None, kind: FactKind | None = None) -> Fact:
    """Return a random fact, optionally about a person or of a kind."""
    if kind is None:
        kinds = [kind for kind in spec.kinds if subject is None or kind.subject_type == "person"]
        kind = rng.choice(kinds)
    if subject is None or kind.subject_type != "person":
        subject = make_subject(kind.subject_type, rng)
    if rng.random() < spec.noise:
        value = values.make_spelled_words(rng, 1, 3) if spec.composed_phrasings else make_noise(rng)
    else:
        value = values.make_value(kind.value_type, rng, unseen=spec.unseen_values)
    attribute = values.make_value(kind.attribute_type, rng, unseen=False) if kind.attribute_type else ""
    return Fact(kind, subject, value, attribute)


def make_noise(rng: random.Random, least: int = 2, most: int = 4) -> str:
    """Return random words, numbers or invented names, which a model can only copy."""
    parts = [
        rng.choice(
            (rng.choice(_NOISE_WORDS), rng.choice(_NOISE_WORDS), values.make_word(rng), str(rng.randint(0, 9999)))
        )
        for _ in range(rng.randint(least, most))
    ]
    return " ".join(parts)


def fixed_phrasings(phrasings: Phrasings, spec: EpisodeSpec) -> Sequence[str]:
    """Return the written-out templates that a specification allows."""
    if spec.unseen_phrasings:
        return phrasings.base[-1:]
    return (*phrasings.base[:-1], *phrasings.late) if spec.late_phrasings else phrasings.base[:-1]


def choose_phrasing(rng: random.Random, phrasings: Phrasings, spec: EpisodeSpec) -> str:
    """Return a random template that a specification allows, written-out or composed."""
    groups = phrasings.composed_held_out if spec.unseen_phrasings else phrasings.composed
    if spec.composed_phrasings and groups and (spec.unseen_phrasings or rng.random() < COMPOSED_SHARE):
        return rng.choice(rng.choice(groups))
    return rng.choice(fixed_phrasings(phrasings, spec))
