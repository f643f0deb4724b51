"""Patterns stand for every text that can be read from them, and for no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.train import grammar
from clara_proxy.compression.clara.train.kinds import KINDS

WORDS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4, unique=True)


def test_alternatives_may_be_empty_and_hold_others() -> None:
    assert list(grammar.expand("x (a (b|c)|) y.")) == ["x a b y.", "x y.", "x a c y.", "x y."]
    assert grammar.lines("=", "x (a (b|c)|) y.") == ("x a b y.", "x y.", "x a c y.")
    assert list(grammar.expand("so (soon|) .")) == ["so soon.", "so."]


@given(WORDS, WORDS)
def test_two_alternatives_give_every_pair(one: list[str], other: list[str]) -> None:
    made = list(grammar.expand(f"({'|'.join(one)}) ({'|'.join(other)})"))
    assert made == [f"{a} {b}" for a in one for b in other]


def test_noun_phrases_and_clauses_are_asked_for_in_many_ways() -> None:
    asked = grammar.lines("?:", "[job|trade]")
    assert {"What is {s}'s job?", "Tell me the trade of {s}.", "Do you know {s}'s trade?"} <= set(asked)
    assert "Can you tell me where {s} lives?" in grammar.lines("?>", "where {s} (lives|works)")


def test_what_is_apart_is_in_no_group() -> None:
    groups = (("Where does {s} live?", "Tell me, where does {s} live now?"), ("What is {s}?",))
    assert grammar.apart(groups, "Where does {s} live?") == (("What is {s}?",),)
    assert grammar.apart(groups, "Whose?") == groups


def test_every_line_has_a_tenth_or_so_that_is_never_learned() -> None:
    groups = tuple(group for kind in KINDS for group in (*kind.told.composed, *kind.told.composed_apart))
    learned, unseen = (sum(map(len, grammar.sides(groups, unseen=side))) for side in (False, True))
    assert 0.07 < unseen / (learned + unseen) < 0.14


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_composed_phrasings_have_the_holes_they_need(kind: object) -> None:
    made = next(each for each in KINDS if each is kind)
    for group in (*made.told.composed, *made.told.composed_apart):
        for line in group:
            assert "{s}" in line
            assert "{v}" in line
            assert ("{a}" in line) == bool(made.a)
            assert not set("()[]|@") & set(line)
    for group in (*made.ask_v.composed, *made.ask_v.composed_apart):
        for line in group:
            assert "{s}" in line
            assert "{v}" not in line
