"""The generator keeps its word: seeded, no contradictions, and what is held out never turns up in training."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.clara.train import curriculum, facts, values
from clara_proxy.compression.clara.train.facts import NOT_STATED, Mix
from clara_proxy.compression.clara.train.kinds import KINDS

SEEDS = st.integers(0, 2**32)


def test_every_kind_has_phrasings_to_learn_and_one_to_hold_out() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) > 40
    for kind in KINDS:
        assert len(set(kind.statements)) == len(kind.statements) >= 4, kind.name
        assert len(set(kind.ask_v)) == len(kind.ask_v) >= 4, kind.name
        for lines, more in (
            (kind.statements, kind.more_statements),
            (kind.ask_v, kind.more_ask_v),
            (kind.ask_a, kind.more_ask_a),
        ):
            unseen = set(facts.phrasings(lines, more, Mix(rephrased=True)))
            assert not unseen & set(facts.phrasings(lines, more, Mix())), kind.name
            assert not unseen & set(facts.phrasings(lines, more, Mix(rich=True))), kind.name


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_no_training_fact_has_a_held_out_value(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        made = facts.fact(rng, Mix())
        assert made.kind.v in values.CLOSED or not values.held_out(made.v)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_every_unseen_value_is_held_out(seed: int) -> None:
    rng = random.Random(seed)
    made = facts.fact(rng, Mix(unseen=True))
    assert made.kind.v in values.CLOSED or values.held_out(made.v)


@given(SEEDS, st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_answers_stand_in_their_documents_and_absent_ones_nowhere(seed: int, documents: int, each: int) -> None:
    made = facts.episode(random.Random(seed), Mix(documents, each, questions=6, abstain=0.3, noise=0.2))
    assert len(made.documents) == len(made.about) == documents
    for question in made.questions:
        if question.source is None:
            assert question.answer == NOT_STATED
            assert not any(question.about in about for about in made.about)
        else:
            assert question.answer.lower() in made.documents[question.source].lower()  # a sentence begins large
            assert question.about in made.about[question.source]


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_no_two_facts_of_an_episode_answer_the_same_question(seed: int) -> None:
    made = facts.episode(random.Random(seed), Mix(20, 1, questions=30))
    answers: dict[str, str] = {}
    for question in made.questions:
        assert answers.setdefault(question.text, question.answer) == question.answer


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_restatement_says_the_same_otherwise(seed: int) -> None:
    made = facts.restatement(random.Random(seed), Mix())
    assert made.document != made.target
    for fact in made.facts:
        assert fact.v in made.document
        assert fact.v in made.target


def test_a_lesson_depends_on_seed_and_step_alone() -> None:
    assert curriculum.lesson(1, 700, 1000) == curriculum.lesson(1, 700, 1000)
    assert curriculum.lesson(1, 700, 1000) != curriculum.lesson(1, 701, 1000)
    assert curriculum.lesson(1, 700, 1000) != curriculum.lesson(2, 700, 1000)


def test_lessons_grow() -> None:
    first, early, late = (curriculum.lesson(3, step, 1000) for step in (0, 100, 999))
    assert not first.episodes
    assert all(" " not in copy.document for copy in first.copies)
    assert all(len(episode.documents) == 1 for episode in early.episodes)
    assert late.search
    assert max(len(curriculum.lesson(3, step, 1000).episodes[0].documents) for step in range(900, 1000)) == 20
