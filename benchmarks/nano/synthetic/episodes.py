"""Synthetic episodes: documents of facts, and questions with and without an answer.

Episodes are seeded and free of contradictions.
"""

import random
from dataclasses import replace
from typing import NamedTuple

from . import negatives
from .facts import EpisodeSpec, Fact, choose_phrasing, make_fact
from .subjects import make_subject

NOT_STATED = "not stated"


class Question(NamedTuple):
    """A question, its answer, the index of the document with the answer (None: unanswerable), and its topic."""

    text: str
    answer: str
    source: int | None
    topic: tuple[str, str]


class Restatement(NamedTuple):
    """A document and the same facts in other words."""

    document: str
    target: str
    facts: tuple[Fact, ...]


class Episode(NamedTuple):
    """The documents of one request, the topics (kind, subject) of each, and questions about them."""

    documents: tuple[str, ...]
    topics: tuple[frozenset[tuple[str, str]], ...]
    questions: tuple[Question, ...]


def make_episode(rng: random.Random, spec: EpisodeSpec) -> Episode:
    """Return a random episode without contradictory facts."""
    groups = _make_fact_groups(rng, spec)
    documents = [" ".join(_make_statement(rng, fact, spec) for fact in group) for group in groups]
    sources = [(fact, index) for index, group in enumerate(groups) for fact in group]
    stated = [fact for fact, _ in sources]
    questions: list[Question] = []
    for _ in range(spec.questions):
        source, index = rng.choice(sources)
        if rng.random() < spec.unanswerable:
            make_negative = negatives.make_near_negative if spec.composed_phrasings else negatives.make_negative
            negative = make_negative(rng, spec, source, stated)
            questions.append(Question(_make_question(rng, negative, spec)[0], NOT_STATED, None, negative.topic))
        else:
            questions.append(Question(*_make_question(rng, source, spec), index, source.topic))
    topics = tuple(frozenset(fact.topic for fact in group) for group in groups)
    return Episode(tuple(documents), topics, tuple(questions))


def make_restatement(rng: random.Random, spec: EpisodeSpec) -> Restatement:
    """Return a document and its facts in the first statement of each kind, or in the second if it used the first."""
    (facts,) = _make_fact_groups(rng, replace(spec, documents=1))
    document: list[str] = []
    target: list[str] = []
    for fact in facts:
        template = choose_phrasing(rng, fact.kind.statements, spec)
        first, second = fact.kind.statements.base[:2]
        document.append(fact.statement(template))
        target.append(fact.statement(second if template == first else first))
    return Restatement(" ".join(document), " ".join(target), tuple(facts))


def _make_fact_groups(rng: random.Random, spec: EpisodeSpec) -> list[list[Fact]]:
    """Return the facts of each document; a document of several facts is mostly about one person."""
    keys: set[tuple[str, str, str]] = set()
    reverse_keys: set[tuple[str, str, str]] = set()
    groups: list[list[Fact]] = []
    for _ in range(spec.documents):
        group: list[Fact] = []
        shares_subject = spec.facts_per_document > 1 and rng.random() < 0.7
        subject = make_subject("person", rng) if shares_subject else None
        while len(group) < spec.facts_per_document:
            fact = make_fact(rng, spec, subject)
            reverse_key = (*fact.topic, fact.value)
            if fact.key in keys or (fact.kind.attribute_questions.base and reverse_key in reverse_keys):
                continue
            if fact.kind.name == "pet" and any(key[:2] == fact.topic for key in keys):
                continue  # "What pet does she have?" must have one answer
            keys.add(fact.key)
            reverse_keys.add(reverse_key)
            group.append(fact)
        groups.append(group)
    return groups


def _make_statement(rng: random.Random, fact: Fact, spec: EpisodeSpec) -> str:
    return fact.statement(choose_phrasing(rng, fact.kind.statements, spec))


def _make_question(rng: random.Random, fact: Fact, spec: EpisodeSpec) -> tuple[str, str]:
    """Return a question about a fact and its answer."""
    kind = fact.kind
    if kind.attribute_questions.base and rng.random() < 0.3:
        return fact.question(choose_phrasing(rng, kind.attribute_questions, spec)), fact.attribute
    return fact.question(choose_phrasing(rng, kind.value_questions, spec)), fact.value
