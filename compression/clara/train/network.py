"""CLaRa's forward pass with gradients: the computation of `model` on trainable tensors.

With `merge` the adapters are added to the base's matrices once a step (W + 2 B A), which is fast for small models but
needs the memory of a second base; without it every layer computes W x + 2 B (A x). Shapes as in `model`: B rows,
T positions, H hidden, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..decoder_config import DecoderConfig
from ..lora import SCALING, TARGET_MODULES, LoraPair

# One dictionary a layer: module -> [out, in]. Unmerged adapters add `<module>_down` and `<module>_up`.
LayerWeights = list[dict[str, Tensor]]
_INITIAL_SCALE = 0.2  # of embeddings and the last norm, so that memories and words enter the decoder at the same scale


class Network(nn.Module):
    """A Mistral-shaped decoder with its vocabulary matrices and adapters, all trainable.

    `tied` shares the output matrix with the embedding, which helps a small model to copy. Adapters start with B = 0.
    `compute` is the dtype of the forward pass; `dropout` applies to the input of adapters that are not merged.
    """

    def __init__(self, config: DecoderConfig, rank: int, adapters: tuple[str, ...], *, tied: bool = True) -> None:
        super().__init__()
        self.config, self.rank, self.tied = config, rank, tied
        self.compute, self.merge, self.dropout = torch.float32, True, 0.0
        self.embed = nn.Parameter(torch.randn(config.vocabulary_size, config.hidden_size) * _INITIAL_SCALE)
        self.head = self.embed if tied else nn.Parameter(torch.randn(config.vocabulary_size, config.hidden_size) * 0.02)
        self.norm = nn.Parameter(torch.full((config.hidden_size,), _INITIAL_SCALE))
        self.layers = nn.ModuleList(_init_layer(config) for _ in range(config.layer_count))
        self.adapters = nn.ModuleDict({name: _init_adapter(config, rank) for name in adapters})

    def lora_pairs(self, adapter: str) -> list[dict[str, LoraPair]]:
        """Return the factors of an adapter: one dictionary a layer, by module."""
        layers = cast("nn.ModuleDict", self.adapters[adapter])
        pairs: list[dict[str, LoraPair]] = []
        for index in range(self.config.layer_count):
            factors = dict(layers[str(index)].named_parameters())
            pairs.append({name: LoraPair(factors[f"{name}_down"], factors[f"{name}_up"]) for name in TARGET_MODULES})
        return pairs

    def layer_weights(self, adapter: str | None) -> LayerWeights:
        """Return the matrices and norms of all layers in the compute dtype, with an adapter merged or added."""
        weights: LayerWeights = []
        no_pairs: list[dict[str, LoraPair]] = [{}] * self.config.layer_count
        pairs = self.lora_pairs(adapter) if adapter is not None else no_pairs
        for layer, layer_pairs in zip(self.layers, pairs, strict=True):
            tensors: dict[str, Tensor] = dict(layer.named_parameters())
            for name, pair in layer_pairs.items():
                if self.merge:
                    tensors[name] = tensors[name] + SCALING * pair.up @ pair.down
                else:
                    tensors[f"{name}_down"], tensors[f"{name}_up"] = pair
            weights.append({name: tensor.to(self.compute) for name, tensor in tensors.items()})
        return weights

    def hidden_states(self, x: Tensor, positions: Tensor, weights: LayerWeights, mask: Tensor | None = None) -> Tensor:
        """Run all layers and the last norm: x [B, T, H], positions [T], mask [T, T] true at visible positions."""
        x, rope = x.to(self.compute), self._rope(positions)
        for layer in weights:
            x = x + self._attention(self._norm(x, layer["attention_norm"]), layer, rope, mask)
            x = x + self._mlp(self._norm(x, layer["mlp_norm"]), layer)
        return self._norm(x, self.norm.to(x))

    def logits(self, states: Tensor) -> Tensor:
        """Return [..., V] for states [..., H]."""
        return functional.linear(states, self.head.to(states)).float()

    def _attention(
        self, x: Tensor, layer: Mapping[str, Tensor], rope: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        size = self.config.head_dim
        q, k, v = (
            self._linear(x, layer, name).view(*x.shape[:2], -1, size).transpose(1, 2).float()
            for name in ("q_proj", "k_proj", "v_proj")
        )
        out = functional.scaled_dot_product_attention(
            _rotate(q, rope),
            _rotate(k, rope),
            v,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return self._linear(out.to(x).transpose(1, 2).flatten(2), layer, "o_proj")

    def _mlp(self, x: Tensor, layer: Mapping[str, Tensor]) -> Tensor:
        gate = functional.silu(self._linear(x, layer, "gate_proj"))
        return self._linear(gate * self._linear(x, layer, "up_proj"), layer, "down_proj")

    def _linear(self, x: Tensor, layer: Mapping[str, Tensor], name: str) -> Tensor:
        out = functional.linear(x, layer[name])
        if f"{name}_down" not in layer:
            return out
        x = functional.dropout(x, self.dropout, training=self.training)
        return out + functional.linear(functional.linear(x, layer[f"{name}_down"]), layer[f"{name}_up"]) * SCALING

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.config.hidden_size,), weight, self.config.norm_eps)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.arange(0, self.config.head_dim, 2, device=positions.device).float() / self.config.head_dim
        angles = positions[:, None].float() * self.config.rope_theta**-half
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def _module_sizes(config: DecoderConfig) -> Iterator[tuple[str, int, int]]:
    for name in TARGET_MODULES:
        yield name, *config.linear_shape(name)


def _init_layer(config: DecoderConfig) -> nn.ParameterDict:
    layer = nn.ParameterDict()
    for name, out, into in _module_sizes(config):
        scale = (2 * config.layer_count) ** -0.5 if name in ("o_proj", "down_proj") else 1.0
        layer[name] = nn.Parameter(torch.randn(out, into) * into**-0.5 * scale)
    layer["attention_norm"] = nn.Parameter(torch.ones(config.hidden_size))
    layer["mlp_norm"] = nn.Parameter(torch.ones(config.hidden_size))
    return layer


def _init_adapter(config: DecoderConfig, rank: int) -> nn.ModuleDict:
    return nn.ModuleDict({str(index): _init_pairs(config, rank) for index in range(config.layer_count)})


def _init_pairs(config: DecoderConfig, rank: int) -> nn.ParameterDict:
    pairs = nn.ParameterDict()
    for name, out, into in _module_sizes(config):
        pairs[f"{name}_down"] = nn.Parameter((torch.rand(rank, into) * 2 - 1) * into**-0.5)
        pairs[f"{name}_up"] = nn.Parameter(torch.zeros(out, rank))
    return pairs


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
