"""Choosing documents: exact in value, learnable in gradient."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.clara.train import losses, select

# Cosines that differ by more than float32 loses when divided by the temperature.
SCORES = st.lists(st.integers(-1000, 1000), min_size=4, max_size=9, unique=True)


@given(SCORES, st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_the_weights_pick_the_best_in_order(scores: list[int], k: int) -> None:
    cosines = torch.tensor([scores], dtype=torch.float32) / 1000
    indices, weights = select.choose(cosines, k)
    found: Any = indices
    assert found[0].tolist() == sorted(range(len(scores)), key=lambda place: -scores[place])[:k]
    wanted = torch.nn.functional.one_hot(indices, len(scores)).float()
    assert torch.allclose(weights, wanted, atol=1e-6)


def test_the_gradient_pulls_towards_what_helps() -> None:
    cosines = torch.tensor([[0.50, 0.49, 0.10]], requires_grad=True)
    _, weights = select.choose(cosines, 1)
    usefulness = torch.tensor([0.0, 1.0, 0.0])
    useful: Any = weights[0, 0] @ usefulness
    useful.backward()
    gradient: Any = cosines.grad
    assert gradient[0, 1] > 0 > gradient[0, 0]


def test_retrieval_rewards_probability_on_the_helpful() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.3, 0.3]])
    helpful = torch.tensor([[True, False, False], [False, False, False]])
    harmful = torch.tensor([[False, True, False], [False, False, False]])
    assert losses.retrieval(scores, helpful).item() == pytest.approx(0, abs=1e-6)
    assert losses.retrieval(scores, harmful).item() == pytest.approx(0.7 / 0.02, rel=1e-3)
    assert losses.retrieval(scores, torch.zeros(2, 3, dtype=torch.bool)).item() == 0
