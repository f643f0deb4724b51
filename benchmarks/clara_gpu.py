"""Measure the torch engine on one GPU, with random weights in the shape of Mistral-7B; it takes under ten minutes.

    python -m clara_proxy.benchmarks.clara_gpu
    python -m clara_proxy.benchmarks.clara_gpu --device cpu --shape tiny --scale 0.02

First, a small model on the device in bfloat16 is compared with the same model on the CPU in float32: a difference above
a few percent is an error of the device's own operations. Then documents and tokens per second, the share of the peak
that encoding reaches, the time to the first token over five documents, and the memory of the weights by format are
measured, in bfloat16. The second command tests this program without a GPU. The last line is JSON.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from ..compression.clara.adapted_layers import pack_adapter
from ..compression.clara.base_weights import DecoderLayer
from ..compression.clara.checkpoint import ENCODER_ADAPTER
from ..compression.clara.checkpoint_config import WeightFormat
from ..compression.clara.clara import Clara
from ..compression.clara.decoder_config import DecoderConfig
from ..compression.clara.linear_layers import ExactLinear, Linear, pack_rows
from ..compression.clara.lora import INPUT_GROUPS, convert_adapter
from ..compression.clara.model import ClaraModel
from ..compression.models import resources
from ..compression.models.errors import CheckpointError
from .clara import (
    MAX_DOCUMENT_TOKENS,
    MEMORY_TOKENS,
    SHAPES,
    compute_flops,
    create_random_clara,
    make_text,
    make_texts,
    measure_time,
)


def compare_with_cpu(device: str) -> float:
    """Return the relative difference of memories on the device in bfloat16 from the CPU's in float32."""
    exact = cast("ClaraModel", create_random_clara(SHAPES["tiny"]).model)
    rounded = copy_model(exact, device, torch.bfloat16)
    rows = [[7 + (11 * row + 5 * index) % 3000 for index in range(20 + 30 * row)] for row in range(4)]
    expected = exact.encode(rows, MEMORY_TOKENS, ENCODER_ADAPTER)
    difference = rounded.encode(rows, MEMORY_TOKENS, ENCODER_ADAPTER).float().cpu() - expected
    return math.sqrt(float(difference.pow(2).sum() / expected.pow(2).sum()))


def copy_model(model: ClaraModel, device: str, dtype: torch.dtype) -> ClaraModel:
    """Return a copy of a model with exact weights on a device, in a dtype."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, dtype=dtype)

    def copy_layer(layer: DecoderLayer) -> DecoderLayer:
        linears: dict[str, Linear] = {}
        for modules in INPUT_GROUPS:
            exact = [cast("ExactLinear", layer.linears[name]).weight for name in modules]
            linears |= zip(modules, map(ExactLinear, pack_rows([move(weight) for weight in exact])), strict=True)
        return DecoderLayer(move(layer.attention_norm), move(layer.mlp_norm), linears)

    base = model.base
    layers = tuple(map(copy_layer, base.layers))
    base = replace(base, layers=layers, norm=move(base.norm), device=torch.device(device), dtype=dtype)
    adapters = {
        name: pack_adapter(convert_adapter([dict(pairs) for pairs in adapter], move))
        for name, adapter in model.adapters.items()
    }
    return ClaraModel(base, move(model.embed), move(model.head), adapters, model.max_batch_positions)


def measure_device(shape: DecoderConfig, device: str, scale: float, peak_flops: float) -> dict[str, Any]:
    """Return all figures; `scale` shrinks the numbers of documents and repetitions."""
    figures: dict[str, Any] = {"difference_from_fp32": compare_with_cpu(device)}
    figures |= _measure_speeds(shape, device, scale, peak_flops)
    formats: tuple[WeightFormat, ...] = ("int8", "int4")
    for bits in formats:
        resources.release_memory()
        try:
            figures["memory_gib"][bits] = _measure_quantized(shape, device, bits)
        except CheckpointError as error:
            figures["memory_gib"][bits] = f"not measured: {error}"
    return figures


def _measure_speeds(shape: DecoderConfig, device: str, scale: float, peak_flops: float) -> dict[str, Any]:
    """Return the speed of encoding, of the first token over five documents, of decoding, and of one document alone."""
    clara, rng = create_random_clara(shape, device, torch.bfloat16), random.Random(7)
    full = [make_text(MAX_DOCUMENT_TOKENS, rng) for _ in range(max(5, int(512 * scale)))]
    figures: dict[str, Any] = {"memory_gib": {"bf16": _read_gib(device)}}
    times = max(1, int(5 * scale))
    for name, documents in (("full", full), ("mixed", make_texts(max(5, int(2048 * scale)), rng))):
        seconds = _measure_median(partial(clara.compress, documents), device, times)
        flops = sum(compute_flops(shape, len(document.split()) + 3 + MEMORY_TOKENS) for document in documents)
        figures[name] = {"documents_s": len(documents) / seconds, "share_of_peak": flops / seconds / peak_flops}
    figures["one_document_ms"] = 1e3 * _measure_median(partial(clara.compress, full[:1]), device, 4 * times)
    latents = clara.compress(full[:5])
    first_token = partial(clara.replies, ["w1 w2 w3"], [latents], 1)
    figures["first_token_ms"] = 1e3 * _measure_median(first_token, device, 4 * times)
    tokens = max(4, int(64 * scale))
    for batch in (1, 8, 32):
        decode = partial(clara.replies, ["w1 w2 w3"] * batch, [latents] * batch, tokens)
        figures[f"tokens_s_{batch}_together"] = tokens * batch / _measure_median(decode, device, min(3, times))
    return figures


def _measure_quantized(shape: DecoderConfig, device: str, bits: WeightFormat) -> float:
    clara: Clara = create_random_clara(shape, device, torch.bfloat16, bits)
    clara.compress(["w1 w2 w3"])  # fails if the quantized weights do not work
    resources.release_memory()
    return _read_gib(device)


def _read_gib(device: str) -> float:
    """Return the memory of the device's tensors; on the CPU, the resident memory of this process."""
    size = resources.device_bytes(device) or resources.resident_bytes() or 0
    return size / 2**30


def _measure_median(run: Callable[[], object], device: str, times: int) -> float:
    """Return the median duration of a call in seconds, the GPU's work included, after one warm-up call."""

    def run_to_completion() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    run_to_completion()
    return median(measure_time(run_to_completion)[0] for _ in range(times))


def main() -> None:
    """Measure, print the figures, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cuda")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the documents and repetitions")
    parser.add_argument("--peak-tflops", type=float, default=790, help="practical bf16 peak (default: an H200's)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; `--device cuda` needs an NVIDIA GPU and a CUDA build of torch")
    if options.device == "cpu":
        torch.set_num_threads(1)
    figures = measure_device(SHAPES[options.shape], options.device, options.scale, options.peak_tflops * 1e12)
    print(json.dumps(figures, indent=2))
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(json.dumps({"benchmark": "clara_gpu", "device": name, "shape": options.shape, **figures}))


if __name__ == "__main__":
    main()
