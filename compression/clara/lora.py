"""Low-rank adapters beside a shared base: y = W x + 2 B (A x), unmerged.

Every adapter is a plain value that a forward pass is given; the base is held once and never written to, so calls with
different adapters may run at the same time.
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
    """One linear map's two factors: `down` [r, in], `up` [out, r]."""

    down: Tensor
    up: Tensor


Adapter = tuple[Mapping[str, LoraPair], ...]  # one mapping per layer, keyed by MODULES


def apply_lora(linear: Linear, x: Tensor, pair: LoraPair | None) -> Tensor:
    """Return W x, or W x + 2 B (A x); x [..., in] -> [..., out]."""
    out = linear(x)
    if pair is None:
        return out
    return out + functional.linear(functional.linear(x, pair.down), pair.up) * SCALING


def parse_adapter(tensors: Mapping[str, Tensor], layers: int) -> list[dict[str, LoraPair]]:
    """Sort one adapter's tensors by layer and module; a missing one is a KeyError with its name."""
    return [{module: _read_pair(tensors, layer, module) for module in TARGET_MODULES} for layer in range(layers)]


def move_adapter(adapter: list[dict[str, LoraPair]], device: torch.device, dtype: torch.dtype) -> Adapter:
    """Move an adapter to where the base computes."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=device, dtype=dtype)

    return tuple({name: LoraPair(move(pair.down), move(pair.up)) for name, pair in layer.items()} for layer in adapter)


def _read_pair(tensors: Mapping[str, Tensor], layer: int, module: str) -> LoraPair:
    room = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
    name = f"model.layers.{layer}.{room}.{module}"
    return LoraPair(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"])
