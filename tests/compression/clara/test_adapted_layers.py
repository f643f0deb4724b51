"""Adapted layers: the same numbers however they are placed in memory, in few operations."""

from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from clara_proxy.benchmarks.clara import SHAPES, create_random_clara
from clara_proxy.compression.clara import adapted_layers, model
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.linear_layers import ExactLinear, join_linears, pack_rows
from clara_proxy.compression.clara.lora import LoraPair
from clara_proxy.compression.clara.model import ClaraModel

_torch: Any = torch  # `split` has no types
TEXTS = ["the fox by the river", "a bridge of stone, 1931, and a lamp"]


class CountOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that compute; views do not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "view" not in str(func):
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def count_layer_operations(adapter: str, work: str) -> int:
    """Return the operations that one more layer takes."""

    def count(layers: int) -> int:
        clara = create_random_clara(SHAPES["tiny"]._replace(layer_count=layers), dtype=torch.bfloat16)
        computing = cast("ClaraModel", clara.model)
        _, cache = computing.prefill([computing.embed[[1, 2]]] * 2, adapter)
        with CountOperations() as counted:
            computing.encode([[5] * 9] * 2, 4, adapter) if work == "encode" else computing.step([1, 2], cache, adapter)
        total: int = counted.counts.total()
        return total

    return count(3) - count(2)


def test_layer_takes_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    def normalize(x: Tensor, _shape: object, weight: Tensor, _eps: float) -> Tensor:
        return x * weight  # one operation, as on a GPU

    monkeypatch.setattr(model, "_normalize", normalize)
    place = adapted_layers._place_ups  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(adapted_layers, "_place_ups", lambda pairs, as_block: place(pairs, as_block=True))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert count_layer_operations(ENCODER_ADAPTER, "encode") == 22
    assert count_layer_operations(DECODER_ADAPTER, "decode") == 23
    assert count_layer_operations("none", "encode") == 14


def test_joined_layers_are_views_of_packed_weights() -> None:
    weights = [torch.randn(rows, 8) for rows in (6, 2, 2)]
    x = torch.randn(3, 8)
    expected = torch.cat([functional.linear(x, weight) for weight in weights], dim=-1)
    packed = pack_rows(weights)
    joined = join_linears([ExactLinear(weight) for weight in packed])
    assert isinstance(joined, ExactLinear)
    assert joined.weight.data_ptr() == packed[0].data_ptr()
    torch.testing.assert_close(joined(x), expected)
    torch.testing.assert_close(join_linears([ExactLinear(weight) for weight in weights])(x), expected)
    out_of_order = join_linears([ExactLinear(weight) for weight in (packed[1], packed[0])])
    torch.testing.assert_close(out_of_order(x), torch.cat((expected[:, 6:8], expected[:, :6]), dim=-1))


@pytest.mark.parametrize("as_block", [True, False])
def test_up_factors_change_their_own_columns(as_block: bool) -> None:
    pairs = [LoraPair(torch.randn(3, 8), torch.randn(rows, 3)) for rows in (6, 2, 4)]
    reduced, out = torch.randn(5, 9), torch.zeros(5, 12)
    for up in adapted_layers._place_ups(pairs, as_block=as_block):  # pyright: ignore[reportPrivateUsage]
        out[:, up.outputs].addmm_(reduced[:, up.ranks], up.weight)
    parts = [part @ pair.up.T for part, pair in zip(_torch.split(reduced, 3, dim=1), pairs, strict=True)]
    torch.testing.assert_close(out, torch.cat(parts, dim=1))


def test_merged_adapters_give_the_same_memories_and_answers(
    clara: Clara, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapted_layers, "_MAX_MERGED_BYTES", 0)
    apart = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu")
    torch.testing.assert_close(apart.compress(TEXTS).vectors, clara.compress(TEXTS).vectors, atol=2e-5, rtol=0)
    assert apart.generate(["why?"], [TEXTS], 12) == clara.generate(["why?"], [TEXTS], 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_is_torchs(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, 40).to(dtype), torch.randn(40).to(dtype)
    mine = model._normalize(x, weight.shape, weight, 1e-5)  # pyright: ignore[reportPrivateUsage]
    exact = functional.rms_norm(x.double(), weight.shape, weight.double(), 1e-5)
    torch.testing.assert_close(mine.double(), exact, atol=1e-6 if dtype == torch.float32 else 1e-2, rtol=1e-2)
