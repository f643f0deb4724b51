"""The generator keeps its word: seeded, no contradictions, and what is held out never turns up in training."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.clara.train import absence, curriculum, fact, facts, grammar, values
from clara_proxy.compression.clara.train.fact import Mix
from clara_proxy.compression.clara.train.facts import NOT_STATED
from clara_proxy.compression.clara.train.kinds import KINDS

SEEDS = st.integers(0, 2**32)


def test_every_kind_has_phrasings_to_learn_and_one_to_hold_out() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) > 40
    for kind in KINDS:
        assert len(set(kind.statements)) == len(kind.statements) >= 4, kind.name
        assert len(set(kind.ask_v.first)) == len(kind.ask_v.first) >= 4, kind.name
        for sayings in (kind.told, kind.ask_v, kind.ask_a):
            unseen = set(fact.phrasings(sayings, Mix(rephrased=True)))
            assert not unseen & set(fact.phrasings(sayings, Mix())), kind.name
            assert not unseen & set(fact.phrasings(sayings, Mix(rich=True))), kind.name


def test_no_composed_phrasing_holds_a_held_out_one_or_is_one() -> None:
    for kind in KINDS:
        for sayings in (kind.told, kind.ask_v, kind.ask_a):
            learned = {each for group in sayings.composed for each in group}
            apart = {each for group in sayings.composed_apart for each in group}
            assert not learned & apart, kind.name
            assert bool(learned) == bool(sayings.first), kind.name
            assert not any(
                grammar.core(line) in each.lower() for line in sayings.first[-1:] for each in learned | apart
            )


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_lessons_with_composed_phrasings_use_only_those_to_learn(seed: int) -> None:
    rng = random.Random(seed)
    made = fact.fact(rng, Mix())
    for sayings in (made.kind.told, made.kind.ask_v):
        apart = {each for group in sayings.composed_apart for each in group} | {sayings.first[-1]}
        told = {fact.phrasing(rng, sayings, Mix(rich=True, composed=True)) for _ in range(200)}
        assert not told & apart
        if sayings.composed_apart:
            assert fact.phrasing(rng, sayings, Mix(rephrased=True, composed=True)) in apart


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_no_training_fact_has_a_held_out_value(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        made = fact.fact(rng, Mix())
        assert made.kind.v in values.CLOSED or not values.held_out(made.v)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_every_unseen_value_is_held_out(seed: int) -> None:
    rng = random.Random(seed)
    made = fact.fact(rng, Mix(unseen=True))
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
    for each in made.facts:
        assert each.v in made.document
        assert each.v in made.target


@given(SEEDS, st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_absent_but_near_is_answered_by_nothing(seed: int, documents: int, each: int) -> None:
    rng = random.Random(seed)
    stated = [fact.fact(rng, Mix()) for _ in range(documents * each)]
    made = absence.near(rng, Mix(composed=True), rng.choice(stated), stated)
    assert made.key[:2] not in {known.key[:2] for known in stated}
    assert not any(absence.answered(made, known) for known in stated)


def test_absent_questions_are_near_ones() -> None:
    rng = random.Random(5)
    source = fact.fact(rng, Mix(), kind=next(kind for kind in KINDS if kind.name == "paid"))
    made = [absence.near(rng, Mix(composed=True), source, [source]) for _ in range(300)]
    same_kind = [each for each in made if each.kind is source.kind]
    same_subject = [each for each in made if each.subject == source.subject]
    assert len(same_kind) > 120
    assert len(same_subject) > 40
    assert any(sum(map(str.__ne__, each.subject, source.subject)) == 1 for each in same_kind)


def test_spelled_words_are_not_held_out() -> None:
    rng = random.Random(9)
    words = [word for _ in range(2000) for word in values.spelled(rng, 1, 3).split()]
    assert not [word for word in words if values.held_out(word)]
    assert len(set(words)) > 1500


def test_a_lesson_depends_on_seed_and_step_alone() -> None:
    assert curriculum.lesson(1, 700, 1000) == curriculum.lesson(1, 700, 1000)
    assert curriculum.lesson(1, 700, 1000) != curriculum.lesson(1, 701, 1000)
    assert curriculum.lesson(1, 700, 1000) != curriculum.lesson(2, 700, 1000)


def test_lessons_grow() -> None:
    first, early, late = (curriculum.lesson(3, step, 1000) for step in (0, 100, 1200))
    assert not first.episodes
    assert all(" " not in copy.document for copy in first.copies)
    assert all(len(episode.documents) == 1 for episode in early.episodes)
    assert late.search
    assert max(len(curriculum.lesson(3, step, 1000).episodes[0].documents) for step in range(1200, 1300)) == 20
