"""CLaRa's forward passes: a Mistral decoder with the adapter as an argument.

A `ClaraModel` holds weights only, so any number of threads may call it; the caller owns the `KVCache` of a generation.
Rows are padded on the right: causal attention never sees the padding, so no mask is needed and positions start at 0, as
in training.

Shapes: B rows, T positions, S selected positions, H hidden, N heads, K key heads, D head size, M memory tokens,
V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .adapted_layers import AdaptedLayer, adapt_layers
from .base_weights import BaseWeights
from .cooperative import Steps, run_steps
from .inference import group_by_length
from .kv_cache import KVCache
from .lora import Adapter

_algebra: Any = torch.linalg  # it has no types

# Takes the number of a layer, queries [B, N, T, D], and keys and values [B, 2 K, T, D].
AttentionFunction = Callable[[int, Tensor, Tensor], Tensor]


class _Selection(NamedTuple):
    """The needed places [B, S] of the last states of a batch [B, T, H]."""

    rows: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True)
class ClaraModel:
    """The base weights, the vocabulary matrices `embed` and `head` [V, H], and the adapters by name."""

    base: BaseWeights
    embed: Tensor
    head: Tensor
    adapters: Mapping[str, Adapter]
    max_batch_positions: int = 8192  # positions of one forward pass, padding included
    _layers: dict[str | None, tuple[AdaptedLayer, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Apply each adapter to the layers."""
        layers = {name: adapt_layers(self.base, adapter) for name, adapter in self.adapters.items()}
        object.__setattr__(self, "_layers", {None: adapt_layers(self.base, None), **layers})

    @property
    def uses_accelerator(self) -> bool:
        """Return True if the model runs on a device other than the CPU."""
        return self.base.device.type != "cpu"

    def truncate(self, depth: int) -> "ClaraModel":
        """Return the first `depth` layers: `prefill` then returns the normalised states [B, H] instead of logits."""
        base = replace(self.base, layers=self.base.layers[:depth])
        identity = torch.eye(base.config.hidden_size, dtype=base.dtype, device=base.device)
        adapters = {name: adapter[:depth] for name, adapter in self.adapters.items()}
        return replace(self, base=base, head=identity, adapters=adapters)

    def encode(self, rows: Sequence[Sequence[int]], memories: int, adapter: str) -> Tensor:
        """Return the last hidden states [rows, M, H] at each row's last `memories` ids, in the order of `rows`."""
        return run_steps(self.encode_steps(rows, memories, adapter))

    @torch.no_grad()
    def encode_steps(self, rows: Sequence[Sequence[int]], memories: int, adapter: str) -> Steps[Tensor]:
        """Like `encode`, in steps of one forward pass."""
        out = torch.empty(
            len(rows), memories, self.base.config.hidden_size, dtype=self.base.dtype, device=self.base.device
        )
        # At least two, so that no batch looks like a decoding step to quantized layers.
        kept = torch.arange(-max(memories, 2), 0, device=self.base.device)
        for batch in group_by_length([len(row) for row in rows], self.max_batch_positions):
            x = self.embed[self._pad_rows([rows[index] for index in batch])]  # [B, T, H]
            lengths = torch.tensor([len(rows[index]) for index in batch], device=x.device)[:, None]
            states = self._run_layers(x, adapter, _attend_causally, self._select(lengths + kept))  # [B, S, H]
            out[batch] = states[:, -memories:]
            yield
        return out

    @torch.no_grad()
    def embed_prompt(self, ids: Sequence[int], slots: Sequence[int], memories: Tensor) -> Tensor:
        """Return a prompt's input embeddings [T, H]: those of `ids`, with memory j [M, H] from slots[j] on."""
        x = self.embed[torch.tensor(ids, device=self.base.device)]  # [T, H]
        for slot, memory in zip(slots, memories, strict=True):
            x[slot : slot + len(memory)] = memory.to(x)
        return x

    @torch.no_grad()
    def extend_prompt(self, prompt: Tensor, ids: Sequence[int]) -> Tensor:
        """Return a prompt's input embeddings [T, H] followed by those of `ids`."""
        return torch.cat((prompt, self.embed[torch.tensor(ids, device=prompt.device)]))

    def stack(self, memories: Sequence[Tensor]) -> Tensor:
        """Return memories [M, H] as one tensor [memories, M, H] on the model's device."""
        return torch.stack([memory.to(device=self.base.device, dtype=self.base.dtype) for memory in memories])

    def score_cosine(self, query: Tensor, memories: Tensor) -> list[float]:
        """Return the cosine of each of the memories [memories, M, H] to a query [windows, M * H]."""
        # Normalised in the model's dtype and multiplied in float32, as in training.
        vectors = functional.normalize(memories.flatten(1).to(query), dim=-1).float()  # [memories, M * H]
        scores = functional.normalize(query, dim=-1).float() @ vectors.T  # [windows, memories]
        return [float(score) for score in scores.amax(dim=0).cpu()]

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Tensor], adapter: str) -> tuple[Tensor, KVCache]:
        """Read prompts [T_i, H] together; return the logits [B, V] of their next tokens, and the cache."""
        lengths = [len(prompt) for prompt in prompts]
        x = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)  # [B, T, H]
        cache = KVCache.empty(lengths)

        def attend(layer: int, q: Tensor, keys_values: Tensor) -> Tensor:
            cache.add_prompt_layer(layer, keys_values)
            return _attend_causally(layer, q, keys_values)

        last = self._select(torch.tensor(lengths, device=x.device)[:, None] - 1)
        return self._logits(self._run_layers(x, adapter, attend, last)[:, 0]), cache

    @torch.no_grad()
    def step(self, tokens: Sequence[int], cache: KVCache, adapter: str) -> Tensor:
        """Read one more token per row and add it to the cache; return the logits [B, V] after it."""
        x = self.embed[torch.tensor(tokens, device=self.base.device)][:, None]  # [B, 1, H]
        slot = cache.open_slot()

        def attend(layer: int, q: Tensor, keys_values: Tensor) -> Tensor:
            keys, values = cache.write(layer, keys_values, slot).chunk(2, dim=1)  # [B, K, C, D]
            # Heads that share a key head become queries of it: [B, N, 1, D] -> [B, K, N/K, D], without a copy.
            grouped = q.view(q.shape[0], keys.shape[1], -1, q.shape[3])
            return functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=slot.mask).view(q.shape)

        states = self._run_layers(x, adapter, attend, positions=slot.positions[:, None])
        cache.close_slot()
        return self._logits(states[:, 0])

    def _run_layers(
        self,
        x: Tensor,
        adapter: str,
        attend: AttentionFunction,
        selection: _Selection | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Run all layers and the last norm: [B, T, H] -> [B, S, H] at a selection, or [B, T, H]. Overwrites `x`.

        `positions` [B, T] count from 0 by default.
        """
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        rope = self._rope_factors(positions)
        layers = self._layers.get(adapter, self._layers[None])
        for index, layer in enumerate(layers):
            q, keys_values = self._project(self._norm(x, layer.attention_norm), layer, rope)
            out = attend(index, q, keys_values).transpose(1, 2).flatten(2)  # [B, T, N D]
            if selection is not None and index == len(layers) - 1:
                x, out = x[selection], out[selection]  # nothing after the last attention looks at other positions
            x.add_(layer.output(out))
            gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            x.add_(layer.down(functional.silu(gate).mul_(up)))
        return self._norm(x, self.base.norm)

    def _project(self, x: Tensor, layer: AdaptedLayer, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the queries [B, N, T, D], and the keys and values [B, 2 K, T, D], with positions applied."""
        config = self.base.config
        heads = layer.qkv(x).view(*x.shape[:2], -1, config.head_dim)  # [B, T, N + 2 K, D]
        _apply_rope(heads[:, :, : config.heads + config.kv_heads], rope)
        return heads[:, :, : config.heads].transpose(1, 2), heads[:, :, config.heads :].transpose(1, 2)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        normalize = _normalize if x.device.type == "cpu" else functional.rms_norm
        return normalize(x, weight.shape, weight, self.base.config.norm_eps)

    def _rope_factors(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines and the signed sines [B, T, 1, D] of `_apply_rope`."""
        size = self.base.config.head_dim
        exponents = torch.arange(0, size, 2, device=positions.device).float() / size  # [D/2]
        angles = positions[..., None, None].float() * self.base.config.rope_theta**-exponents  # [B, T, 1, D/2]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(self.base.dtype), torch.cat((-sin, sin), dim=-1).to(self.base.dtype)

    def _select(self, positions: Tensor) -> _Selection:
        return _Selection(torch.arange(len(positions), device=positions.device)[:, None], positions)

    def _logits(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.head).float()

    def _pad_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.base.device)


def _attend_causally(_layer: int, q: Tensor, keys_values: Tensor) -> Tensor:
    keys, values = keys_values.chunk(2, dim=1)
    return functional.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)


def _normalize(x: Tensor, shape: Sequence[int], weight: Tensor, eps: float) -> Tensor:
    """Return `functional.rms_norm`, which is not one operation on a CPU, without its large intermediate tensors."""
    wide = x.float()
    scale: Tensor = _algebra.vector_norm(wide, dim=-1, keepdim=True).square_().div_(math.prod(shape)).add_(eps).rsqrt_()
    return (wide * scale).mul_(weight).to(x.dtype)


def _apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> None:
    """Rotate heads x [B, T, heads, D] in place: x cos + (second half, first half) times the signed sines."""
    cos, sin = rope
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    x.mul_(cos).addcmul_(swapped, sin)
