"""A trainable network from a base model and, where there is one, a checkpoint of an earlier stage."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..base import Base, read_shape
from ..checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from ..errors import CheckpointError
from ..loading import LoadedModel, ModelSource, Placement, load_model
from ..lora import TARGET_MODULES, Adapter
from ..tokens import Layout, Vocabulary
from .batch import Stage
from .network import Network
from .save import Describe

ADAPTERS: dict[Stage, tuple[str, ...]] = {
    "stage1": (DECODER_ADAPTER, ENCODER_ADAPTER),
    "stage1_2": (DECODER_ADAPTER, ENCODER_ADAPTER),
    "stage2": (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER),
    "stage2_pretrain_retrieval": (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER),
}


class Beginning(NamedTuple):
    """What a stage starts from, and what its checkpoint will say of itself."""

    network: Network
    vocabulary: Vocabulary
    describe: Describe


def for_stage(loaded: LoadedModel, stage: Stage) -> Network:
    """Return the network a stage starts from: stage 1_2 learns its decoder adapter anew, stage 2 copies the encoder's.

    A query adapter that the checkpoint has is kept.
    """
    network = from_loaded(loaded, ADAPTERS[stage])
    adapters = loaded.model.adapters
    with torch.no_grad():
        if stage == "stage1_2":
            for pairs in network.pairs(DECODER_ADAPTER):
                for pair in pairs.values():
                    pair.up.zero_()
        if stage.startswith("stage2") and QUERY_ADAPTER not in adapters:
            copy_adapter(network, QUERY_ADAPTER, adapters[ENCODER_ADAPTER])
    return network


def fresh(base: Path, limit: int, rate: int, rank: int) -> Beginning:
    """Return what stage 1 starts from: a bare base, fresh adapters, new vocabulary rows.

    New rows are drawn from a normal distribution with the mean and the covariance of the old ones.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow, and only needed here

    vocabulary = Vocabulary.from_file(base / "tokenizer.json", Layout(limit // rate))
    loader: Any = AutoModelForCausalLM
    state: dict[str, Tensor] = loader.from_pretrained(base, dtype=torch.float32, local_files_only=True).state_dict()
    added = vocabulary.size - vocabulary.base_size
    embed, head = (_grown(state[name], added) for name in ("model.embed_tokens.weight", "lm_head.weight"))
    network = Network(read_shape(base)._replace(vocabulary=len(embed)), rank, ADAPTERS["stage1"], tied=False)
    with torch.no_grad():
        network.embed.copy_(embed)
        network.head.copy_(head)
        network.norm.copy_(state["model.norm.weight"])
        for index, layer in enumerate(network.layers):
            for name, own in layer.named_parameters():
                own.copy_(state[_name(index, name)])
    return Beginning(network, vocabulary, Describe(limit, rate, "stage1", 1, str(base)))


def resumed(checkpoint: Path, base: Path | None, stage: Stage) -> Beginning:
    """Return what a stage starts from when there is a checkpoint of an earlier one."""
    loaded = load_model(ModelSource(checkpoint, base=base), Placement("cpu", "float32", "no"))
    config = loaded.config
    kept = "stage2" if stage.startswith("stage2") else stage
    named = str(config.raw.get("decoder_model_name", ""))
    describe = Describe(config.max_document_tokens, config.compression_rate, kept, config.top_k, named)
    return Beginning(for_stage(loaded, stage), loaded.tokenizer, describe)


def from_loaded(loaded: LoadedModel, adapters: tuple[str, ...]) -> Network:
    """Return a network with the weights of a checkpoint; an adapter that it does not have starts with B = 0.

    The vocabulary matrices stay two. Raises `CheckpointError` for a quantised base: its matrices cannot be had back.
    """
    base = loaded.model.base
    shape = base.config._replace(vocabulary=len(loaded.model.embed))
    network = Network(shape, loaded.config.lora_rank, adapters, tied=False)
    with torch.no_grad():
        network.embed.copy_(loaded.model.embed)
        network.head.copy_(loaded.model.head)
        network.norm.copy_(base.norm)
        _copy_layers(network, base)
        for name in adapters:
            if name in loaded.model.adapters:
                copy_adapter(network, name, loaded.model.adapters[name])
    return network


def copy_adapter(network: Network, name: str, adapter: Adapter) -> None:
    """Overwrite one adapter's factors."""
    for own, given in zip(network.pairs(name), adapter, strict=True):
        for module, pair in given.items():
            own[module].down.copy_(pair.down)
            own[module].up.copy_(pair.up)


def _copy_layers(network: Network, base: Base) -> None:
    for own, layer in zip(network.layers, base.layers, strict=True):
        mine = dict(own.named_parameters())
        mine["attention_norm"].copy_(layer.attention_norm)
        mine["mlp_norm"].copy_(layer.mlp_norm)
        for module in TARGET_MODULES:
            linear = layer.linears[module]
            if not isinstance(linear, partial):
                raise CheckpointError("a quantised base cannot be trained: load it with quantization 'no'")
            mine[module].copy_(cast("Tensor", linear.keywords["weight"]))


def _grown(matrix: Tensor, added: int) -> Tensor:
    centre = matrix.mean(dim=0)
    spread = (matrix - centre).T @ (matrix - centre) / len(matrix)
    algebra: Any = torch.linalg
    factor: Tensor = algebra.cholesky(spread.double() + 1e-9 * torch.eye(len(spread), dtype=torch.float64)).to(matrix)
    return torch.cat((matrix, centre + torch.randn(added, matrix.shape[1]) @ factor.T))


def _name(layer: int, name: str) -> str:
    stem = f"model.layers.{layer}"
    if name in TARGET_MODULES:
        return f"{stem}.{'mlp' if name.startswith(('gate', 'up', 'down')) else 'self_attn'}.{name}.weight"
    return f"{stem}.{'input_layernorm' if name == 'attention_norm' else 'post_attention_layernorm'}.weight"
