"""The four stages of CLaRa's training: trainable parameters and loss of each.

The losses are the reference's with one correction: the reference's retrieval pretraining gives no parameter a gradient;
this one trains the query adapter.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from . import losses
from .collate import Stage, StageBatch
from .encoder_rows import EncoderRows
from .network import Network
from .top_k import cosine_scores, straight_through_top_k

MSE_WEIGHT = 0.1
_TRAINED_ADAPTERS: dict[Stage, tuple[str, ...]] = {
    "stage1": (ENCODER_ADAPTER, DECODER_ADAPTER),
    "stage1_2": (ENCODER_ADAPTER, DECODER_ADAPTER),
    "stage2": (QUERY_ADAPTER, DECODER_ADAPTER),
    "stage2_pretrain_retrieval": (QUERY_ADAPTER,),
}


def set_trainable(network: Network, stage: Stage, memory_rows: tuple[int, ...]) -> None:
    """Freeze all parameters except those of a stage: its adapters and, in stage 1, the memory tokens' embeddings."""
    network.requires_grad_(False)  # noqa: FBT003 - torch's signature
    for name in _TRAINED_ADAPTERS[stage]:
        network.adapters[name].requires_grad_(True)  # noqa: FBT003
    if stage == "stage1":
        mask = torch.zeros(len(network.embed), 1, device=network.embed.device)
        mask[list(memory_rows)] = 1
        network.embed.requires_grad_(True)  # noqa: FBT003

        def mask_gradient(gradient: Tensor) -> Tensor:
            return gradient * mask

        embed: Any = network.embed
        embed.register_hook(mask_gradient)


class StageObjective(nn.Module):
    """The losses of one stage: "loss" (language or retrieval), "mse" in stage 1, and their weighted sum "total"."""

    def __init__(self, network: Network, stage: Stage, k: int) -> None:
        super().__init__()
        self.network, self.stage, self.k = network, stage, k

    @property
    def retrieves(self) -> bool:
        """True if the stage selects documents by their scores."""
        return self.stage.startswith("stage2")

    @property
    def generates(self) -> bool:
        """True if the stage trains the decoder's output."""
        return self.stage != "stage2_pretrain_retrieval"

    def forward(self, batch: StageBatch) -> dict[str, Tensor]:
        """Return the losses of a micro batch."""
        if not self.retrieves:
            memories, mse = self.encode(batch.documents, ENCODER_ADAPTER)
            loss = self._language_loss(batch, memories)
            return {"loss": loss, "mse": mse, "total": loss + MSE_WEIGHT * mse}
        if self.generates:
            loss = self._language_loss(batch, self.read_memories(batch)[0])
        else:
            loss = losses.retrieval_loss(self._document_scores(batch)[0], batch.positives)
        return {"loss": loss, "total": loss}

    def read_memories(self, batch: StageBatch) -> tuple[Tensor, Tensor]:
        """Return the memories [B, k, M, H] for the decoder and the indices [B, k] of their documents."""
        if not self.retrieves:
            memories = self.encode(batch.documents, ENCODER_ADAPTER)[0]
            memories = memories.view(len(batch.ids), -1, *memories.shape[1:])
            return memories, torch.arange(memories.shape[1]).expand(len(memories), -1)
        scores, memories = self._document_scores(batch)
        indices, weights = straight_through_top_k(scores, self.k)
        return torch.einsum("bkn,bnmh->bkmh", weights.to(memories), memories), indices

    def encode(self, rows: EncoderRows, adapter: str) -> tuple[Tensor, Tensor]:
        """Return memories [N, M, H] and the alignment loss."""
        network = self.network
        x = functional.embedding(rows.ids, network.embed)
        positions = torch.arange(x.shape[1], device=x.device)
        states = network.hidden_states(x, positions, network.layer_weights(adapter))
        memories = states[torch.arange(len(x), device=x.device)[:, None], rows.memories]
        return memories, losses.alignment_loss(states, rows)

    def logits(self, ids: Tensor, slots: Tensor, memories: Tensor) -> Tensor:
        """Return [B, T, V] for decoder rows [B, T] with memories, [B, k, M, H] or [B * k, M, H], in their slots."""
        network = self.network
        x = functional.embedding(ids, network.embed)
        index = torch.arange(len(x), device=x.device)[:, None].expand_as(slots)
        x = x.index_put((index, slots), memories.reshape(*slots.shape, -1).to(x))
        positions = torch.arange(x.shape[1], device=x.device)
        return network.logits(network.hidden_states(x, positions, network.layer_weights(DECODER_ADAPTER)))

    def _document_scores(self, batch: StageBatch) -> tuple[Tensor, Tensor]:
        """Return cosines [B, N] and memories [B, N, M, H]."""
        if batch.queries is None:
            raise ValueError("stage 2 needs questions, but the batch has none")
        with torch.no_grad():
            memories, _ = self.encode(batch.documents, ENCODER_ADAPTER)
        memories = memories.view(len(batch.ids), -1, *memories.shape[1:])
        queries, _ = self.encode(batch.queries, QUERY_ADAPTER)
        return cosine_scores(queries, memories), memories

    def _language_loss(self, batch: StageBatch, memories: Tensor) -> Tensor:
        return losses.next_token_loss(self.logits(batch.ids, batch.slots, memories), batch.labels)
