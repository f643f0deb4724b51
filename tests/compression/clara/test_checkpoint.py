"""Finding, verifying and loading checkpoints; errors name the missing or broken part."""

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
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from clara_proxy.compression.models.errors import CheckpointError, ModelError

Tensors = dict[str, Any]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "copy")
    return tmp_path / "copy"


def checkpoint_folder(copy: Path) -> Path:
    return copy / "clara" / "compression-4"


def load_copy(copy: Path, **options: Any) -> Clara:
    return Clara.from_pretrained(checkpoint_folder(copy), base=copy / "base", device="cpu", **options)


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
def test_missing_or_broken_checkpoint_file_is_named(copy: Path, name: str) -> None:
    (checkpoint_folder(copy) / name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=name):
        load_copy(copy)
    (checkpoint_folder(copy) / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file|no {name} in it"):
        load_copy(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_or_broken_base_file_is_named(copy: Path, name: str) -> None:
    (copy / "base" / name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=name):
        load_copy(copy)
    (copy / "base" / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_copy(copy)


def test_pickle_with_code_is_refused(copy: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (copy / "owned",))

    torch.save({"decoder_adapter": Hostile()}, checkpoint_folder(copy) / "adapters.pth")
    with pytest.raises(CheckpointError, match=r"adapters\.pth"):
        load_copy(copy)
    (checkpoint_folder(copy) / "adapters.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"adapters\.pth"):
        load_copy(copy)
    assert not (copy / "owned").exists()


def test_every_adapter_is_used_at_every_stage(copy: Path) -> None:
    expected = load_copy(copy)
    edit(checkpoint_folder(copy) / "config.json", lambda config: config.update(training_stage="stage1_2"))
    again = load_copy(copy)
    assert set(again.model.adapters) == {DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER}
    assert again.generate(["why?"], [["a fox"]], 8) == expected.generate(["why?"], [["a fox"]], 8)
    assert set(load_copy(copy, compat=Compat(skip_decoder_adapter=True)).model.adapters) == {
        ENCODER_ADAPTER,
        QUERY_ADAPTER,
    }


def test_encoder_replaces_a_missing_query_adapter_in_stage_2_only(copy: Path) -> None:
    edit(checkpoint_folder(copy) / "adapters.pth", lambda adapters: adapters.pop(QUERY_ADAPTER))
    stage2 = load_copy(copy)
    for mine, theirs in zip(stage2.model.adapters[QUERY_ADAPTER], stage2.model.adapters[ENCODER_ADAPTER], strict=True):
        assert all(torch.equal(mine[name].up, theirs[name].up) for name in mine)
    edit(checkpoint_folder(copy) / "config.json", lambda config: config.update(training_stage="stage1_2"))
    plain = load_copy(copy)
    with pytest.raises(ModelError, match="query adapter"):
        plain.retrieve("why?", plain.compress(["a", "b"]))


@pytest.mark.parametrize("missing", [ENCODER_ADAPTER, DECODER_ADAPTER])
def test_missing_adapter_is_named(copy: Path, missing: str) -> None:
    edit(checkpoint_folder(copy) / "adapters.pth", lambda adapters: adapters.pop(missing))
    with pytest.raises(CheckpointError, match=f"has no {missing}"):
        load_copy(copy)


def test_missing_or_misshapen_tensor_is_named(copy: Path) -> None:
    name = "model.layers.1.mlp.up_proj.lora_B.weight"
    path = checkpoint_folder(copy) / "adapters.pth"
    edit(path, lambda adapters: adapters[ENCODER_ADAPTER].update({name: torch.zeros(1, 4)}))
    with pytest.raises(CheckpointError, match="encoder_adapter, layer 1, up_proj"):
        load_copy(copy)
    edit(path, lambda adapters: adapters[ENCODER_ADAPTER].pop(name))
    with pytest.raises(CheckpointError, match=name):
        load_copy(copy)
    edit(path, lambda adapters: adapters.update({ENCODER_ADAPTER: {name: "text"}}))
    with pytest.raises(CheckpointError, match="values that are not tensors"):
        load_copy(copy)


def test_vocabulary_matrices_must_fit_the_tokenizer(copy: Path) -> None:
    path = checkpoint_folder(copy) / "decoder_first_last_layers.pth"
    edit(path, lambda matrices: matrices.update({"lm_head.weight": matrices["lm_head.weight"][:-1]}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is"):
        load_copy(copy)
    edit(path, lambda matrices: matrices.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"has no lm_head\.weight"):
        load_copy(copy)


def test_last_matrices_in_the_adapters_are_used(copy: Path) -> None:
    embed = load_copy(copy).model.embed
    path = checkpoint_folder(copy) / "adapters.pth"
    edit(path, lambda adapters: adapters[DECODER_ADAPTER].update({"model.embed_tokens.weight": embed + 1}))
    edit(
        path,
        lambda adapters: adapters[ENCODER_ADAPTER].update({"base_model.model.model.embed_tokens.weight": embed + 2}),
    )
    assert torch.equal(load_copy(copy).model.embed, embed + 2)


def test_prefixed_keys_and_parameters_are_accepted(copy: Path, clara: Clara) -> None:
    def wrap(adapters: Tensors) -> None:
        for name, tensors in adapters.items():
            adapters[name] = {f"base_model.model.{key}": torch.nn.Parameter(value) for key, value in tensors.items()}

    edit(checkpoint_folder(copy) / "adapters.pth", wrap)
    mine = load_copy(copy)
    assert torch.equal(mine.compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)
    assert not any(pair.up.requires_grad for layer in mine.model.adapters[ENCODER_ADAPTER] for pair in layer.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doc_max_length": None}, "config.json: not a config.json of CLaRa or PISCO: "),
        ({"compr_rate": 0}, "config.json"),
        ({"compr_rate": 64}, "no memory token"),
        ({"lora_r": 8}, "does not fit rank 8"),
    ],
)
def test_invalid_config_is_refused(copy: Path, change: dict[str, Any], words: str) -> None:
    edit(checkpoint_folder(copy) / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=words):
        load_copy(copy)


def test_missing_field_of_the_config_is_named(copy: Path) -> None:
    edit(checkpoint_folder(copy) / "config.json", lambda config: config.pop("compr_rate"))
    with pytest.raises(CheckpointError, match=r"not a config.json of CLaRa or PISCO: compr_rate is missing"):
        load_copy(copy)


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
def test_unsupported_base_is_refused(copy: Path, change: dict[str, Any]) -> None:
    edit(copy / "base" / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=r"config\.json|the base"):
        load_copy(copy)


def test_both_config_formats_of_the_rope_base_are_read(copy: Path, clara: Clara) -> None:
    edit(copy / "base" / "config.json", lambda config: config.update(rope_parameters=None, rope_theta=10000.0))
    assert torch.equal(load_copy(copy).compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)
    edit(copy / "base" / "config.json", lambda config: config.update(rope_theta=100.0))
    assert not torch.equal(load_copy(copy).compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)


def test_sliding_window_bounds_the_prompt_and_must_fit_a_document(copy: Path) -> None:
    edit(copy / "base" / "config.json", lambda config: config.update(sliding_window=200))
    assert load_copy(copy).compat.max_prompt_tokens == 200
    edit(copy / "base" / "config.json", lambda config: config.update(sliding_window=40))
    with pytest.raises(CheckpointError, match="43 positions"):
        load_copy(copy)


def test_sharded_weights_are_read(copy: Path, clara: Clara) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    weights = load_file(copy / "base" / "model.safetensors")
    shards: dict[str, str] = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        save_file({name: weights[name] for name in names}, copy / "base" / f"model-{number}.safetensors")
        shards |= dict.fromkeys(names, f"model-{number}.safetensors")
    (copy / "base" / "model.safetensors").unlink()
    (copy / "base" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert torch.equal(load_copy(copy).compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)


def test_checkpoint_folder_is_found(copy: Path) -> None:
    for folder, rate in ((copy / "clara", None), (copy / "clara", "compression-4"), (checkpoint_folder(copy), None)):
        assert (
            Clara.from_pretrained(str(folder), subfolder=rate, base=copy / "base", device="cpu").config.compression_rate
            == 4
        )
    mistakes: list[tuple[str | Path, str | None, str]] = [
        (copy / "clara", "compression-8", "has no folder compression-8"),
        (copy, None, "no config.json"),
        ("/no/such/place", None, "no such folder"),
    ]
    for source, subfolder, words in mistakes:
        with pytest.raises(CheckpointError, match=words):
            Clara.from_pretrained(source, subfolder=subfolder, base=copy / "base", device="cpu")


def add_to_hub_cache(cache: Path, repo: str, folder: Path) -> None:
    """Copy a folder to the hub client's cache as a downloaded repository."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abcd")
    shutil.copytree(folder, home / "snapshots" / "0123abcd")


def test_cached_repositories_are_used_without_the_hub(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clara: Clara
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    trainer_path = "/mnt/conductor_data/data/hf_models/Mistral-7B-Instruct-v0.2"
    edit(checkpoint_folder(copy) / "config.json", lambda config: config.update(decoder_model_name=trainer_path))
    add_to_hub_cache(tmp_path / "hub", "apple/CLaRa-7B-E2E", copy / "clara")
    add_to_hub_cache(tmp_path / "hub", "mistralai/Mistral-7B-Instruct-v0.2", copy / "base")
    mine = Clara.from_pretrained("apple/CLaRa-7B-E2E", subfolder="compression-4", device="cpu")
    assert torch.equal(mine.compress(["a fox"]).vectors, clara.compress(["a fox"]).vectors)


def test_unknown_base_path_is_named(copy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'/mnt/somewhere/tiny'.*`base`"):
        Clara.from_pretrained(checkpoint_folder(copy), device="cpu")


def test_repository_that_cannot_be_downloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, **_: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"{repo} is not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="apple/CLaRa-7B-Base: not in the cache"):
        Clara.from_pretrained("apple/CLaRa-7B-Base", device="cpu")


def test_unknown_device_or_dtype_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="int3"):
        load_copy(copy, dtype="int3")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(ModelError, match="int4 needs bitsandbytes"):
            load_copy(copy, quantization="int4")
    with pytest.raises(ModelError, match="nowhere"):
        Clara.from_pretrained(checkpoint_folder(copy), base=copy / "base", device="nowhere")


def test_tokenizer_with_clara_tokens_is_refused(copy: Path) -> None:
    def add(tokenizer: dict[str, Any]) -> None:
        special = {**tokenizer["added_tokens"][0], "id": 999, "content": "<MEM0>"}
        tokenizer["added_tokens"].append(special)

    edit(copy / "base" / "tokenizer.json", add)
    with pytest.raises(CheckpointError, match="already holds"):
        ClaraTokenizer.from_file(copy / "base" / "tokenizer.json", MemoryTokenSpec(8))


def test_fingerprint_covers_dtype_and_adapter(copy: Path, clara: Clara) -> None:
    assert load_copy(copy).fingerprint == clara.fingerprint
    assert load_copy(copy, dtype="bfloat16").fingerprint != clara.fingerprint
    edit(
        checkpoint_folder(copy) / "adapters.pth",
        lambda adapters: adapters[ENCODER_ADAPTER]["model.layers.0.mlp.up_proj.lora_B.weight"].add_(0.5),
    )
    assert load_copy(copy).fingerprint != clara.fingerprint
