"""Episodes for training and judging clara-nano: documents of facts, questions with answers, and what is not there.

Seeded, and all of it made up; no two facts of an episode contradict each other.
"""

import random
from dataclasses import replace
from typing import NamedTuple

from . import absence
from .fact import Fact, Mix, fact, phrasing
from .subjects import subject as subject_of

__all__ = ["NOT_STATED", "Episode", "Mix", "Question", "Restatement", "episode", "restatement"]

NOT_STATED = "not stated"


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


def episode(rng: random.Random, mix: Mix) -> Episode:
    """Return one random episode; no two of its facts contradict each other."""
    groups = _groups(rng, mix)
    documents = [" ".join(_say(rng, each, mix) for each in group) for group in groups]
    stated = [(each, number) for number, group in enumerate(groups) for each in group]
    told = [each for each, _ in stated]
    asked: list[Question] = []
    for _ in range(mix.questions):
        source, number = rng.choice(stated)
        if rng.random() < mix.abstain:
            absent = absence.near(rng, mix, source, told) if mix.composed else absence.other(rng, mix, source, told)
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
        template = phrasing(rng, each.kind.told, mix)
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
            if each.key in known or (each.kind.ask_a.first and reverse in asked):
                continue
            if each.kind.name == "pet" and any(key[:2] == each.key[:2] for key in known):
                continue  # "What pet does she have?" must have one answer
            known.add(each.key)
            asked.add(reverse)
            group.append(each)
        groups.append(group)
    return groups


def _say(rng: random.Random, each: Fact, mix: Mix) -> str:
    return each.say(phrasing(rng, each.kind.told, mix))


def _ask(rng: random.Random, each: Fact, mix: Mix) -> tuple[str, str]:
    kind = each.kind
    if kind.ask_a.first and rng.random() < 0.3:
        return each.ask(phrasing(rng, kind.ask_a, mix)), each.a
    return each.ask(phrasing(rng, kind.ask_v, mix)), each.v
