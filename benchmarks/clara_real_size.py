"""Measure loading, memory and speed of CLaRa at the size of Mistral-7B, with random weights.

    python -m clara_proxy.benchmarks.clara_real_size --layers 4
    python -m clara_proxy.benchmarks.clara_real_size --folder /data/random-7b --formats int8,int4

Writes a random checkpoint and its base in the released layout, with the exact 7B shape and 32 layers or fewer. For each
weight format, a process of its own loads it: first as new, then again with the quantized weights on disk. Weights are
read, quantized and computed with as in use; only their values, and so the answers, mean nothing. All 32 layers take 15
GB of disk, and 11 GB more for quantized weights. With `--folder`, the checkpoint is kept and found again. The last line
is JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..compression.clara.clara import Clara
from ..compression.clara.decoder_config import DecoderConfig, read_decoder_config
from ..compression.clara.decoding import DecodingBatch
from ..compression.clara.memory_estimate import LINEAR_MODULES
from ..compression.models import resources

SHAPE = DecoderConfig(4096, 32, 32, 8, 128, 14336, 32000, 1e-5, 1e6, 32768, (-1,))  # no end token: full answers
FORMATS = {"bf16": ("bfloat16", "no"), "fp32": ("float32", "no"), "int8": ("auto", "int8"), "int4": ("auto", "int4")}
RATE, DOCUMENT_TOKENS, RANK = 16, 256, 16
ADAPTERS = ("decoder_adapter", "encoder_adapter", "query_reasoner_adapter")
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")


def write_checkpoint(folder: Path, shape: DecoderConfig) -> None:
    """Write `base/` and `compression-16/` with random weights in bfloat16; a layer at a time is in memory."""
    import torch  # noqa: PLC0415 - the process that starts the measurements needs none of its memory
    from safetensors.torch import save_file  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    def make(*size: int) -> torch.Tensor:
        return torch.empty(*size, dtype=torch.bfloat16).normal_(std=0.02)

    base, checkpoint = folder / "base", folder / f"compression-{RATE}"
    base.mkdir(parents=True, exist_ok=True)
    checkpoint.mkdir(exist_ok=True)
    files: dict[str, str] = {}
    for index in range(shape.layer_count + 1):
        prefix, path = f"model.layers.{index}", base / f"model-{index:05d}.safetensors"
        norms = ["model.norm"]
        weights: dict[str, torch.Tensor] = {}
        if index < shape.layer_count:
            norms = [f"{prefix}.input_layernorm", f"{prefix}.post_attention_layernorm"]
            shapes = {_module_name(index, name): shape.linear_shape(name) for name in LINEAR_MODULES}
            weights = {f"{name}.weight": make(*size) for name, size in shapes.items()}
        weights |= {f"{name}.weight": make(shape.hidden_size) + 1 for name in norms}
        save_file(weights, path)
        files |= dict.fromkeys(weights, path.name)
    _write_json(base / "model.safetensors.index.json", {"weight_map": files})
    _write_json(base / "config.json", _describe_base(shape))
    _write_json(base / "tokenizer.json", _describe_tokenizer(shape.vocabulary_size))
    rows = shape.vocabulary_size + DOCUMENT_TOKENS // RATE + 3
    matrices = {f"{name}.weight": make(rows, shape.hidden_size) for name in ("model.embed_tokens", "lm_head")}
    torch.save(matrices, checkpoint / "decoder_first_last_layers.pth")
    adapters: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ADAPTERS}
    for tensors in adapters.values():
        for index in range(shape.layer_count):
            for name in LINEAR_MODULES:
                outputs, inputs = shape.linear_shape(name)
                tensors[f"{_module_name(index, name)}.lora_A.weight"] = make(RANK, inputs)
                tensors[f"{_module_name(index, name)}.lora_B.weight"] = make(outputs, RANK)
    torch.save(adapters, checkpoint / "adapters.pth")
    _write_json(checkpoint / "config.json", _describe_checkpoint())  # last: it marks the checkpoint as complete


def _module_name(index: int, module: str) -> str:
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{index}.{block}.{module}"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _describe_base(shape: DecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "mistral",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": shape.layer_count,
        "vocab_size": shape.vocabulary_size,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "eos_token_id": list(shape.eos_ids),
    }


def _describe_checkpoint() -> dict[str, Any]:
    return {
        "model_type": "CLaRa",
        "decoder_model_name": "base",
        "doc_max_length": DOCUMENT_TOKENS,
        "compr_rate": RATE,
        "generation_top_k": 5,
        "training_stage": "stage2",
        "lora_r": RANK,
    }


def _describe_tokenizer(size: int) -> dict[str, Any]:
    """Return a vocabulary of whole words, `w0`, `w1` and so on."""
    vocabulary = {name: index for index, name in enumerate(SPECIAL_TOKENS)}
    vocabulary |= {f"w{index}": index + len(vocabulary) for index in range(size - len(vocabulary))}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": name} | flags for index, name in enumerate(SPECIAL_TOKENS)],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }


def measure_format(folder: Path, name: str, device: str, new_tokens: int) -> dict[str, float]:
    """Load the checkpoint in this process and return seconds, MiB, and documents and tokens per second.

    Memory is the process's, at most in each phase (`_peak`), after it, and the mapped files in it (`_files`).
    """
    store: Any = None
    if device != "mlx":
        from ..compression.clara.quantized_weights import QuantizedWeightStore  # noqa: PLC0415 - loads torch

        store = QuantizedWeightStore(folder / "quantized", 1 << 36)
    dtype, quantization = FORMATS[name]

    def load() -> Clara:
        return Clara.from_pretrained(
            folder,
            base=folder / "base",
            device=device,
            dtype=dtype,
            quantization=quantization,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            quantized_weights=store,
        )

    figures = {"before_mib": _read_memory("VmRSS")}

    def measure(name: str, run: Callable[[], Any]) -> Any:
        started, started_cpu = time.perf_counter(), time.process_time()
        result = run()
        figures[f"{name}_s"] = time.perf_counter() - started
        figures[f"{name}_cpu_s"] = time.process_time() - started_cpu
        return result

    def measure_memory(name: str) -> None:
        figures[f"{name}_peak_mib"] = _read_memory("VmHWM")
        resources.release_memory()
        figures[f"{name}_mib"] = _read_memory("VmRSS")
        figures[f"{name}_files_mib"] = _read_memory("RssFile")
        _reset_peak()

    clara = measure("load", load)
    measure_memory("load")
    del clara
    resources.release_memory()
    _reset_peak()
    clara = measure("load_again", load)
    measure_memory("load_again")
    documents = [" ".join(f"w{(7 * row + 31 * index) % 30_000}" for index in range(250)) for row in range(9)]
    latents = measure("document", lambda: clara.compress(documents[:1]))
    measure("documents", lambda: clara.compress(documents[1:]))
    for rows in (1, 8):
        prepared, decoding = [clara.prepare_answer("w1 w2 w3", latents)] * rows, clara.create_batch()
        measure(f"first_token_{rows}", partial(clara.add_to_batch, decoding, prepared, [2 + new_tokens] * rows))
        measure(f"tokens_{rows}", partial(_decode, decoding, new_tokens))
        figures[f"tokens_per_s_{rows}"] = rows * new_tokens / figures[f"tokens_{rows}_s"]
    measure_memory("working")
    return figures


def _decode(decoding: DecodingBatch, steps: int) -> None:
    for _ in range(steps):
        decoding.step()


def _read_memory(field: str) -> float:
    """Return a number of `/proc/self/status` in MiB; 0 on systems without it."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def _reset_peak() -> None:
    """Let `VmHWM`, the largest resident memory, start again from the present one; Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def format_table(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures as a table, seconds with those of the processor in brackets."""
    phases = {"load": "load", "load_again": "load again", "working": "work"}
    sizes = {f"{phase}_peak_mib": f"{title}, peak MB" for phase, title in phases.items()}
    sizes |= {"load_mib": "loaded, MB", "working_mib": "in use, MB", "working_files_mib": "of it files"}
    times = {
        "load": "load, s",
        "load_again": "load again, s",
        "document": "document, s",
        "documents": "8 documents, s",
        "first_token_1": "first token, s",
        "tokens_1": "all tokens, s",
        "tokens_8": "of 8 rows, s",
    }
    rows = [f"{'':6}" + "".join(f"{title:>16}" for title in times.values())]
    for name, row in figures.items():
        seconds = [f"{row[f'{key}_s']:.2f} ({row[f'{key}_cpu_s']:.2f})" for key in times]
        rows.append(f"{name:6}" + "".join(f"{text:>16}" for text in seconds))
    rows.append(f"{'':6}" + "".join(f"{title:>20}" for title in sizes.values()))
    for name, row in figures.items():
        rows.append(f"{name:6}" + "".join(f"{row[key] * 1.048576:>20.0f}" for key in sizes))
    return "\n".join(rows)


