"""The four stages of CLaRa's training as one objective each: what is trained, and what the loss is.

As the reference computes them, with one correction: its retrieval pretraining gives no parameter a gradient, this one
trains the query adapter.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import DECODER, ENCODER, QUERY
from . import losses, select
from .batch import Lines, Stage
from .network import Network
from .packed import Rows

MSE_WEIGHT = 0.1
_TRAINED: dict[Stage, tuple[str, ...]] = {
    "stage1": (ENCODER, DECODER),
    "stage1_2": (ENCODER, DECODER),
    "stage2": (QUERY, DECODER),
    "stage2_pretrain_retrieval": (QUERY,),
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

    def forward(self, lines: Lines) -> dict[str, Tensor]:
        """Return the losses of a micro batch."""
        if not self.stage.startswith("stage2"):
            memories, mse = self.encode(lines.documents, ENCODER)
            loss = self._language(lines, memories)
            return {"loss": loss, "mse": mse, "total": loss + MSE_WEIGHT * mse}
        if lines.queries is None:
            raise ValueError("stage 2 needs query rows")
        with torch.no_grad():
            memories, _ = self.encode(lines.documents, ENCODER)
        memories = memories.view(len(lines.ids), -1, *memories.shape[1:])  # [B, N, M, H]
        queries, _ = self.encode(lines.queries, QUERY)
        scores = select.cosines(queries, memories)
        if self.stage == "stage2_pretrain_retrieval":
            loss = losses.retrieval(scores, lines.positives)
        else:
            _, weights = select.choose(scores, self.k)
            loss = self._language(lines, torch.einsum("bkn,bnmh->bkmh", weights.to(memories), memories))
        return {"loss": loss, "total": loss}

    def encode(self, rows: Rows, adapter: str) -> tuple[Tensor, Tensor]:
        """Return memories [N, M, H] and the distance of the two means."""
        network = self.network
        x = functional.embedding(rows.ids, network.embed)
        places = torch.arange(x.shape[1], device=x.device)
        states = network.states(x, places, network.weights(adapter))
        memories = states[torch.arange(len(x), device=x.device)[:, None], rows.memories]
        return memories, losses.drift(states, rows)

    def _language(self, lines: Lines, memories: Tensor) -> Tensor:
        network = self.network
        x = functional.embedding(lines.ids, network.embed)
        index = torch.arange(len(x), device=x.device)[:, None].expand_as(lines.slots)
        x = x.index_put((index, lines.slots), memories.reshape(*lines.slots.shape, -1).to(x))
        states = network.states(x, torch.arange(x.shape[1], device=x.device), network.weights(DECODER))
        return losses.language(network.logits(states), lines.labels)
