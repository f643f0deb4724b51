"""Low-rank adapters, kept apart from the shared base weights: y = W x + 2 B (A x).

An adapter is an argument of the forward pass and the base is never written to, so calls with different adapters may run
at the same time.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .inference import Array

SCALING = 2.0  # lora_alpha / r; the released models have lora_alpha = 2 r
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# The modules that read the same input.
INPUT_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class LoraPair(NamedTuple):
    """The two factors of one linear layer: `down` [r, in] and `up` [out, r]."""

    down: Array
    up: Array


Adapter = tuple[Mapping[str, LoraPair], ...]  # one mapping per decoder layer, keyed by TARGET_MODULES


def convert_adapter(adapter: list[dict[str, LoraPair]], convert: Callable[[Array], Array]) -> Adapter:
    """Return the adapter with its tensors converted, for example to another device."""
    return tuple(
        {name: LoraPair(convert(pair.down), convert(pair.up)) for name, pair in layer.items()} for layer in adapter
    )


def parse_adapter(tensors: Mapping[str, Array], layers: int) -> list[dict[str, LoraPair]]:
    """Return an adapter's tensors by layer and module. Raises KeyError with the name of a missing tensor."""
    return [{module: _read_pair(tensors, layer, module) for module in TARGET_MODULES} for layer in range(layers)]


def _read_pair(tensors: Mapping[str, Array], layer: int, module: str) -> LoraPair:
    block = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
    name = f"model.layers.{layer}.{block}.{module}"
    return LoraPair(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"])
