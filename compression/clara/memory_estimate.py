"""Estimates the memory of a model before it is loaded, from its configurations. Does not load torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .checkpoint_config import MATRICES_FILE, CheckpointConfig, WeightFormat, is_mapped
from .decoder_config import DecoderConfig

LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RELEASED_DTYPE = "bfloat16"  # of the files; tensors in it are used as they are read
FORMAT_BYTES: dict[WeightFormat, float] = {"int8": 1.0, "int4": 0.516}  # NF4: a scale in 8 bits for every 64 numbers
PASS_POSITIONS = 2048  # of one forward pass on a CPU
PROCESS_BYTES = 600_000_000  # of the proxy with torch, without a model


class MemoryEstimate(NamedTuple):
    """Bytes that a model takes once it is loaded, and at most while it loads or works."""

    resident: int
    peak: int


def estimate_memory(
    decoder: DecoderConfig, config: CheckpointConfig, dtype: str, weight_format: WeightFormat | None, folder: Path
) -> MemoryEstimate:
    """Return the memory of a checkpoint in `folder` and its base, computed in `dtype`, with weights in a format."""
    width, number_bytes = decoder.hidden_size, DTYPE_BYTES[dtype]
    shapes = [decoder.linear_shape(module) for module in LINEAR_MODULES]
    linear_bytes = FORMAT_BYTES[weight_format] if weight_format else number_bytes
    base = decoder.layer_count * sum(rows * columns for rows, columns in shapes) * linear_bytes
    adapter = decoder.layer_count * sum(config.lora_rank * (rows + columns) for rows, columns in shapes)
    adapter_count = 3 if config.training_stage.startswith("stage2") else 2
    matrix = (decoder.vocabulary_size + config.memory_tokens + 3) * width
    is_released, matrices_file = dtype == RELEASED_DTYPE, folder / MATRICES_FILE
    # Of a mapped file, only the output matrix is read as a whole.
    matrices = matrix if is_released and matrices_file.exists() and is_mapped(matrices_file) else 2 * matrix
    resident = int(base + (adapter_count * adapter * config.has_lora + matrices) * number_bytes)
    # Tensors in another dtype are kept until they are converted.
    files = [] if is_released else [path for path in folder.glob("*.pth") if not is_mapped(path)]
    converted = sum(path.stat().st_size for path in files)
    # Loading: a weight as it is read, and its codes or the copy beside the others of the same input.
    largest = max(rows * columns for rows, columns in shapes)
    passing = largest * (number_bytes + 3 if weight_format else number_bytes if is_released else 3 * number_bytes)
    # Encoding: the states of a pass, of which the MLP's are the most, and a quantized weight that is converted.
    states = PASS_POSITIONS * (6 * decoder.intermediate_size + 4 * width) * number_bytes
    working = states + (largest * number_bytes if weight_format else 0)
    return MemoryEstimate(resident, resident + max(converted + passing, working))


def describe_shortage(estimates: Mapping[str, MemoryEstimate], chosen: str, available: int) -> str:
    """Return a sentence if the chosen format needs more than the available bytes, with the formats that fit; or ""."""
    needed = estimates[chosen].peak
    if needed <= available:
        return ""
    fitting = [f"{name} ({format_gigabytes(estimate.peak)})" for name, estimate in estimates.items()]
    fitting = [text for text, estimate in zip(fitting, estimates.values(), strict=True) if estimate.peak <= available]
    advice = f"choose {' or '.join(fitting)}" if fitting else "no other format fits either"
    return f"it needs {format_gigabytes(needed)} as {chosen}, and {format_gigabytes(available)} are available; {advice}"


def estimate_formats(
    decoder: DecoderConfig, config: CheckpointConfig, dtype: str, folder: Path
) -> dict[str, MemoryEstimate]:
    """Return the memory by the names of CLARA_DTYPE; quantized formats compute in `dtype`."""
    return {
        "fp32": estimate_memory(decoder, config, "float32", None, folder),
        "bf16": estimate_memory(decoder, config, "bfloat16", None, folder),
        "int8": estimate_memory(decoder, config, dtype, "int8", folder),
        "int4": estimate_memory(decoder, config, dtype, "int4", folder),
    }


def format_name(dtype: str, weight_format: WeightFormat | None) -> str:
    """Return the name of CLARA_DTYPE for a dtype of torch and a weight format."""
    return weight_format or ("fp32" if dtype == "float32" else "bf16")


def format_gigabytes(count: int) -> str:
    """Format a number of bytes: `7.9 GB`."""
    return f"{count / 1e9:.1f} GB"
