"""Scores of answers: known pairs, and the laws that hold for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.train import scores

WORDS = st.lists(st.sampled_from(["fox", "river", "stone", "12", "Bergen"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("said", "wanted", "exact", "f1"),
    [
        ("The fox.", "fox", 1.0, 1.0),
        ("a red fox", "the fox", 0.0, 2 / 3),
        ("fox fox", "fox", 0.0, 2 / 3),
        ("river", "fox", 0.0, 0.0),
        ("", "fox", 0.0, 0.0),
        ("", "the", 1.0, 1.0),
    ],
)
def test_known_pairs(said: str, wanted: str, exact: float, f1: float) -> None:
    assert scores.exact(said, wanted) == exact
    assert scores.f1(said, wanted) == pytest.approx(f1)


@given(WORDS, WORDS)
def test_scores_are_shares_and_f1_does_not_mind_the_order(said: str, wanted: str) -> None:
    value = scores.f1(said, wanted)
    assert 0 <= scores.exact(said, wanted) <= value <= 1
    assert value == pytest.approx(scores.f1(wanted, said))
    assert value == pytest.approx(scores.f1(" ".join(reversed(said.split())), wanted))
