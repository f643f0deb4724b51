"""Equality with the reference's training: labels, retrieved documents, losses and gradients, in float32."""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import numpy as np
import torch
from torch import Tensor, nn

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.loading import load_model
from clara_proxy.compression.clara.model_source import LoadedModel, ModelSource, Placement
from clara_proxy.compression.clara.train.collate import Stage, StageBatch, TokenLimits, collate_examples
from clara_proxy.compression.clara.train.encoder_rows import IGNORED_LABEL
from clara_proxy.compression.clara.train.initial_network import network_from_checkpoint
from clara_proxy.compression.clara.train.network import Network
from clara_proxy.compression.clara.train.stages import StageObjective, set_trainable
from clara_proxy.compression.clara.train.top_k import cosine_scores, straight_through_top_k
from clara_proxy.compression.clara.train.training_data import parse_example
from clara_proxy.tests.compression.clara.conftest import GOLDEN

CASES = {
    "s1_qa": "CLaRa-tiny-Base",
    "s1_mixed": "CLaRa-tiny-Base",
    "s12": "CLaRa-tiny-Instruct",
    "s2": "CLaRa-tiny-E2E",
    "s2_pretrain_retrieval": "CLaRa-tiny-E2E",
}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 3e-4  # absolute; relative to the gradient's norm


class Case(NamedTuple):
    """A golden case: the reference's values, and the same batch and objective of ours."""

    expected: dict[str, Any]
    arrays: dict[str, Any]
    loaded: LoadedModel
    network: Network
    batch: StageBatch
    objective: StageObjective


def load_case(name: str, *, merge: bool = True) -> Case:
    path = GOLDEN / "golden_train" / f"{name}.json"
    expected: dict[str, Any] = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = {key: stored[key] for key in stored.files}
    folder = GOLDEN / "checkpoints" / CASES[name] / "compression-16"
    loaded = load_model(ModelSource(folder, base=GOLDEN / "base" / "tiny-mistral"), Placement("cpu", "float32"))
    stage = cast("Stage", expected["stage"])
    adapters = (
        (ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER)
        if stage.startswith("stage2")
        else (ENCODER_ADAPTER, DECODER_ADAPTER)
    )
    network = network_from_checkpoint(loaded, adapters)
    network.merge = merge
    set_trainable(network, stage, loaded.tokenizer.memory_ids)
    examples = [parse_example(record) for record in expected["data"]]
    k = int(expected["generation_top_k"])
    limits = TokenLimits(expected["enc_max_len"], expected["dec_max_len"])
    batch = collate_examples(loaded.tokenizer, examples, stage, limits, k, expected["template_indices"] or ())
    return Case(expected, arrays, loaded, network, batch, StageObjective(network, stage, k))


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_equal_the_references(name: str, merge: bool, golden: Path) -> None:
    expected, arrays, loaded, network, batch, objective = load_case(name, merge=merge)
    losses = objective(batch)
    assert abs(losses["loss"].item() - expected["loss"]) <= LOSS_TOLERANCE
    assert abs(losses["total"].item() - expected["total"]) <= LOSS_TOLERANCE
    if "mse" in losses:
        assert abs(losses["mse"].item() - expected["mse_loss"]) <= LOSS_TOLERANCE
    losses["total"].backward()
    gradients = named_gradients(network)
    norms: dict[str, float] = expected["grad_norms"]
    for key, norm in norms.items():
        if key != "model.embed_tokens.weight":
            assert to_norm(gradients.pop(key)) == pytest.approx(norm, rel=GRADIENT_TOLERANCE), key
    assert not gradients, "the reference trains no other parameter"
    for key, array in arrays.items():
        if key.startswith("grad__"):
            assert_close(named_gradients(network)[key.removeprefix("grad__")], array)
    if "grad_embed_mem_rows" in arrays:
        gradient = network.embed.grad
        assert gradient is not None
        assert_close(gradient[list(loaded.tokenizer.memory_ids)], arrays["grad_embed_mem_rows"])
        assert to_list(gradient.abs().sum(dim=1).nonzero().flatten()) == expected["embed_rows_with_gradient"]


@pytest.mark.parametrize("name", CASES)
def test_rows_and_labels_equal_the_references(name: str, golden: Path) -> None:
    expected, arrays, loaded, _, batch, _ = load_case(name)
    if expected["stage"] != "stage2_pretrain_retrieval":
        rows = zip(arrays["dec_input_ids"], arrays["dec_attention_mask"], batch.ids, batch.labels, strict=True)
        for row, mask, ids, row_labels in rows:
            assert_starts_with(ids, row, mask)
            labels = [label for label in to_list(row_labels) if label != IGNORED_LABEL]
            texts = [text.removesuffix("</s>") for text in expected["label_text"]]
            assert loaded.tokenizer.decode(labels) in texts
        assert drop_ignored(batch.labels) == drop_ignored(arrays["labels"])
        assert int((batch.labels != IGNORED_LABEL).sum()) == expected["n_label_tokens"]
    encoder_rows = zip(arrays["enc_input_ids"], arrays["enc_attention_mask"], batch.documents.ids, strict=True)
    for row, mask, ids in encoder_rows:
        assert_starts_with(ids, row, mask)


@pytest.mark.parametrize("name", ["s2", "s2_pretrain_retrieval"])
def test_retrieved_documents_equal_the_references(name: str, golden: Path) -> None:
    _, arrays, _, _, batch, objective = load_case(name)
    assert batch.queries is not None
    with torch.no_grad():
        memories, _ = objective.encode(batch.documents, ENCODER_ADAPTER)
        queries, _ = objective.encode(batch.queries, QUERY_ADAPTER)
        grouped = memories.view(len(batch.ids), -1, *memories.shape[1:])
        indices, weights = straight_through_top_k(cosine_scores(queries, grouped), objective.k)
    assert to_list(indices) == arrays["topk_idx"].tolist()
    assert to_list(weights.argmax(dim=-1)) == to_list(indices)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(weights.shape[:2]))


def named_gradients(network: Network) -> dict[str, Tensor]:
    """Return the adapters' gradients by the names of the goldens, without parameters that have none."""
    gradients: dict[str, Tensor] = {}
    for name, layers in network.adapters.items():
        for index, layer in cast("nn.ModuleDict", layers).items():
            for key, parameter in layer.named_parameters():
                module, _, half = key.rpartition("_")
                block = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
                letter = "A" if half == "down" else "B"
                if parameter.grad is not None:
                    gradients[f"model.layers.{index}.{block}.{module}.lora_{letter}.{name}.weight"] = parameter.grad
    return gradients


def drop_ignored(labels: Any) -> list[list[int]]:
    return [[int(token) for token in row if token != IGNORED_LABEL] for row in labels]


def to_list(tensor: Any) -> list[Any]:
    return list(tensor.tolist())


def to_norm(tensor: Any) -> float:
    return float(tensor.norm())


def assert_starts_with(ids: Tensor, row: Any, mask: Any) -> None:
    """Assert that ids begin with the unmasked tokens of the reference's row."""
    expected = [int(token) for token, is_visible in zip(row, mask, strict=True) if is_visible]
    assert to_list(ids)[: len(expected)] == expected


def assert_close(actual: Tensor, expected: Any) -> None:
    assert np.linalg.norm(actual.detach().numpy() - expected) <= GRADIENT_TOLERANCE * np.linalg.norm(expected)
