"""Episodes for training and judging clara-nano: documents of facts, questions with answers, and what is not there.

Seeded, and all of it made up. What is held out is decided here: by value (`values.held_out`) and by phrasing (the last
statement and the last question of every kind).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from . import values, words
from .kinds import KINDS, Kind
from .subjects import subject as subject_of

NOT_STATED = "not stated"
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


class Question(NamedTuple):
    """A question, its answer, the number of the document that holds it (None: none does), and what it is about."""

    text: str
    answer: str
    source: int | None
    about: tuple[str, str]


class Restatement(NamedTuple):
    """A document and the same facts in other words."""

    document: str
    target: str
    facts: tuple[Fact, ...]


class Episode(NamedTuple):
    """Documents that go into one request, what each is about (kind, subject), and questions that can be asked."""

    documents: tuple[str, ...]
    about: tuple[frozenset[tuple[str, str]], ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """What an episode is made of: numbers of documents, facts and questions, and shares from 0 to 1.

    `noise` is the share of values that are random words; `unseen` and `rephrased` choose the held-out values and
    phrasings (never in training), `rich` adds the phrasings of the course's last part,
    `hard` makes most questions without an answer ask the same of somebody else.
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
    kinds: tuple[Kind, ...] = KINDS


def fact(rng: random.Random, mix: Mix, subject: str | None = None, kind: Kind | None = None) -> Fact:
    """Return one random fact."""
    if kind is None:
        kinds = [kind for kind in mix.kinds if subject is None or kind.about == "person"]
        kind = rng.choice(kinds)
    about = subject if subject is not None and kind.about == "person" else subject_of(kind.about, rng)
    v = noise(rng) if rng.random() < mix.noise else values.value(kind.v, rng, unseen=mix.unseen)
    return Fact(kind, about, v, values.value(kind.a, rng, unseen=False) if kind.a else "")


def noise(rng: random.Random, least: int = 2, most: int = 4) -> str:
    """Return unconnected words, numbers or made-up names: what must be copied letter by letter."""
    parts = [
        rng.choice((rng.choice(_NOISE), rng.choice(_NOISE), values.made_up(rng), str(rng.randint(0, 9999))))
        for _ in range(rng.randint(least, most))
    ]
    return " ".join(parts)


def phrasings(lines: Sequence[str], more: Sequence[str], mix: Mix) -> Sequence[str]:
    """Return the sentences to choose from: those of training, with or without the later ones, or the held-out one."""
    if mix.rephrased:
        return lines[-1:]
    return (*lines[:-1], *more) if mix.rich else lines[:-1]


def episode(rng: random.Random, mix: Mix) -> Episode:
    """Return one random episode; no two of its facts contradict each other."""
    groups = _groups(rng, mix)
    documents = [" ".join(_say(rng, each, mix) for each in group) for group in groups]
    stated = [(each, number) for number, group in enumerate(groups) for each in group]
    known = {each.key for each, _ in stated}
    asked: list[Question] = []
    for _ in range(mix.questions):
        source, number = rng.choice(stated)
        if rng.random() < mix.abstain:
            absent = _absent(rng, mix, source, known)
            asked.append(Question(_ask(rng, absent, mix)[0], NOT_STATED, None, absent.key[:2]))
        else:
            asked.append(Question(*_ask(rng, source, mix), number, source.key[:2]))
    about = tuple(frozenset(each.key[:2] for each in group) for group in groups)
    return Episode(tuple(documents), about, tuple(asked))


def restatement(rng: random.Random, mix: Mix) -> Restatement:
    """Return a document and its facts in the kind's first words, or in its second where it had the first."""
    (group,) = _groups(rng, replace(mix, documents=1))
    document: list[str] = []
    target: list[str] = []
    for each in group:
        template = rng.choice(phrasings(each.kind.statements, each.kind.more_statements, mix))
        document.append(each.say(template))
        target.append(each.say(each.kind.statements[1 if template == each.kind.statements[0] else 0]))
    return Restatement(" ".join(document), " ".join(target), tuple(group))


def _groups(rng: random.Random, mix: Mix) -> list[list[Fact]]:
    """Return each document's facts; a document of several is mostly about one person."""
    known: set[tuple[str, str, str]] = set()
    asked: set[tuple[str, str, str]] = set()
    groups: list[list[Fact]] = []
    for _ in range(mix.documents):
        group: list[Fact] = []
        about = subject_of("person", rng) if mix.facts > 1 and rng.random() < 0.7 else None
        while len(group) < mix.facts:
            each = fact(rng, mix, about)
            reverse = (each.kind.name, each.subject, each.v)
            if each.key in known or (each.kind.ask_a and reverse in asked):
                continue
            if each.kind.name == "pet" and any(key[:2] == each.key[:2] for key in known):
                continue  # "What pet does she have?" must have one answer
            known.add(each.key)
            asked.add(reverse)
            group.append(each)
        groups.append(group)
    return groups


def _say(rng: random.Random, each: Fact, mix: Mix) -> str:
    return each.say(rng.choice(phrasings(each.kind.statements, each.kind.more_statements, mix)))


def _ask(rng: random.Random, each: Fact, mix: Mix) -> tuple[str, str]:
    kind = each.kind
    if kind.ask_a and rng.random() < 0.3:
        return each.ask(rng.choice(phrasings(kind.ask_a, kind.more_ask_a, mix))), each.a
    return each.ask(rng.choice(phrasings(kind.ask_v, kind.more_ask_v, mix))), each.v


def _absent(rng: random.Random, mix: Mix, near: Fact, known: set[tuple[str, str, str]]) -> Fact:
    """Return a fact that the episode does not hold: mostly another of the same subject, or the same of another one."""
    while True:
        toss = rng.random()
        if toss < (0.2 if mix.hard else 0.5) and near.kind.about == "person":
            made = fact(rng, mix, subject=near.subject)
        elif toss < 0.85:
            made = fact(rng, mix, kind=near.kind)
        else:
            made = fact(rng, mix)
        if not any(key[:2] == made.key[:2] for key in known):
            return made
