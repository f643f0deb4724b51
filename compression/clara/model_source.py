"""The source of a model, its device and formats, and its files. Does not load torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import locate
from .checkpoint_config import CheckpointConfig, Quantization, WeightFormat, read_checkpoint_config
from .decoder_config import DecoderConfig, read_decoder_config
from .inference import InferenceModel
from .tokenizer import ClaraTokenizer, MemoryTokenSpec

if TYPE_CHECKING:
    from .abstention_head import AbstentionHead
    from .quantized_weights import QuantizedWeightStore

MLX_DEVICE = "mlx"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A checkpoint folder or hub repository, and its base model; by default the one that its config names."""

    checkpoint: str | Path
    subfolder: str | None = None
    base: str | Path | None = None
    skip_decoder_adapter: bool = False
    cache: Path | None = None  # searched before the hub client's own cache
    quantized_weights: "QuantizedWeightStore | None" = None
    abstention_threshold: float | None = None  # instead of that of the checkpoint's abstention head


@dataclass(frozen=True, slots=True)
class Placement:
    """The device, dtype and quantization to compute with; `device` is torch's name, "mlx" or "auto".

    The device "auto" is CUDA, else Apple's GPU, else the CPU; the dtype "auto" is bfloat16, but float32 for small
    models on a CPU, and on a CPU without instructions for bfloat16. With
    `quantization` None the checkpoint decides; "no" never quantizes.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its tokenizer and config; `fingerprint` is a hash of everything that a latent depends on."""

    model: InferenceModel
    tokenizer: ClaraTokenizer
    config: CheckpointConfig
    fingerprint: str
    abstention_head: "AbstentionHead | None" = None


class ModelFiles(NamedTuple):
    """The folders of a checkpoint and its base, and their content except weights."""

    folder: Path
    base_folder: Path
    config: CheckpointConfig
    decoder_config: DecoderConfig
    tokenizer: ClaraTokenizer

    def load_abstention_head(self, source: ModelSource) -> "AbstentionHead | None":
        """Return the checkpoint's abstention head, if it has one; it reads states of the trained decoder."""
        from .abstention_head import load_head  # noqa: PLC0415  imports numpy

        if source.skip_decoder_adapter:
            return None
        decoder = self.decoder_config
        return load_head(self.folder, decoder.hidden_size, decoder.layer_count, source.abstention_threshold)

    def choose_weight_format(self, placement: Placement) -> WeightFormat | None:
        """Return the format of the base's weights; None if they are not quantized."""
        quantization = placement.quantization or self.config.weight_format
        return None if quantization == "no" else quantization


def find_model_files(source: ModelSource) -> ModelFiles:
    """Return the files of a model. Raises `CheckpointError` naming a missing or broken file."""
    access = locate.HubAccess(source.cache)
    folder = locate.find_checkpoint_folder(source.checkpoint, source.subfolder, access)
    config = read_checkpoint_config(folder)
    base_folder = locate.find_base_folder(config.raw, source.base, access)
    memory_spec = MemoryTokenSpec(
        config.memory_tokens, config.has_distinct_memory_tokens, ("<KBTC>",) if config.has_kbtc_token else ()
    )
    tokenizer = ClaraTokenizer.from_file(base_folder / "tokenizer.json", memory_spec)
    return ModelFiles(folder, base_folder, config, read_decoder_config(base_folder), tokenizer)
