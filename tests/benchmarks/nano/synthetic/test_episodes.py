"""Synthetic data: seeded, free of contradictions, and held-out values and phrasings never occur in training."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.benchmarks.nano import curriculum
from clara_proxy.benchmarks.nano.synthetic import facts, grammar, negatives, values
from clara_proxy.benchmarks.nano.synthetic.episodes import NOT_STATED, make_episode, make_restatement
from clara_proxy.benchmarks.nano.synthetic.fact_kinds import KINDS
from clara_proxy.benchmarks.nano.synthetic.facts import EpisodeSpec, make_fact

SEEDS = st.integers(0, 2**32)


def test_every_kind_has_trained_phrasings_and_a_held_out_one() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) > 40
    for kind in KINDS:
        for base in (kind.statements.base, kind.value_questions.base):
            assert len(set(base)) == len(base) >= 4, kind.name
        for phrasings in (kind.statements, kind.value_questions, kind.attribute_questions):
            held_out = set(facts.fixed_phrasings(phrasings, EpisodeSpec(unseen_phrasings=True)))
            assert not held_out & set(facts.fixed_phrasings(phrasings, EpisodeSpec())), kind.name
            assert not held_out & set(facts.fixed_phrasings(phrasings, EpisodeSpec(late_phrasings=True))), kind.name


def test_composed_phrasings_contain_no_held_out_phrasing() -> None:
    for kind in KINDS:
        for phrasings in (kind.statements, kind.value_questions, kind.attribute_questions):
            trained = {phrasing for group in phrasings.composed for phrasing in group}
            held_out = {phrasing for group in phrasings.composed_held_out for phrasing in group}
            assert not trained & held_out, kind.name
            assert bool(trained) == bool(phrasings.base), kind.name
            assert not any(
                grammar.normalize_phrasing(base) in phrasing.lower()
                for base in phrasings.base[-1:]
                for phrasing in trained | held_out
            )


@given(SEEDS)
@settings(max_examples=30)
def test_training_uses_no_held_out_composed_phrasing(seed: int) -> None:
    rng = random.Random(seed)
    fact = make_fact(rng, EpisodeSpec())
    training_spec = EpisodeSpec(late_phrasings=True, composed_phrasings=True)
    held_out_spec = EpisodeSpec(unseen_phrasings=True, composed_phrasings=True)
    for phrasings in (fact.kind.statements, fact.kind.value_questions):
        held_out = {phrasing for group in phrasings.composed_held_out for phrasing in group} | {phrasings.base[-1]}
        trained = {facts.choose_phrasing(rng, phrasings, training_spec) for _ in range(200)}
        assert not trained & held_out
        if phrasings.composed_held_out:
            assert facts.choose_phrasing(rng, phrasings, held_out_spec) in held_out


@given(SEEDS)
@settings(max_examples=60)
def test_training_facts_have_no_held_out_value(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        fact = make_fact(rng, EpisodeSpec())
        assert fact.kind.value_type in values.CLOSED_TYPES or not values.is_held_out(fact.value)


@given(SEEDS)
@settings(max_examples=60)
def test_every_unseen_value_is_held_out(seed: int) -> None:
    rng = random.Random(seed)
    fact = make_fact(rng, EpisodeSpec(unseen_values=True))
    assert fact.kind.value_type in values.CLOSED_TYPES or values.is_held_out(fact.value)


@given(SEEDS, st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=60)
def test_answers_occur_in_their_documents_and_negatives_nowhere(seed: int, documents: int, count: int) -> None:
    spec = EpisodeSpec(documents, count, questions=6, unanswerable=0.3, noise=0.2)
    episode = make_episode(random.Random(seed), spec)
    assert len(episode.documents) == len(episode.topics) == documents
    for question in episode.questions:
        if question.source is None:
            assert question.answer == NOT_STATED
            assert not any(question.topic in topics for topics in episode.topics)
        else:
            # In lower case, because a sentence starts with a capital.
            assert question.answer.lower() in episode.documents[question.source].lower()
            assert question.topic in episode.topics[question.source]


@given(SEEDS)
@settings(max_examples=30)
def test_equal_questions_of_an_episode_have_equal_answers(seed: int) -> None:
    episode = make_episode(random.Random(seed), EpisodeSpec(20, 1, questions=30))
    answers: dict[str, str] = {}
    for question in episode.questions:
        assert answers.setdefault(question.text, question.answer) == question.answer


@given(SEEDS)
@settings(max_examples=30)
def test_a_restatement_has_the_same_values_in_other_words(seed: int) -> None:
    restatement = make_restatement(random.Random(seed), EpisodeSpec())
    assert restatement.document != restatement.target
    for fact in restatement.facts:
        assert fact.value in restatement.document
        assert fact.value in restatement.target


@given(SEEDS, st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=60)
def test_no_stated_fact_answers_a_near_negative(seed: int, documents: int, count: int) -> None:
    rng = random.Random(seed)
    stated = [make_fact(rng, EpisodeSpec()) for _ in range(documents * count)]
    spec = EpisodeSpec(composed_phrasings=True)
    negative = negatives.make_near_negative(rng, spec, rng.choice(stated), stated)
    assert negative.topic not in {fact.topic for fact in stated}
    assert not any(negatives.topics_match(negative.topic, fact.topic) for fact in stated)


def test_near_negatives_share_the_kind_or_the_subject() -> None:
    rng, spec = random.Random(5), EpisodeSpec(composed_phrasings=True)
    source = make_fact(rng, EpisodeSpec(), kind=next(kind for kind in KINDS if kind.name == "paid"))
    near = [negatives.make_near_negative(rng, spec, source, [source]) for _ in range(300)]
    same_kind = [fact for fact in near if fact.kind is source.kind]
    same_subject = [fact for fact in near if fact.subject == source.subject]
    assert len(same_kind) > 120
    assert len(same_subject) > 40
    assert any(sum(map(str.__ne__, fact.subject, source.subject)) == 1 for fact in same_kind)


def test_spelled_words_are_not_held_out() -> None:
    rng = random.Random(9)
    words = [word for _ in range(2000) for word in values.make_spelled_words(rng, 1, 3).split()]
    assert not [word for word in words if values.is_held_out(word)]
    assert len(set(words)) > 1500


def test_a_lesson_depends_only_on_seed_and_step() -> None:
    assert curriculum.make_lesson(1, 700, 1000) == curriculum.make_lesson(1, 700, 1000)
    assert curriculum.make_lesson(1, 700, 1000) != curriculum.make_lesson(1, 701, 1000)
    assert curriculum.make_lesson(1, 700, 1000) != curriculum.make_lesson(2, 700, 1000)


def test_lessons_grow() -> None:
    first, early, late = (curriculum.make_lesson(3, step, 1000) for step in (0, 100, 1200))
    assert not first.episodes
    assert all(" " not in copy.document for copy in first.copies)
    assert all(len(episode.documents) == 1 for episode in early.episodes)
    assert late.retrieval
    lessons = (curriculum.make_lesson(3, step, 1000) for step in range(1200, 1300))
    assert max(len(lesson.episodes[0].documents) for lesson in lessons) == 20