def measure_formats(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Measure each format in a process of its own."""
    complete = folder / f"compression-{RATE}" / "config.json"
    shape = SHAPE._replace(layer_count=options.layers)
    if not complete.exists() or read_decoder_config(folder / "base").layer_count != options.layers:
        write = "import sys; from pathlib import Path; from clara_proxy.benchmarks.clara_real_size import *; "
        write += f"write_checkpoint(Path(sys.argv[1]), SHAPE._replace(layer_count={shape.layer_count}))"
        subprocess.run([sys.executable, "-c", write, folder], check=True)
    figures: dict[str, dict[str, float]] = {}
    for name in options.formats.split(","):
        command = [sys.executable, "-m", "clara_proxy.benchmarks.clara_real_size", "--measure", name]
        command += ["--folder", str(folder), "--device", options.device, "--new-tokens", str(options.new_tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
            continue
        figures[name] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Write the checkpoint, measure the formats, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="layers of the model (default: all 32)")
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"of {', '.join(FORMATS)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or mlx")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens generated for each row")
    parser.add_argument("--folder", type=Path, help="keep the checkpoint here (default: a temporary folder)")
    parser.add_argument("--measure", choices=sorted(FORMATS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_format(options.folder, options.measure, options.device, options.new_tokens)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure_formats(options, options.folder or Path(temporary))
    print(format_table(figures))
    summary = {"benchmark": "clara_real_size", "device": options.device, "layers": options.layers, "formats": figures}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
