"""Choosing documents so that the choice can be learned: hard top-k forward, softmax backward.

Slot j takes the j-th best document as it is; the gradient reaches the scores through a softmax over what the earlier
slots left. From the paper's straight-through estimator, in the reference's arithmetic.
"""

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.02


def choose(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices [B, k], best first, and weights [B, k, N] that are one-hot in value, for cosines [B, N]."""
    y = scores / TEMPERATURE
    indices = y.topk(k, dim=-1).indices
    taken = torch.zeros_like(y)
    weights: list[Tensor] = []
    for slot in range(k):
        soft = torch.softmax(y + torch.log(1 - taken + 1e-8), dim=-1)
        hard = functional.one_hot(indices[:, slot], y.shape[-1]).to(y)
        weights.append(hard + soft - soft.detach())
        taken = (taken + hard).clamp(max=1)
    return indices, torch.stack(weights, dim=1)


def cosines(queries: Tensor, memories: Tensor) -> Tensor:
    """Return [B, N] for [B, M, H] and [B, N, M, H]; normalised in their own dtype, multiplied in float32."""
    queries = functional.normalize(queries.flatten(1), dim=-1).float()
    documents = functional.normalize(memories.flatten(2), dim=-1).float()
    return torch.einsum("bh,bnh->bn", queries, documents)
