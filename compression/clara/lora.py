"""Low-rank adapters, kept apart from the shared base weights: y = W x + 2 B (A x).

An adapter is an argument of the forward pass and the base is never written to, so calls with different adapters may run
at the same time.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SCALING = 2.0  # lora_alpha / r; the released models have lora_alpha = 2 r
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Linear = Callable[[Tensor], Tensor]


class LoraPair(NamedTuple):
    """The two factors of one linear layer: `down` [r, in] and `up` [out, r]."""

    down: Tensor
    up: Tensor


Adapter = tuple[Mapping[str, LoraPair], ...]  # one mapping per decoder layer, keyed by TARGET_MODULES


def apply_lora(linear: Linear, x: Tensor, pair: LoraPair | None) -> Tensor:
    """Return W x, or W x + 2 B (A x); x [..., in] -> [..., out]."""
    out = linear(x)
    if pair is None:
        return out
    return out + functional.linear(functional.linear(x, pair.down), pair.up) * SCALING


def parse_adapter(tensors: Mapping[str, Tensor], layers: int) -> list[dict[str, LoraPair]]:
    """Return an adapter's tensors by layer and module. Raises KeyError with the name of a missing tensor."""
    return [{module: _read_pair(tensors, layer, module) for module in TARGET_MODULES} for layer in range(layers)]


def move_adapter(adapter: list[dict[str, LoraPair]], device: torch.device, dtype: torch.dtype) -> Adapter:
    """Return the adapter on a device and in a dtype."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=device, dtype=dtype)

    return tuple({name: LoraPair(move(pair.down), move(pair.up)) for name, pair in layer.items()} for layer in adapter)


def _read_pair(tensors: Mapping[str, Tensor], layer: int, module: str) -> LoraPair:
    block = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
    name = f"model.layers.{layer}.{block}.{module}"
    return LoraPair(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"])
