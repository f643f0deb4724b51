"""The four stages of CLaRa's training as one objective each: what is trained, and what the loss is.

As the reference computes them, with one correction: its retrieval pretraining gives no parameter a gradient, this one
trains the query adapter.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from . import losses, select
from .batch import Lines, Stage
from .network import Network
from .packed import Rows

MSE_WEIGHT = 0.1
_TRAINED: dict[Stage, tuple[str, ...]] = {
    "stage1": (ENCODER_ADAPTER, DECODER_ADAPTER),
    "stage1_2": (ENCODER_ADAPTER, DECODER_ADAPTER),
    "stage2": (QUERY_ADAPTER, DECODER_ADAPTER),
    "stage2_pretrain_retrieval": (QUERY_ADAPTER,),
}


def prepare(network: Network, stage: Stage, memory_rows: tuple[int, ...]) -> None:
    """Mark what a stage trains: its adapters and, in the first one, the memory tokens' embedding rows and no others."""
    network.requires_grad_(False)  # noqa: FBT003 - torch's signature
    for name in _TRAINED[stage]:
        network.adapters[name].requires_grad_(True)  # noqa: FBT003
    if stage == "stage1":
        keep = torch.zeros(len(network.embed), 1, device=network.embed.device)
        keep[list(memory_rows)] = 1
        network.embed.requires_grad_(True)  # noqa: FBT003

        def only_memories(gradient: Tensor) -> Tensor:
            return gradient * keep

        embed: Any = network.embed
        embed.register_hook(only_memories)


class Objective(nn.Module):
    """The losses of one stage: "loss" (of language, or of retrieval), "mse" where it counts, "total"."""

    def __init__(self, network: Network, stage: Stage, k: int) -> None:
        super().__init__()
        self.network, self.stage, self.k = network, stage, k

    @property
    def chooses(self) -> bool:
        """Whether documents are chosen by their scores, which is what the second stage is about."""
        return self.stage.startswith("stage2")

    @property
    def writes(self) -> bool:
        """Whether the stage is about what the model writes."""
        return self.stage != "stage2_pretrain_retrieval"

    def forward(self, lines: Lines) -> dict[str, Tensor]:
        """Return the losses of a micro batch."""
        if not self.chooses:
            memories, mse = self.encode(lines.documents, ENCODER_ADAPTER)
            loss = self._language(lines, memories)
            return {"loss": loss, "mse": mse, "total": loss + MSE_WEIGHT * mse}
        if self.writes:
            loss = self._language(lines, self.read(lines)[0])
        else:
            loss = losses.retrieval(self._scores(lines)[0], lines.positives)
        return {"loss": loss, "total": loss}

    def read(self, lines: Lines) -> tuple[Tensor, Tensor]:
        """Return the memories [B, k, M, H] that are read, and which documents they are of, [B, k]."""
        if not self.chooses:
            memories = self.encode(lines.documents, ENCODER_ADAPTER)[0]
            memories = memories.view(len(lines.ids), -1, *memories.shape[1:])
            return memories, torch.arange(memories.shape[1]).expand(len(memories), -1)
        scores, memories = self._scores(lines)
        indices, weights = select.choose(scores, self.k)
        return torch.einsum("bkn,bnmh->bkmh", weights.to(memories), memories), indices

    def encode(self, rows: Rows, adapter: str) -> tuple[Tensor, Tensor]:
        """Return memories [N, M, H] and the distance of the two means."""
        network = self.network
        x = functional.embedding(rows.ids, network.embed)
        places = torch.arange(x.shape[1], device=x.device)
        states = network.states(x, places, network.weights(adapter))
        memories = states[torch.arange(len(x), device=x.device)[:, None], rows.memories]
        return memories, losses.drift(states, rows)

    def logits(self, ids: Tensor, slots: Tensor, memories: Tensor) -> Tensor:
        """Return [B, T, V] for decoder rows [B, T] with memories, [B, k, M, H] or [B * k, M, H], in their slots."""
        network = self.network
        x = functional.embedding(ids, network.embed)
        index = torch.arange(len(x), device=x.device)[:, None].expand_as(slots)
        x = x.index_put((index, slots), memories.reshape(*slots.shape, -1).to(x))
        states = network.states(x, torch.arange(x.shape[1], device=x.device), network.weights(DECODER_ADAPTER))
        return network.logits(states)

    def _scores(self, lines: Lines) -> tuple[Tensor, Tensor]:
        """Return cosines [B, N] and memories [B, N, M, H]."""
        if lines.queries is None:
            raise ValueError("stage 2 needs query rows")
        with torch.no_grad():
            memories, _ = self.encode(lines.documents, ENCODER_ADAPTER)
        memories = memories.view(len(lines.ids), -1, *memories.shape[1:])
        queries, _ = self.encode(lines.queries, QUERY_ADAPTER)
        return select.cosines(queries, memories), memories

    def _language(self, lines: Lines, memories: Tensor) -> Tensor:
        return losses.language(self.logits(lines.ids, lines.slots, memories), lines.labels)
