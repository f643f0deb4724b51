"""Equality with the reference's training: labels, chosen documents, losses and gradients, in float32."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import numpy as np
import torch
from torch import Tensor, nn

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.loading import LoadedModel, ModelSource, Placement, load_model
from clara_proxy.compression.clara.train import data, select, stages
from clara_proxy.compression.clara.train.batch import Limits, Lines, Stage, collate
from clara_proxy.compression.clara.train.network import Network
from clara_proxy.compression.clara.train.packed import IGNORED
from clara_proxy.compression.clara.train.start import from_loaded
from clara_proxy.tests.compression.clara.conftest import GOLDEN

CASES = {
    "s1_qa": "CLaRa-tiny-Base",
    "s1_mixed": "CLaRa-tiny-Base",
    "s12": "CLaRa-tiny-Instruct",
    "s2": "CLaRa-tiny-E2E",
    "s2_pretrain_retrieval": "CLaRa-tiny-E2E",
}
LOSS, GRADIENT = 2e-5, 3e-4  # absolute; relative to the gradient's norm

Made = tuple[dict[str, Any], dict[str, Any], LoadedModel, Network, Lines, stages.Objective]


def made(name: str, *, merge: bool = True) -> Made:
    path = GOLDEN / "golden_train" / f"{name}.json"
    told: dict[str, Any] = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = {key: stored[key] for key in stored.files}
    folder = GOLDEN / "checkpoints" / CASES[name] / "compression-16"
    loaded = load_model(ModelSource(folder, base=GOLDEN / "base" / "tiny-mistral"), Placement("cpu", "float32"))
    stage = cast("Stage", told["stage"])
    adapters = (
        (ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER)
        if stage.startswith("stage2")
        else (ENCODER_ADAPTER, DECODER_ADAPTER)
    )
    network = from_loaded(loaded, adapters)
    network.merge = merge
    stages.prepare(network, stage, loaded.tokenizer.memory_ids)
    items = [data.item(record) for record in told["data"]]
    k = int(told["generation_top_k"])
    limits = Limits(told["enc_max_len"], told["dec_max_len"])
    lines = collate(loaded.tokenizer, items, stage, limits, k, told["template_indices"] or ())
    return told, arrays, loaded, network, lines, stages.Objective(network, stage, k)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(name: str, merge: bool, golden: Path) -> None:
    told, arrays, loaded, network, lines, objective = made(name, merge=merge)
    found = objective(lines)
    assert abs(found["loss"].item() - told["loss"]) <= LOSS
    assert abs(found["total"].item() - told["total"]) <= LOSS
    if "mse" in found:
        assert abs(found["mse"].item() - told["mse_loss"]) <= LOSS
    found["total"].backward()
    gradients = named_gradients(network)
    norms: dict[str, float] = told["grad_norms"]
    for key, norm in norms.items():
        if key != "model.embed_tokens.weight":
            assert size(gradients.pop(key)) == pytest.approx(norm, rel=GRADIENT), key
    assert not gradients, "the reference trains nothing else"
    for key, array in arrays.items():
        if key.startswith("grad__"):
            close(named_gradients(network)[key.removeprefix("grad__")], array)
    if "grad_embed_mem_rows" in arrays:
        assert network.embed.grad is not None
        close(network.embed.grad[list(loaded.tokenizer.memory_ids)], arrays["grad_embed_mem_rows"])
        assert numbers(network.embed.grad.abs().sum(dim=1).nonzero().flatten()) == told["embed_rows_with_gradient"]


@pytest.mark.parametrize("name", CASES)
def test_rows_and_labels(name: str, golden: Path) -> None:
    told, arrays, loaded, _, lines, _ = made(name)
    if told["stage"] != "stage2_pretrain_retrieval":
        for row, mask, ids, labels in zip(
            arrays["dec_input_ids"], arrays["dec_attention_mask"], lines.ids, lines.labels, strict=True
        ):
            wanted = [int(token) for token, seen in zip(row, mask, strict=True) if seen]
            assert numbers(ids)[: len(wanted)] == wanted
            learned = [label for label in numbers(labels) if label != IGNORED]
            assert loaded.tokenizer.decode(learned) in [text.removesuffix("</s>") for text in told["label_text"]]
        assert learned_labels(lines.labels) == learned_labels(arrays["labels"])
        assert int((lines.labels != IGNORED).sum()) == told["n_label_tokens"]
    encoder = zip(arrays["enc_input_ids"], arrays["enc_attention_mask"], lines.documents.ids, strict=True)
    for row, mask, ids in encoder:
        wanted = [int(token) for token, seen in zip(row, mask, strict=True) if seen]
        assert numbers(ids)[: len(wanted)] == wanted


@pytest.mark.parametrize("name", ["s2", "s2_pretrain_retrieval"])
def test_the_same_documents_are_chosen(name: str, golden: Path) -> None:
    _, arrays, _, _, lines, objective = made(name)
    assert lines.queries is not None
    with torch.no_grad():
        memories, _ = objective.encode(lines.documents, ENCODER_ADAPTER)
        queries, _ = objective.encode(lines.queries, QUERY_ADAPTER)
        grouped = memories.view(len(lines.ids), -1, *memories.shape[1:])
        indices, weights = select.choose(select.cosines(queries, grouped), objective.k)
    assert numbers(indices) == arrays["topk_idx"].tolist()
    assert numbers(weights.argmax(dim=-1)) == numbers(indices)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(weights.shape[:2]))


def named_gradients(network: Network) -> dict[str, Tensor]:
    """Return the adapters' gradients under the names of the goldens; what has none is left out."""
    found: dict[str, Tensor] = {}
    for name, layers in network.adapters.items():
        for index, layer in cast("nn.ModuleDict", layers).items():
            for key, parameter in layer.named_parameters():
                module, _, half = key.rpartition("_")
                room = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
                letter = "A" if half == "down" else "B"
                if parameter.grad is not None:
                    found[f"model.layers.{index}.{room}.{module}.lora_{letter}.{name}.weight"] = parameter.grad
    return found


def learned_labels(labels: Any) -> list[list[int]]:
    return [[int(token) for token in row if token != IGNORED] for row in labels]


def numbers(tensor: Any) -> list[Any]:
    return list(tensor.tolist())


def size(tensor: Any) -> float:
    return float(tensor.norm())


def close(mine: Tensor, theirs: Any) -> None:
    assert np.linalg.norm(mine.detach().numpy() - theirs) <= GRADIENT * np.linalg.norm(theirs)
