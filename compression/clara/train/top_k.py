"""Differentiable top-k document selection: one-hot weights in the forward pass, softmax gradients in the backward pass.

Slot j takes the j-th best document. Its gradient passes through a softmax over the documents that earlier slots did not
take: the straight-through estimator of the CLaRa paper, in the reference's arithmetic.
"""

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.02


def straight_through_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices [B, k], best first, and weights [B, k, N], one-hot in value, for cosines [B, N]."""
    y = scores / TEMPERATURE
    indices = y.topk(k, dim=-1).indices
    mask = torch.zeros_like(y)
    weights: list[Tensor] = []
    for slot in range(k):
        soft = torch.softmax(y + torch.log(1 - mask + 1e-8), dim=-1)
        hard = functional.one_hot(indices[:, slot], y.shape[-1]).to(y)
        weights.append(hard + soft - soft.detach())
        mask = (mask + hard).clamp(max=1)
    return indices, torch.stack(weights, dim=1)


def cosine_scores(queries: Tensor, memories: Tensor) -> Tensor:
    """Return cosines [B, N] for queries [B, M, H] and memories [B, N, M, H].

    Vectors are normalised in their own dtype and multiplied in float32, as in the reference.
    """
    queries = functional.normalize(queries.flatten(1), dim=-1).float()
    documents = functional.normalize(memories.flatten(2), dim=-1).float()
    return torch.einsum("bh,bnh->bn", queries, documents)
