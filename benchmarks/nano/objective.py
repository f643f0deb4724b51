"""clara-nano's training losses: answering from memories, restating documents, and retrieving the right document.

The retrieval loss differs from the reference's, which trains no parameter. Here every question is compared with all
documents of the batch, and the gradient reaches the query adapter and the encoder.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from ...compression.clara.train.encoder_rows import IGNORED_LABEL, EncoderRows
from ...compression.clara.train.network import LayerWeights, Network
from .episode_tensors import PackedBatch, RetrievalBatch

TEMPERATURE = 0.02
COPY_WEIGHT, RETRIEVAL_WEIGHT = 0.5, 0.1


def encode(network: Network, rows: EncoderRows, weights: LayerWeights) -> Tensor:
    """Return the memories [N, M, H] of encoder rows."""
    x = functional.embedding(rows.ids, network.embed)
    states = network.hidden_states(x, torch.arange(x.shape[1], device=x.device), weights)
    return states[torch.arange(len(x), device=x.device)[:, None], rows.memories]


def compare(network: Network, batch: RetrievalBatch, memories: Tensor) -> Tensor:
    """Return cosines [Q, N] of the questions with the memories [N, M, H]; excluded documents score -1."""
    queries = encode(network, batch.questions, network.layer_weights(QUERY_ADAPTER)).flatten(1).float()
    scores = functional.normalize(queries, dim=-1) @ functional.normalize(memories.flatten(1).float(), dim=-1).T
    return scores.masked_fill(batch.excluded, -1.0)


def answer_loss(network: Network, batch: PackedBatch, memories: Tensor, weights: LayerWeights) -> tuple[Tensor, Tensor]:
    """Return the mean cross entropy of the answer tokens and their accuracy."""
    x = functional.embedding(batch.ids, network.embed)
    index = torch.arange(len(x), device=x.device)[:, None].expand_as(batch.slots)
    x = x.index_put((index, batch.slots), memories.reshape(*batch.slots.shape, -1).to(x))
    states = network.hidden_states(x, batch.positions, weights, batch.mask)
    targets = batch.labels[:, 1:]
    is_answer = targets != IGNORED_LABEL
    logits = network.logits(states[:, :-1][is_answer])
    correct = logits.argmax(-1) == targets[is_answer]
    return functional.cross_entropy(logits, targets[is_answer]), correct.float().mean()


def retrieval_loss(network: Network, batch: RetrievalBatch, memories: Tensor) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss of the questions and the share with the right document first."""
    scores = compare(network, batch, memories) / TEMPERATURE
    return functional.cross_entropy(scores, batch.targets), (scores.argmax(-1) == batch.targets).float().mean()


class StepBatch(NamedTuple):
    """The tensors of one step; `None` leaves out the loss of a part."""

    copies: PackedBatch | None
    answers: PackedBatch | None
    retrieval: RetrievalBatch | None
    copy_weight: float = COPY_WEIGHT


class NanoObjective(nn.Module):
    """The losses of one step: restating, answering and retrieving."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: StepBatch) -> dict[str, Tensor]:
        """Return the losses by name, their weighted sum as "total", and accuracies with the suffix "_right"."""
        metrics: dict[str, Tensor] = {}
        total: list[Tensor] = []
        network = self.network
        encoder, decoder = network.layer_weights(ENCODER_ADAPTER), network.layer_weights(DECODER_ADAPTER)
        if batch.copies is not None:
            memories = encode(network, batch.copies.documents, encoder)
            metrics["copy"], metrics["copy_right"] = answer_loss(network, batch.copies, memories, decoder)
            total.append(batch.copy_weight * metrics["copy"])
        if batch.answers is not None:
            memories = encode(network, batch.answers.documents, encoder)
            metrics["answer"], metrics["answer_right"] = answer_loss(network, batch.answers, memories, decoder)
            total.append(metrics["answer"])
            if batch.retrieval is not None and len(batch.retrieval.targets):
                metrics["search"], metrics["search_right"] = retrieval_loss(network, batch.retrieval, memories)
                total.append(RETRIEVAL_WEIGHT * metrics["search"])
        metrics["total"] = torch.stack(total).sum()
        return metrics
