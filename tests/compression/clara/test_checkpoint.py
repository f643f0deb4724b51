"""Finding, verifying and loading: what is there is used, what is not is named."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import huggingface_hub.constants
import huggingface_hub.errors
import torch

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.exceptions import CheckpointError, ClaraError
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec

Tensors = dict[str, Any]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "copy")
    return tmp_path / "copy"


def checkpoint(copy: Path) -> Path:
    return copy / "clara" / "compression-4"


def start(copy: Path, **more: Any) -> Clara:
    return Clara.from_pretrained(checkpoint(copy), base=copy / "base", device="cpu", **more)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON or a tensor file in place."""
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    else:
        value = torch.load(path, weights_only=True)
        change(value)
        torch.save(value, path)


@pytest.mark.parametrize("name", ["config.json", "adapters.pth", "decoder_first_last_layers.pth"])
def test_a_missing_or_broken_file_is_named(copy: Path, name: str) -> None:
    (checkpoint(copy) / name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=name):
        start(copy)
    (checkpoint(copy) / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file|no {name} in it"):
        start(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_or_broken_base_file_is_named(copy: Path, name: str) -> None:
    (copy / "base" / name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=name):
        start(copy)
    (copy / "base" / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        start(copy)


def test_a_pickle_that_runs_code_is_refused(copy: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (copy / "owned",))

    torch.save({"decoder_adapter": Hostile()}, checkpoint(copy) / "adapters.pth")
    with pytest.raises(CheckpointError, match=r"adapters\.pth"):
        start(copy)
    (checkpoint(copy) / "adapters.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"adapters\.pth"):
        start(copy)
    assert not (copy / "owned").exists()


def test_every_adapter_is_used_whatever_the_stage(copy: Path) -> None:
    full = start(copy)
    edit(checkpoint(copy) / "config.json", lambda config: config.update(training_stage="stage1_2"))
    again = start(copy)
    assert set(again.model.adapters) == {DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER}
    assert again.generate(["why?"], [["a fox"]], 8) == full.generate(["why?"], [["a fox"]], 8)
    assert set(start(copy, compat=Compat(skip_decoder_adapter=True)).model.adapters) == {ENCODER_ADAPTER, QUERY_ADAPTER}


def test_a_missing_query_adapter_is_the_encoder_in_stage_2_only(copy: Path) -> None:
    edit(checkpoint(copy) / "adapters.pth", lambda adapters: adapters.pop(QUERY_ADAPTER))
    twin = start(copy)
    for mine, theirs in zip(twin.model.adapters[QUERY_ADAPTER], twin.model.adapters[ENCODER_ADAPTER], strict=True):
        assert all(torch.equal(mine[name].up, theirs[name].up) for name in mine)
    edit(checkpoint(copy) / "config.json", lambda config: config.update(training_stage="stage1_2"))
    plain = start(copy)
    with pytest.raises(ClaraError, match="query adapter"):
        plain.retrieve("why?", plain.compress(["a", "b"]))


@pytest.mark.parametrize("missing", [ENCODER_ADAPTER, DECODER_ADAPTER])
def test_a_missing_adapter_is_named(copy: Path, missing: str) -> None:
    edit(checkpoint(copy) / "adapters.pth", lambda adapters: adapters.pop(missing))
    with pytest.raises(CheckpointError, match=f"has no {missing}"):
        start(copy)


def test_a_missing_or_misshapen_tensor_is_named(copy: Path) -> None:
    name = "model.layers.1.mlp.up_proj.lora_B.weight"
    path = checkpoint(copy) / "adapters.pth"
    edit(path, lambda adapters: adapters[ENCODER_ADAPTER].update({name: torch.zeros(1, 4)}))
    with pytest.raises(CheckpointError, match="encoder_adapter, layer 1, up_proj"):
        start(copy)
    edit(path, lambda adapters: adapters[ENCODER_ADAPTER].pop(name))
    with pytest.raises(CheckpointError, match=name):
        start(copy)
    edit(path, lambda adapters: adapters.update({ENCODER_ADAPTER: {name: "text"}}))
    with pytest.raises(CheckpointError, match="something else than tensors"):
        start(copy)


def test_the_vocabulary_matrices_must_fit_the_tokenizer(copy: Path) -> None:
    path = checkpoint(copy) / "decoder_first_last_layers.pth"
    edit(path, lambda matrices: matrices.update({"lm_head.weight": matrices["lm_head.weight"][:-1]}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is"):
        start(copy)
    edit(path, lambda matrices: matrices.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"has no lm_head\.weight"):
        start(copy)


def test_the_last_matrices_in_the_adapters_count(copy: Path) -> None:
    embed = start(copy).model.embed
    path = checkpoint(copy) / "adapters.pth"
    edit(path, lambda adapters: adapters[DECODER_ADAPTER].update({"model.embed_tokens.weight": embed + 1}))
    edit(
        path,
        lambda adapters: adapters[ENCODER_ADAPTER].update({"base_model.model.model.embed_tokens.weight": embed + 2}),
    )
    assert torch.equal(start(copy).model.embed, embed + 2)


def test_prefixed_keys_and_parameters_are_read(copy: Path, clara: Clara) -> None:
    def wrap(adapters: Tensors) -> None:
        for name, tensors in adapters.items():
            adapters[name] = {f"base_model.model.{key}": torch.nn.Parameter(value) for key, value in tensors.items()}

    edit(checkpoint(copy) / "adapters.pth", wrap)
    mine = start(copy)
    assert torch.equal(mine.compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)
    assert not any(pair.up.requires_grad for layer in mine.model.adapters[ENCODER_ADAPTER] for pair in layer.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doc_max_length": None}, "config.json"),
        ({"compr_rate": 0}, "config.json"),
        ({"compr_rate": 64}, "no memory token"),
        ({"lora_r": 8}, "does not fit rank 8"),
    ],
)
def test_a_senseless_configuration_is_refused(copy: Path, change: dict[str, Any], words: str) -> None:
    edit(checkpoint(copy) / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=words):
        start(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gemma"},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "yarn"}, "rope_parameters": None},
        {"num_attention_heads": None},
        {"intermediate_size": 40},
    ],
)
def test_another_kind_of_base_is_refused(copy: Path, change: dict[str, Any]) -> None:
    edit(copy / "base" / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=r"config\.json|the base"):
        start(copy)


def test_both_spellings_of_the_rope_base(copy: Path, clara: Clara) -> None:
    edit(copy / "base" / "config.json", lambda config: config.update(rope_parameters=None, rope_theta=10000.0))
    assert torch.equal(start(copy).compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)
    edit(copy / "base" / "config.json", lambda config: config.update(rope_theta=100.0))
    assert not torch.equal(start(copy).compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)


def test_a_base_without_room_is_refused_and_a_window_bounds_the_prompt(copy: Path) -> None:
    edit(copy / "base" / "config.json", lambda config: config.update(sliding_window=200))
    assert start(copy).compat.max_prompt_tokens == 200
    edit(copy / "base" / "config.json", lambda config: config.update(sliding_window=40))
    with pytest.raises(CheckpointError, match="43 positions"):
        start(copy)


def test_sharded_weights_are_read(copy: Path, clara: Clara) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    weights = load_file(copy / "base" / "model.safetensors")
    places: dict[str, str] = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        save_file({name: weights[name] for name in names}, copy / "base" / f"model-{number}.safetensors")
        places |= dict.fromkeys(names, f"model-{number}.safetensors")
    (copy / "base" / "model.safetensors").unlink()
    (copy / "base" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(start(copy).compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)


def test_folders_are_found(copy: Path) -> None:
    for place, rate in ((copy / "clara", None), (copy / "clara", "compression-4"), (checkpoint(copy), None)):
        assert (
            Clara.from_pretrained(str(place), subfolder=rate, base=copy / "base", device="cpu").config.compression_rate
            == 4
        )
    wrong: list[tuple[str | Path, str | None, str]] = [
        (copy / "clara", "compression-8", "has no folder compression-8"),
        (copy, None, "no config.json"),
        ("/no/such/place", None, "no such folder"),
    ]
    for source, subfolder, words in wrong:
        with pytest.raises(CheckpointError, match=words):
            Clara.from_pretrained(source, subfolder=subfolder, base=copy / "base", device="cpu")


def in_cache(cache: Path, repo: str, folder: Path) -> None:
    """Put a folder where the hub's client keeps a repository it has downloaded."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abcd")
    shutil.copytree(folder, home / "snapshots" / "0123abcd")


def test_the_cache_is_enough_and_dead_paths_mean_the_hub(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clara: Clara
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    dead = "/mnt/conductor_data/data/hf_models/Mistral-7B-Instruct-v0.2"
    edit(checkpoint(copy) / "config.json", lambda config: config.update(decoder_model_name=dead))
    in_cache(tmp_path / "hub", "apple/CLaRa-7B-E2E", copy / "clara")
    in_cache(tmp_path / "hub", "mistralai/Mistral-7B-Instruct-v0.2", copy / "base")
    mine = Clara.from_pretrained("apple/CLaRa-7B-E2E", subfolder="compression-4", device="cpu")
    assert torch.equal(mine.compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)


def test_a_dead_path_that_says_nothing_asks_for_the_base(copy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'/mnt/somewhere/tiny'.*`base`"):
        Clara.from_pretrained(checkpoint(copy), device="cpu")


def test_what_is_neither_cached_nor_on_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, **_: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"{repo} is not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="apple/CLaRa-7B-Base: not in the cache"):
        Clara.from_pretrained("apple/CLaRa-7B-Base", device="cpu")


def test_devices_and_dtypes_that_are_not_there(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClaraError, match="int3"):
        start(copy, dtype="int3")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(ClaraError, match="int4 needs bitsandbytes"):
            start(copy, quantization="int4")
    with pytest.raises(ClaraError, match="nowhere"):
        Clara.from_pretrained(checkpoint(copy), base=copy / "base", device="nowhere")


def test_a_tokenizer_with_claras_tokens_is_not_the_bases(copy: Path) -> None:
    def add(tokenizer: dict[str, Any]) -> None:
        special = {**tokenizer["added_tokens"][0], "id": 999, "content": "<MEM0>"}
        tokenizer["added_tokens"].append(special)

    edit(copy / "base" / "tokenizer.json", add)
    with pytest.raises(CheckpointError, match="already holds"):
        ClaraTokenizer.from_file(copy / "base" / "tokenizer.json", MemoryTokenSpec(8))


def test_the_fingerprint_follows_what_a_latent_depends_on(copy: Path, clara: Clara) -> None:
    assert start(copy).fingerprint == clara.fingerprint
    assert start(copy, dtype="bfloat16").fingerprint != clara.fingerprint
    edit(
        checkpoint(copy) / "adapters.pth",
        lambda adapters: adapters[ENCODER_ADAPTER]["model.layers.0.mlp.up_proj.lora_B.weight"].add_(0.5),
    )
    assert start(copy).fingerprint != clara.fingerprint
