"""The decoder equals transformers' with a merged adapter, for shapes that the goldens do not cover."""

from typing import Any, NamedTuple

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
pytest.importorskip("transformers", reason="the comparison needs the extra [train]")

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MistralConfig, MistralForCausalLM

from clara_proxy.compression.clara.base_weights import BaseWeights, DecoderLayer
from clara_proxy.compression.clara.decoder_config import DecoderConfig
from clara_proxy.compression.clara.lora import TARGET_MODULES, LoraPair
from clara_proxy.compression.clara.model import ClaraModel

VOCABULARY, HIDDEN, INTER, RANK = 50, 24, 40, 3


class Both(NamedTuple):
    theirs: Any
    mine: ClaraModel


@pytest.fixture(params=[(4, 4, 6), (6, 1, 10), (4, 2, 8)], ids=["all heads", "one key head", "wide heads"])
def both(request: pytest.FixtureRequest) -> Both:
    """Return transformers' model with an adapter merged into its weights, and ours with a separate adapter."""
    heads, kv_heads, head_dim = request.param
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    make: Any = MistralConfig
    config = make(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTER,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        sliding_window=None,
        rms_norm_eps=1e-4,
        initializer_range=0.3,
    )
    theirs: Any = MistralForCausalLM(config)
    theirs.eval()
    shape = DecoderConfig(HIDDEN, 2, heads, kv_heads, head_dim, INTER, VOCABULARY, 1e-4, 10000.0, 4096, (2,))
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta}
    return Both(theirs, _ours(theirs, shape._replace(rope_theta=float(rope["rope_theta"]))))


def _ours(theirs: Any, shape: DecoderConfig) -> ClaraModel:
    layers: list[DecoderLayer] = []
    adapter: list[dict[str, LoraPair]] = []
    for layer in theirs.model.layers:
        pairs = {
            name: LoraPair(
                torch.randn(RANK, shape.linear_shape(name)[1]), torch.randn(shape.linear_shape(name)[0], RANK)
            )
            for name in TARGET_MODULES
        }
        pairs = {name: LoraPair(pair.down * 0.2, pair.up * 0.2) for name, pair in pairs.items()}
        linears = {name: _split_layer(layer, name, pair) for name, pair in pairs.items()}
        layers.append(DecoderLayer(layer.input_layernorm.weight, layer.post_attention_layernorm.weight, linears))
        adapter.append(pairs)
    norm = theirs.model.norm.weight
    base = BaseWeights(
        shape, tuple(layers), norm, torch.device("cpu"), torch.float32, read_fingerprint_weight=lambda: norm
    )
    embed, head = theirs.model.embed_tokens.weight.detach(), theirs.lm_head.weight.detach()
    return ClaraModel(base, embed, head, {"one": tuple(adapter)})


def _split_layer(layer: Any, name: str, pair: LoraPair) -> Any:
    """Return a layer with the plain weight, and merge the adapter into theirs."""
    module = getattr(layer.mlp if hasattr(layer.mlp, name) else layer.self_attn, name)
    plain = module.weight.detach().clone()
    module.weight.data += 2.0 * pair.up @ pair.down

    def linear(x: Tensor) -> Tensor:
        return functional.linear(x, plain)

    return linear


def assert_near(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=0)


@torch.no_grad()
def test_states_equal_transformers(both: Both) -> None:
    rows = [[3, 9, 27, 31, 5, 8], [7, 1, 44, 2]]
    encoded = both.mine.encode(rows, 2, "one")
    for row, memories in zip(rows, encoded, strict=True):
        states = both.theirs.model(torch.tensor([row])).last_hidden_state[0]
        assert_near(memories, states[-2:])


@torch.no_grad()
def test_logits_equal_transformers_at_every_step(both: Both) -> None:
    rows = [[3, 9, 27, 31, 5, 8], [7, 1, 44]]
    logits, cache = both.mine.prefill([both.mine.embed[row] for row in rows], "one")
    for _ in range(5):
        assert_near(logits, torch.stack([both.theirs(torch.tensor([row])).logits[0, -1] for row in rows]))
        for row, choice in zip(rows, logits, strict=True):
            row.append(int(choice.argmax()))
        logits = both.mine.step([row[-1] for row in rows], cache, "one")


@torch.no_grad()
def test_each_call_selects_its_adapter(both: Both) -> None:
    row = [3, 9, 27, 31]
    bare = both.mine.encode([row], 1, "none of that name")
    assert not torch.allclose(bare, both.mine.encode([row], 1, "one"), atol=1e-2)
    assert_near(both.mine.encode([row], 1, "none of that name"), bare)
