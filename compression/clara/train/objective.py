"""What clara-nano is trained on: the loss of answering through memories, and of finding the right one.

The retrieval loss is not the reference's (that one trains nothing): every question is set against all documents of the
batch, and its gradient reaches the query adapter and the encoder.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from .network import Network, Weights
from .packed import IGNORED, Batch, Rows, Search

TEMPERATURE = 0.02
COPY_WEIGHT, SEARCH_WEIGHT = 0.5, 0.1  # the former unless a lesson says otherwise


def encode(network: Network, rows: Rows, weights: Weights) -> Tensor:
    """Return the memories [N, M, H] of encoder rows."""
    x = functional.embedding(rows.ids, network.embed)
    states = network.states(x, torch.arange(x.shape[1], device=x.device), weights)
    return states[torch.arange(len(x), device=x.device)[:, None], rows.memories]


def answer_loss(network: Network, batch: Batch, memories: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return the mean cross entropy of the answers' tokens, and the share of them that are right."""
    x = functional.embedding(batch.ids, network.embed)
    index = torch.arange(len(x), device=x.device)[:, None].expand_as(batch.slots)
    x = x.index_put((index, batch.slots), memories.reshape(*batch.slots.shape, -1).to(x))
    states = network.states(x, batch.positions, weights, batch.mask)
    wanted = batch.labels[:, 1:]
    chosen = wanted != IGNORED
    logits = network.logits(states[:, :-1][chosen])
    return functional.cross_entropy(logits, wanted[chosen]), (logits.argmax(-1) == wanted[chosen]).float().mean()


def search_loss(network: Network, search: Search, memories: Tensor) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss of questions [Q] against documents [N], and the share found first."""
    queries = encode(network, search.questions, network.weights(QUERY_ADAPTER)).flatten(1).float()
    scores = functional.normalize(queries, dim=-1) @ functional.normalize(memories.flatten(1).float(), dim=-1).T
    scores = scores.masked_fill(search.barred, -1.0) / TEMPERATURE
    return functional.cross_entropy(scores, search.targets), (scores.argmax(-1) == search.targets).float().mean()


class Work(NamedTuple):
    """One step's tensors; a part that is None is not learned from. `weight` is that of the copies' loss."""

    copies: Batch | None
    answers: Batch | None
    search: Search | None
    weight: float = COPY_WEIGHT


class Objective(nn.Module):
    """All losses of one step: restating, answering, finding."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Work) -> dict[str, Tensor]:
        """Return the losses by name, their weighted sum as "total", and shares of right tokens and finds."""
        found: dict[str, Tensor] = {}
        total: list[Tensor] = []
        network, encoder, decoder = (
            self.network,
            self.network.weights(ENCODER_ADAPTER),
            self.network.weights(DECODER_ADAPTER),
        )
        if work.copies is not None:
            memories = encode(network, work.copies.documents, encoder)
            found["copy"], found["copy_right"] = answer_loss(network, work.copies, memories, decoder)
            total.append(work.weight * found["copy"])
        if work.answers is not None:
            memories = encode(network, work.answers.documents, encoder)
            found["answer"], found["answer_right"] = answer_loss(network, work.answers, memories, decoder)
            total.append(found["answer"])
            if work.search is not None and len(work.search.targets):
                found["search"], found["search_right"] = search_loss(network, work.search, memories)
                total.append(SEARCH_WEIGHT * found["search"])
        found["total"] = torch.stack(total).sum()
        return found
