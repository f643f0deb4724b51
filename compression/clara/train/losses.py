"""Loss functions of CLaRa's training."""

import torch
from torch import Tensor
from torch.nn import functional

from .encoder_rows import IGNORED_LABEL, EncoderRows
from .top_k import TEMPERATURE


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of the next token over all labels of a batch; [B, T, V] and [B, T]."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL)


def alignment_loss(states: Tensor, rows: EncoderRows) -> Tensor:
    """Return the mean squared error between the mean text state and the mean memory state; states [N, T, H]."""
    positions = torch.arange(states.shape[1], device=states.device)
    text = (positions[None] < rows.memories[:, :1]).to(states)[..., None]
    memories = states[torch.arange(len(states), device=states.device)[:, None], rows.memories]
    return ((states * text).sum(1) / text.sum(1) - memories.mean(1)).pow(2).mean()


def retrieval_loss(scores: Tensor, positives: Tensor) -> Tensor:
    """Return the negative log probability of the relevant documents; cosines [B, N], positives [B, N] booleans.

    Examples without relevant documents are ignored; a batch without any returns 0.
    """
    labelled = positives.any(dim=-1)
    y = scores[labelled] / TEMPERATURE
    if not len(y):
        return scores.sum() * 0
    relevant = y.masked_fill(~positives[labelled], float("-inf"))
    return (y.logsumexp(-1) - relevant.logsumexp(-1)).mean()
