"""Patterns expand to exactly the texts that they describe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.benchmarks.nano.synthetic import grammar
from clara_proxy.benchmarks.nano.synthetic.fact_kinds import KINDS, FactKind

WORDS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4, unique=True)


def test_choices_may_be_empty_and_nested() -> None:
    assert list(grammar.expand_pattern("x (a (b|c)|) y.")) == ["x a b y.", "x y.", "x a c y.", "x y."]
    assert grammar.expand_line("=", "x (a (b|c)|) y.") == ("x a b y.", "x y.", "x a c y.")
    assert list(grammar.expand_pattern("so (soon|) .")) == ["so soon.", "so."]


@given(WORDS, WORDS)
def test_two_choices_expand_to_every_pair(first: list[str], second: list[str]) -> None:
    texts = list(grammar.expand_pattern(f"({'|'.join(first)}) ({'|'.join(second)})"))
    assert texts == [f"{a} {b}" for a in first for b in second]


def test_noun_phrases_and_clauses_are_put_into_question_frames() -> None:
    questions = grammar.expand_line("?:", "[job|trade]")
    assert {"What is {s}'s job?", "Tell me the trade of {s}.", "Do you know {s}'s trade?"} <= set(questions)
    assert "Can you tell me where {s} lives?" in grammar.expand_line("?>", "where {s} (lives|works)")


def test_phrasings_that_contain_a_held_out_one_are_dropped() -> None:
    groups = (("Where does {s} live?", "Tell me, where does {s} live now?"), ("What is {s}?",))
    assert grammar.drop_containing(groups, "Where does {s} live?") == (("What is {s}?",),)
    assert grammar.drop_containing(groups, "Whose?") == groups


def test_about_a_tenth_of_the_phrasings_is_held_out() -> None:
    groups = tuple(group for kind in KINDS for group in (*kind.statements.composed, *kind.statements.composed_held_out))
    trained, held_out = (sum(map(len, grammar.select_side(groups, held_out=side))) for side in (False, True))
    assert 0.07 < held_out / (trained + held_out) < 0.14


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_composed_phrasings_have_their_placeholders(kind: FactKind) -> None:
    for group in (*kind.statements.composed, *kind.statements.composed_held_out):
        for phrasing in group:
            assert "{s}" in phrasing
            assert "{v}" in phrasing
            assert ("{a}" in phrasing) == bool(kind.attribute_type)
            assert not set("()[]|@") & set(phrasing)
    for group in (*kind.value_questions.composed, *kind.value_questions.composed_held_out):
        for phrasing in group:
            assert "{s}" in phrasing
            assert "{v}" not in phrasing
