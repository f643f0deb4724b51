"""Document selection: exact in value, differentiable, and rewarded for relevant documents."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.clara.train.losses import retrieval_loss
from clara_proxy.compression.clara.train.top_k import straight_through_top_k

# Cosines that differ by more than float32 loses when divided by the temperature.
SCORES = st.lists(st.integers(-1000, 1000), min_size=4, max_size=9, unique=True)


@given(SCORES, st.integers(1, 4))
@settings(max_examples=80)
def test_the_weights_select_the_best_documents_in_order(scores: list[int], k: int) -> None:
    cosines = torch.tensor([scores], dtype=torch.float32) / 1000
    indices, weights = straight_through_top_k(cosines, k)
    rows: Any = indices
    assert rows[0].tolist() == sorted(range(len(scores)), key=lambda index: -scores[index])[:k]
    expected = torch.nn.functional.one_hot(indices, len(scores)).float()
    assert torch.allclose(weights, expected, atol=1e-6)


def test_the_gradient_raises_the_score_of_a_useful_document() -> None:
    cosines = torch.tensor([[0.50, 0.49, 0.10]], requires_grad=True)
    _, weights = straight_through_top_k(cosines, 1)
    usefulness = torch.tensor([0.0, 1.0, 0.0])
    reward: Any = weights[0, 0] @ usefulness
    reward.backward()
    gradient: Any = cosines.grad
    assert gradient[0, 1] > 0 > gradient[0, 0]


def test_the_retrieval_loss_is_low_for_relevant_documents() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.3, 0.3]])
    best = torch.tensor([[True, False, False], [False, False, False]])
    second = torch.tensor([[False, True, False], [False, False, False]])
    assert retrieval_loss(scores, best).item() == pytest.approx(0, abs=1e-6)
    assert retrieval_loss(scores, second).item() == pytest.approx(0.7 / 0.02, rel=1e-3)
    assert retrieval_loss(scores, torch.zeros(2, 3, dtype=torch.bool)).item() == 0
