"""The device and dtype of a torch model."""

import torch

from .errors import ModelError
from .processor import prefers_bfloat16

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_device(name: str) -> torch.device:
    """Return the device; "auto" is CUDA, else Apple's GPU, else the CPU. Raises `ModelError` if it is not available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} is not available on this machine ({error})") from error
    return device


def resolve_dtype(name: str, device: torch.device, hidden_size: int) -> torch.dtype:
    """Return the dtype; "auto" is bfloat16, or float32 where a CPU is faster with it for a model of this size.

    Raises `ModelError` for an unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type != "cpu" or prefers_bfloat16(hidden_size) else torch.float32
    if name not in _DTYPES:
        raise ModelError(f"dtype {name!r} is not supported; choose auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]
