"""The losses of CLaRa's training, one function each; tensors in, one number out."""

import torch
from torch import Tensor
from torch.nn import functional

from .packed import IGNORED, Rows
from .select import TEMPERATURE


def language(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of the next token over all labels of a batch; [B, T, V] and [B, T]."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def drift(states: Tensor, rows: Rows) -> Tensor:
    """Return how far mean text states lie from mean memory states, squared, over rows and hidden; states [N, T, H]."""
    places = torch.arange(states.shape[1], device=states.device)
    text = (places[None] < rows.memories[:, :1]).to(states)[..., None]
    memories = states[torch.arange(len(states), device=states.device)[:, None], rows.memories]
    return ((states * text).sum(1) / text.sum(1) - memories.mean(1)).pow(2).mean()


def retrieval(scores: Tensor, positives: Tensor) -> Tensor:
    """Return how little of the probability lies on the documents that help; cosines [B, N], positives [B, N] booleans.

    Items without any are left out; a batch of only such ones gives 0.
    """
    told = positives.any(dim=-1)
    y = scores[told] / TEMPERATURE
    if not len(y):
        return scores.sum() * 0
    helping = y.masked_fill(~positives[told], float("-inf"))
    return (y.logsumexp(-1) - helping.logsumexp(-1)).mean()
