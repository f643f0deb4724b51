"""SQuAD's answer scores: known pairs and general properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.train.squad_scores import exact_match, f1_score

WORDS = st.lists(st.sampled_from(["fox", "river", "stone", "12", "Bergen"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("prediction", "target", "exact", "f1"),
    [
        ("The fox.", "fox", 1.0, 1.0),
        ("a red fox", "the fox", 0.0, 2 / 3),
        ("fox fox", "fox", 0.0, 2 / 3),
        ("river", "fox", 0.0, 0.0),
        ("", "fox", 0.0, 0.0),
        ("", "the", 1.0, 1.0),
    ],
)
def test_known_pairs(prediction: str, target: str, exact: float, f1: float) -> None:
    assert exact_match(prediction, target) == exact
    assert f1_score(prediction, target) == pytest.approx(f1)


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_ignores_word_order(prediction: str, target: str) -> None:
    score = f1_score(prediction, target)
    assert 0 <= exact_match(prediction, target) <= score <= 1
    assert score == pytest.approx(f1_score(target, prediction))
    assert score == pytest.approx(f1_score(" ".join(reversed(prediction.split())), target))
