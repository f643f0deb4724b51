"""Loads a model with torch: verifies its files and places the weights on a device. Slow."""

import hashlib
import threading
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..models import resources
from ..models.errors import CheckpointError
from ..models.placement import resolve_device, resolve_dtype
from . import base_weights as base_model
from . import checkpoint as checkpoint_files
from . import lora, memory_estimate, weight_quantization
from .adapted_layers import pack_adapter
from .base_weights import BaseWeights
from .checkpoint import Checkpoint
from .checkpoint_config import CheckpointConfig, WeightFormat
from .decoder_config import DecoderConfig
from .model import ClaraModel
from .model_source import LoadedModel, ModelSource, Placement, find_model_files
from .tensor_file import read_torch_tensors

_bases: WeakValueDictionary[str, BaseWeights] = WeakValueDictionary()
_bases_lock = threading.Lock()


def load_model(source: ModelSource, placement: Placement) -> LoadedModel:
    """Load a checkpoint and its base. Raises `CheckpointError` naming a missing or broken file."""
    files = find_model_files(source)
    folder, base_folder, config, decoder_config, tokenizer = files
    device = resolve_device(placement.device)
    dtype = resolve_dtype(placement.dtype, device, decoder_config.hidden_size)
    quantization = files.choose_weight_format(placement)
    base_key = _make_base_key(base_folder, device, dtype, quantization)
    if base_key not in _bases:
        _require_memory(folder, (config, decoder_config), (device, dtype, quantization))
    checkpoint = checkpoint_files.load_checkpoint(
        folder,
        decoder_config,
        tokenizer.vocabulary_size,
        skip_decoder_adapter=source.skip_decoder_adapter,
        read_file=read_torch_tensors,
    )
    with _bases_lock:
        base = _bases.get(base_key)
        if base is None:
            base = _bases[base_key] = base_model.load_base(
                base_folder, device, dtype, quantization, source.quantized_weights
            )

    def move(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=device, dtype=dtype)

    model = ClaraModel(
        base,
        move(checkpoint.embed),
        move(checkpoint.head),
        {name: pack_adapter(lora.convert_adapter(adapter, move)) for name, adapter in checkpoint.adapters.items()},
        max_batch_positions=8192 if device.type == "cuda" else memory_estimate.PASS_POSITIONS,
    )
    format_name = weight_quantization.name_revision(quantization) if quantization else None
    fingerprint = _compute_fingerprint(checkpoint, model, (format_name, tokenizer.revision))
    if checkpoint.maps_matrices and model.embed.data_ptr() == checkpoint.embed.data_ptr():
        resources.release_mapped_pages(model.embed.data_ptr(), model.embed.nbytes)  # only the fingerprint read it all
    return LoadedModel(model, tokenizer, config, fingerprint, files.load_abstention_head(source))


def _make_base_key(folder: Path, device: torch.device, dtype: torch.dtype, weight_format: WeightFormat | None) -> str:
    """Return the key of a base model's weights; checkpoints in use at the same time share them."""
    files = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.glob("*"))]
    return repr((folder.resolve(), str(device), dtype, weight_format, files))


def _require_memory(
    folder: Path,
    configs: tuple[CheckpointConfig, DecoderConfig],
    formats: tuple[torch.device, torch.dtype, WeightFormat | None],
) -> None:
    """Raise `CheckpointError` if the model does not fit into the memory; otherwise the kernel would end the process."""
    config, decoder_config = configs
    device, dtype, weight_format = formats
    available = resources.available_bytes() if device.type == "cpu" else None
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    if available is None:
        return
    dtype_name = str(dtype).removeprefix("torch.")
    estimates = memory_estimate.estimate_formats(decoder_config, config, dtype_name, folder)
    chosen = memory_estimate.format_name(dtype_name, weight_format)
    if shortage := memory_estimate.describe_shortage(estimates, chosen, available):
        raise CheckpointError(f"{folder}: {shortage} (CLARA_DTYPE)")


def _compute_fingerprint(checkpoint: Checkpoint, model: ClaraModel, formats: tuple[str | None, str]) -> str:
    config = checkpoint.config
    numbers = (config.max_document_tokens, config.compression_rate, model.base.dtype, *formats)
    digest = hashlib.sha256(repr(numbers).encode())
    tensors = [checkpoint.embed, model.base.read_fingerprint_weight(), model.base.norm]
    for layer in checkpoint.adapters.get(checkpoint_files.ENCODER_ADAPTER, []):
        tensors.extend(tensor for pair in layer.values() for tensor in pair)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
