"""CLaRa's forward passes: a Mistral decoder with the adapter as an argument.

A `ClaraModel` holds weights only, so any number of threads may call it; the caller owns the `KVCache` of a generation.
Rows are padded on the right: causal attention never sees the padding, so no mask is needed and positions start at 0, as
in training.

Shapes: B rows, T positions, H hidden, N heads, K key heads, D head size, M memory tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .base_weights import BaseWeights, DecoderLayer
from .cooperative import Steps, run_steps
from .inference import group_by_length
from .kv_cache import KVCache
from .lora import SCALING, Adapter, LoraPair
from .weight_quantization import Linear

AttentionFunction = Callable[[int, Tensor, Tensor, Tensor], Tensor]
_NO_ADAPTER: Mapping[str, LoraPair] = {}


@dataclass(frozen=True, slots=True)
class ClaraModel:
    """The base weights, the vocabulary matrices `embed` and `head` [V, H], and the adapters by name."""

    base: BaseWeights
    embed: Tensor
    head: Tensor
    adapters: Mapping[str, Adapter]
    max_batch_positions: int = 8192  # positions of one forward pass, padding included

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
        for batch in group_by_length([len(row) for row in rows], self.max_batch_positions):
            lengths = [len(rows[index]) for index in batch]
            x = self.embed[self._pad_rows([rows[index] for index in batch])]  # [B, T, H]
            states = self._run_layers(x, self._positions(x), adapter, _causal_attention)  # [B, T, H]
            for row, index in enumerate(batch):
                end, start = lengths[row], lengths[row] - memories
                out[index] = states[row, start:end]  # [M, H]
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

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.add_prompt_layer(layer, k, v)
            return _causal_attention(layer, q, k, v)

        states = self._run_layers(x, self._positions(x), adapter, attend)
        last = torch.tensor(lengths, device=x.device) - 1
        return self._logits(states[torch.arange(len(lengths), device=x.device), last]), cache

    @torch.no_grad()
    def step(self, tokens: Sequence[int], cache: KVCache, adapter: str) -> Tensor:
        """Read one more token per row and add it to the cache; return the logits [B, V] after it."""
        x = self.embed[torch.tensor(tokens, device=self.base.device)][:, None]  # [B, 1, H]
        slot = cache.open_slot(self.base.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.write(layer, k, v, slot)
            # Heads that share a key head become queries of it: [B, N, 1, D] -> [B, K, N/K, D], without a copy.
            grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
            return functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=slot.mask).view(q.shape)

        states = self._run_layers(x, slot.positions[:, None], adapter, attend)
        cache.close_slot()
        return self._logits(states[:, 0])

    def _run_layers(self, x: Tensor, positions: Tensor, adapter: str, attend: AttentionFunction) -> Tensor:
        """Run all layers and the last norm: [B, T, H] -> [B, T, H]."""
        rope = self._rope_factors(positions)
        pairs = self.adapters.get(adapter)
        for index, layer in enumerate(self.base.layers):
            layer_pairs = pairs[index] if pairs is not None else _NO_ADAPTER
            x = x + self._attention(self._norm(x, layer.attention_norm), (index, layer, layer_pairs), rope, attend)
            x = x + _mlp(self._norm(x, layer.mlp_norm), layer, layer_pairs)
        return self._norm(x, self.base.norm)

    def _attention(
        self,
        x: Tensor,
        indexed_layer: tuple[int, DecoderLayer, Mapping[str, LoraPair]],
        rope: tuple[Tensor, Tensor],
        attend: AttentionFunction,
    ) -> Tensor:
        index, layer, pairs = indexed_layer
        q, k, v = (
            _apply_lora(layer.linears[name], x, pairs.get(name))
            .view(*x.shape[:2], -1, self.base.config.head_dim)
            .transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )  # [B, N or K, T, D]
        out = attend(index, _apply_rope(q, rope), _apply_rope(k, rope), v)  # [B, N, T, D]
        return _apply_lora(layer.linears["o_proj"], out.transpose(1, 2).flatten(2), pairs.get("o_proj"))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.base.config.norm_eps)
        return weight * wide.to(x.dtype)

    def _rope_factors(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        size = self.base.config.head_dim
        exponents = torch.arange(0, size, 2, device=positions.device).float() / size  # [D/2]
        angles = positions[..., None].float() * self.base.config.rope_theta**-exponents  # [B, T, D/2]
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # [B, 1, T, D]
        return angles.cos().to(self.base.dtype), angles.sin().to(self.base.dtype)

    def _logits(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.head).float()

    def _pad_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.base.device)

    def _positions(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)


def _causal_attention(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _apply_lora(linear: Linear, x: Tensor, pair: LoraPair | None) -> Tensor:
    """Return W x, or W x + 2 B (A x); x [..., in] -> [..., out]."""
    out = linear(x)
    if pair is None:
        return out
    return out + functional.linear(functional.linear(x, pair.down), pair.up) * SCALING


def _mlp(x: Tensor, layer: DecoderLayer, pairs: Mapping[str, LoraPair]) -> Tensor:
    gate = _apply_lora(layer.linears["gate_proj"], x, pairs.get("gate_proj"))
    up = _apply_lora(layer.linears["up_proj"], x, pairs.get("up_proj"))
    return _apply_lora(layer.linears["down_proj"], functional.silu(gate) * up, pairs.get("down_proj"))


def _apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
