"""Initial networks: a trainable network from a base model or from the checkpoint of an earlier stage."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...models.errors import CheckpointError
from ..base_weights import BaseWeights
from ..checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from ..decoder_config import read_decoder_config
from ..linear_layers import ExactLinear
from ..loading import load_model
from ..lora import TARGET_MODULES, Adapter
from ..model_source import LoadedModel, ModelSource, Placement
from ..tokenizer import ClaraTokenizer, MemoryTokenSpec
from .checkpoint_writer import CheckpointInfo, tensor_stem
from .collate import Stage
from .network import Network

ADAPTERS: dict[Stage, tuple[str, ...]] = {
    "stage1": (DECODER_ADAPTER, ENCODER_ADAPTER),
    "stage1_2": (DECODER_ADAPTER, ENCODER_ADAPTER),
    "stage2": (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER),
    "stage2_pretrain_retrieval": (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER),
}


class StartingPoint(NamedTuple):
    """The initial network of a stage, its tokenizer, and the description of the checkpoint to write."""

    network: Network
    tokenizer: ClaraTokenizer
    info: CheckpointInfo


def network_for_stage(loaded: LoadedModel, stage: Stage) -> Network:
    """Return the initial network of a stage: stage 1_2 resets the decoder adapter, stage 2 adds a query adapter.

    A new query adapter is a copy of the encoder adapter; one from the checkpoint is used unchanged.
    """
    network = network_from_checkpoint(loaded, ADAPTERS[stage])
    adapters = loaded.model.adapters
    with torch.no_grad():
        if stage == "stage1_2":
            for pairs in network.lora_pairs(DECODER_ADAPTER):
                for pair in pairs.values():
                    pair.up.zero_()
        if stage.startswith("stage2") and QUERY_ADAPTER not in adapters:
            copy_adapter(network, QUERY_ADAPTER, adapters[ENCODER_ADAPTER])
    return network


def start_from_base(base: Path, limit: int, rate: int, rank: int) -> StartingPoint:
    """Return the starting point of stage 1: a base model with new adapters and new vocabulary rows.

    New rows are drawn from a normal distribution with the mean and the covariance of the old rows.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow, and only needed here

    tokenizer = ClaraTokenizer.from_file(base / "tokenizer.json", MemoryTokenSpec(limit // rate))
    loader: Any = AutoModelForCausalLM
    state: dict[str, Tensor] = loader.from_pretrained(base, dtype=torch.float32, local_files_only=True).state_dict()
    added = tokenizer.vocabulary_size - tokenizer.base_vocabulary_size
    embed, head = (_append_rows(state[name], added) for name in ("model.embed_tokens.weight", "lm_head.weight"))
    network = Network(
        read_decoder_config(base)._replace(vocabulary_size=len(embed)), rank, ADAPTERS["stage1"], tied=False
    )
    with torch.no_grad():
        network.embed.copy_(embed)
        network.head.copy_(head)
        network.norm.copy_(state["model.norm.weight"])
        for index, layer in enumerate(network.layers):
            for name, parameter in layer.named_parameters():
                parameter.copy_(state[_tensor_name(index, name)])
    return StartingPoint(network, tokenizer, CheckpointInfo(limit, rate, "stage1", 1, str(base)))


def start_from_checkpoint(checkpoint: Path, base: Path | None, stage: Stage) -> StartingPoint:
    """Return the starting point of a stage that continues a checkpoint."""
    loaded = load_model(ModelSource(checkpoint, base=base), Placement("cpu", "float32", "no"))
    config = loaded.config
    saved_stage = "stage2" if stage.startswith("stage2") else stage
    base_name = str(config.raw.get("decoder_model_name", ""))
    info = CheckpointInfo(config.max_document_tokens, config.compression_rate, saved_stage, config.top_k, base_name)
    return StartingPoint(network_for_stage(loaded, stage), loaded.tokenizer, info)


def network_from_checkpoint(loaded: LoadedModel, adapters: tuple[str, ...]) -> Network:
    """Return a network with the weights of a checkpoint; an adapter missing from the checkpoint starts with B = 0.

    The vocabulary matrices are not tied. Raises `CheckpointError` for a quantised base.
    """
    base = cast("BaseWeights", loaded.model.base)
    config = base.config._replace(vocabulary_size=len(loaded.model.embed))
    network = Network(config, loaded.config.lora_rank, adapters, tied=False)
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
    """Overwrite the factors of one adapter."""
    for target, source in zip(network.lora_pairs(name), adapter, strict=True):
        for module, pair in source.items():
            target[module].down.copy_(pair.down)
            target[module].up.copy_(pair.up)


def _copy_layers(network: Network, base: BaseWeights) -> None:
    for target, layer in zip(network.layers, base.layers, strict=True):
        parameters = dict(target.named_parameters())
        parameters["attention_norm"].copy_(layer.attention_norm)
        parameters["mlp_norm"].copy_(layer.mlp_norm)
        for module in TARGET_MODULES:
            linear = layer.linears[module]
            if not isinstance(linear, ExactLinear):
                raise CheckpointError("a quantised base cannot be trained: load it with quantization 'no'")
            parameters[module].copy_(linear.weight)


def _append_rows(matrix: Tensor, count: int) -> Tensor:
    mean = matrix.mean(dim=0)
    covariance = (matrix - mean).T @ (matrix - mean) / len(matrix)
    jitter = 1e-9 * torch.eye(len(covariance), dtype=torch.float64)
    algebra: Any = torch.linalg
    factor: Tensor = algebra.cholesky(covariance.double() + jitter).to(matrix)
    return torch.cat((matrix, mean + torch.randn(count, matrix.shape[1]) @ factor.T))


def _tensor_name(layer: int, name: str) -> str:
    if name in TARGET_MODULES:
        return f"{tensor_stem(layer, name)}.weight"
    norm = "input_layernorm" if name == "attention_norm" else "post_attention_layernorm"
    return f"model.layers.{layer}.{norm}.weight"
