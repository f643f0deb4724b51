"""Tests exported checkpoints: transformers, with LoRA as PEFT's layout describes it, gives this engine's tokens."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from clara_proxy.compression.clara.checkpoint import ENCODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.export import export_checkpoint
from clara_proxy.compression.clara.model_source import ModelSource
from clara_proxy.compression.models.errors import CheckpointError
from clara_proxy.tests.compression.clara.tiny import make_checkpoint

DOCUMENTS = ["The mill at Osk was built in 1874 by Ada Brandt.", "the fox and the stone bridge"]
QUESTIONS = ["Who built the mill at Osk?", "When was the mill built?", "the fox?"]


def make_source(name: str, folder: Path) -> ModelSource:
    if name == "nano":
        return ModelSource("clara-nano", "compression-16")
    checkpoint = make_checkpoint(folder)
    return ModelSource(checkpoint / "clara", base=checkpoint / "base")


def load_exported(base: Path, adapter: Path | None) -> Any:
    """Return the model of transformers in float32; an adapter is added as alpha / r * B A."""
    import transformers  # noqa: PLC0415 - slow

    untyped: Any = transformers
    model: Any = untyped.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        tensors: dict[str, Tensor] = load_file(adapter / "adapter_model.safetensors")
        scale = config["lora_alpha"] / config["r"]
        for name in [name for name in tensors if ".lora_A." in name]:
            module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            assert module.weight.shape == (up.shape[0], tensors[name].shape[1])
            module.weight.data += scale * (up.float() @ tensors[name].float())
        assert {name.split(".")[-3] for name in tensors} == set(config["target_modules"])
        assert all(tensor.shape[0] == config["r"] for name, tensor in tensors.items() if ".lora_A." in name)
    return model.eval()


def generate(model: Any, embeddings: Tensor, count: int) -> list[int]:
    mask = torch.ones(1, len(embeddings), dtype=torch.long)
    ids = model.generate(
        inputs_embeds=embeddings[None], attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=1
    )
    return [int(token) for token in ids[0]]


@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_transformers_gives_the_same_tokens_and_states(name: str, tmp_path: Path) -> None:
    source = make_source(name, tmp_path)
    written = export_checkpoint(source, "vllm", tmp_path / "vllm")
    assert written == ["base", "decoder", "encoder", "query", "start.sh"]
    export_checkpoint(source, "mlx", tmp_path / "mlx")
    clara = Clara.from_pretrained(
        source.checkpoint, subfolder=source.subfolder, base=source.base, device="cpu", dtype="float32"
    )
    latents = clara.compress(DOCUMENTS)
    base = tmp_path / "vllm" / "base"
    decoder, merged = load_exported(base, tmp_path / "vllm" / "decoder"), load_exported(tmp_path / "mlx", None)
    for question in QUESTIONS:
        prompt = clara.prepare_answer(question, latents).input_embeddings
        batch = clara.create_batch()
        (row,) = batch.add_rows([prompt], [12])
        while row.finish is None:
            batch.step()
        expected = [*row.tokens, *([2] if row.finish == "stop" else [])]
        assert generate(decoder, prompt, 12) == expected
        if name == "tiny":  # its weights are float32: merging rounds nothing
            assert generate(merged, prompt, 12) == expected
    encoder = load_exported(base, tmp_path / "vllm" / "encoder")
    text_ids = clara.tokenizer.encode(DOCUMENTS[0])
    ids = clara.tokenizer.build_encoder_row(text_ids, clara.config.max_document_tokens + 3)
    states = encoder.model(torch.tensor([ids])).last_hidden_state[0, -clara.config.memory_tokens :]
    assert torch.allclose(states, clara.encode([text_ids], ENCODER_ADAPTER)[0], atol=1e-3)


def test_tokenizer_knows_the_memory_tokens(tmp_path: Path) -> None:
    import transformers  # noqa: PLC0415 - slow

    source = make_source("tiny", tmp_path)
    export_checkpoint(source, "vllm", tmp_path / "out")
    untyped: Any = transformers
    tokenizer: Any = untyped.AutoTokenizer.from_pretrained(tmp_path / "out" / "base")
    clara = Clara.from_pretrained(source.checkpoint, base=source.base, device="cpu")
    text = "the fox <MEM0><MEM7><SEP> 🙂 x"
    assert tokenizer.encode("<s>" + text, add_special_tokens=False)[1:] == clara.tokenizer.encode(
        text, parse_special=True
    )
    assert len(tokenizer) == clara.tokenizer.vocabulary_size == clara.model.embed.shape[0]
    assert json.loads((tmp_path / "out" / "base" / "config.json").read_text())["vocab_size"] == len(tokenizer)


@pytest.mark.parametrize(
    ("merge", "options"),
    [
        (False, ["--enable-lora --max-lora-rank 8 --lora-modules decoder=./decoder"]),  # vLLM has no rank 4
        (True, ["--served-model-name decoder clara-h32-m8"]),
    ],
)
def test_start_script_has_the_options_that_vllm_needs(tmp_path: Path, merge: bool, options: list[str]) -> None:
    written = export_checkpoint(make_source("tiny", tmp_path), "vllm", tmp_path / "out", merge=merge)
    assert written == (["base", "start.sh"] if merge else ["base", "decoder", "encoder", "query", "start.sh"])
    shown = tmp_path / "vllm"  # prints its arguments
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@"\n')
    shown.chmod(0o755)
    result = subprocess.run(
        ["sh", tmp_path / "out" / "start.sh", "--port", "9"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, *arguments = result.stdout.splitlines()
    assert folder == str(tmp_path / "out")
    joined = " ".join(arguments)
    assert joined.startswith("serve ./base ")
    assert all(option in joined for option in [*options, "--enable-prompt-embeds", "clara-h32-m8"])
    assert ("--enable-lora" in joined) is not merge
    assert joined.endswith("--port 9")


def test_sharded_base_is_exported_shard_by_shard(tmp_path: Path) -> None:
    source = make_source("tiny", tmp_path)
    base = tmp_path / "base"
    tensors = load_file(base / "model.safetensors")
    parts = [dict(list(tensors.items())[:5]), dict(list(tensors.items())[5:])]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(part, base / file)
        weight_map |= dict.fromkeys(part, file)
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    export_checkpoint(source, "mlx", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert names == {"model-vocabulary.safetensors", "model-layers-00000.safetensors", "model-layers-00001.safetensors"}
    del parts[1]["model.norm.weight"]
    save_file(parts[1], base / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="expected tensors"):
        export_checkpoint(source, "vllm", tmp_path / "broken")


def test_folder_with_files_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an empty folder"):
        export_checkpoint(ModelSource("clara-nano"), "vllm", Path(__file__).parent)
