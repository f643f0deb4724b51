"""Creates the local CLaRa from the settings, and checks at start that it can be loaded.

The check reads names and configurations, not weights, and loads torch only if an accelerator is required by name.
"""

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...compression.clara import checkpoint_config, locate, memory_estimate
from ...compression.clara.async_engine import ClaraBackend, LocalClara, LocalModelConfig
from ...compression.clara.checkpoint_config import Quantization
from ...compression.clara.decoder_config import read_decoder_config
from ...compression.clara.locate import BUNDLED_MODELS, NANO_NAME, HubAccess
from ...compression.models import resources
from ...compression.models.errors import CheckpointError, ModelError, NotDownloadedError
from ...compression.models.processor import prefers_bfloat16
from ...compression.models.worker import WorkerLimits
from ...config.extras import describe_install
from ...config.setting_types import split_urls
from ...config.settings import Settings
from ..http.remote_clara import RemoteClara
from ..http.vllm_clara import VllmClara

if TYPE_CHECKING:
    from ..stores.latents import LatentCache

QUANTIZED = ("int8", "int4")
NVIDIA_DEVICE = Path("/dev/nvidiactl")
log = logging.getLogger(__name__)


def describe_problem(settings: Settings) -> str:
    """Return the reason why the mode or the model of these settings cannot be used, or "" if both can."""
    return describe_unavailable_mode(settings) or describe_unavailable_model(settings)


def describe_unavailable_mode(settings: Settings) -> str:
    """Return the reason why the mode of these settings is unavailable, or "" if it is available."""
    model = resolve_local_model(settings)
    if settings.mode == "latent" and model is None:
        return "mode latent (CLARA_MODE) needs a CLaRa model: install the extra [clara], or set CLARA_MODEL"
    if settings.mode in ("answer", "summary") and model in (None, NANO_NAME):
        return f"mode {settings.mode} (CLARA_MODE) needs a CLaRa model: set CLARA_MODEL, or use the mode auto"
    if settings.mode == "summary" and not can_paraphrase(settings):
        return f"mode summary (CLARA_MODE) needs a CLaRa model: {model} (CLARA_MODEL) is PISCO; use the mode answer"
    return ""


def can_paraphrase(settings: Settings) -> bool:
    """Return False if the local model has not learned to paraphrase; True if it has, or is not on this machine."""
    model = resolve_local_model(settings)
    if model is None or is_remote(settings):
        return True
    try:
        folder = locate.find_checkpoint_folder(
            model, settings.subfolder, _hub_access(settings)._replace(may_download=False)
        )
        return checkpoint_config.read_checkpoint_config(folder).can_paraphrase
    except (ModelError, ImportError):  # the model is checked elsewhere
        return True


def describe_unavailable_model(settings: Settings) -> str:
    """Return the reason why the local model cannot be loaded, with the setting, or "".

    A repository that is not downloaded is no problem: the first request downloads it.
    """
    model = resolve_local_model(settings)
    if model is None or is_remote(settings):  # the other machine checks its own
        return ""
    if settings.backend == "vllm" and settings.vllm_url is None:
        return "CLARA_BACKEND=vllm needs the URLs of vLLM servers: set CLARA_VLLM_URL"
    return (
        _describe_missing_package(model, settings)
        or _describe_unfit_files(model, settings)
        or _describe_missing_device(settings)
    )


def _describe_missing_package(model: str, settings: Settings) -> str:
    if not _has_library(settings):
        library, extra = ("MLX", "mlx") if settings.backend == "mlx" else ("torch", "clara")
        remedy = f"{describe_install(extra)}, or unset CLARA_MODEL"
        return f"the model {model} (CLARA_MODEL) needs {library}: {remedy}"
    if reason := _describe_unfit_latents(settings):
        return reason
    if settings.dtype in QUANTIZED and settings.quantization not in (None, settings.dtype):
        return f"CLARA_DTYPE={settings.dtype} and CLARA_QUANTIZATION={settings.quantization} contradict each other"
    needs_package = _choose_quantization(settings) == "int4" and settings.backend != "mlx"
    if needs_package and find_spec("bitsandbytes") is None:
        return f"int4 (CLARA_DTYPE, CLARA_QUANTIZATION) needs bitsandbytes: {describe_install('quantized')}"
    return ""


def _describe_unfit_latents(settings: Settings) -> str:
    """Return the reason why compressed documents cannot be shared at CLARA_LATENTS_URL, or ""."""
    if settings.latents_url is None:
        return ""
    if settings.latents_url.startswith("postgres"):
        return "" if find_spec("asyncpg") else f"CLARA_LATENTS_URL needs asyncpg: {describe_install('postgres')}"
    if find_spec("redis") is None:
        return f"CLARA_LATENTS_URL needs redis: {describe_install('redis')}"
    if settings.latents_url == settings.originals_url:
        return "CLARA_LATENTS_URL must not be CLARA_ORIGINALS_URL: compressed documents would take its memory"
    return ""


def _describe_unfit_files(model: str, settings: Settings) -> str:
    try:
        shortage = _describe_memory_shortage(model, settings)
    except NotDownloadedError as error:
        log.warning("%s: the first request downloads it; `clara-proxy models pull` does so before", error)
        return ""
    except CheckpointError as error:
        return f"the model {model} cannot be loaded: {error} (CLARA_MODEL, CLARA_SUBFOLDER, CLARA_BASE)"
    return f"the model {model} does not fit into this machine: {shortage} (CLARA_DTYPE)" if shortage else ""


def _describe_missing_device(settings: Settings) -> str:
    if settings.backend not in ("cuda", "mps"):
        return ""
    from ...compression.models.placement import resolve_device  # noqa: PLC0415 - loads torch

    try:
        resolve_device(settings.backend)
    except ModelError as error:
        return f"{error} (CLARA_BACKEND)"
    return ""


def _describe_memory_shortage(model: str, settings: Settings) -> str:
    """Return a sentence if the model needs more memory than the machine, or the container, has; else "".

    Raises `CheckpointError` naming a file that is missing or invalid.
    """
    access = _hub_access(settings)._replace(may_download=False)
    folder = locate.find_checkpoint_folder(model, settings.subfolder, access)
    config = checkpoint_config.read_checkpoint_config(folder)
    decoder = read_decoder_config(locate.find_base_folder(config.raw, settings.base, access))
    limit = resources.memory_limit()
    device = _choose_device(settings)
    if limit is None or device not in ("auto", "cpu") or (device == "auto" and _has_accelerator()):
        return ""
    dtype = "bfloat16" if settings.dtype in ("bf16", "fp16") else "float32"
    if settings.dtype in ("auto", *QUANTIZED) and prefers_bfloat16(decoder.hidden_size):
        dtype = "bfloat16"
    quantization = _choose_quantization(settings) or config.weight_format
    chosen = memory_estimate.format_name(dtype, None if quantization == "no" else quantization)
    estimates = memory_estimate.estimate_formats(decoder, config, dtype, folder)
    return memory_estimate.describe_shortage(estimates, chosen, limit - memory_estimate.PROCESS_BYTES)


def _choose_device(settings: Settings) -> str:
    """Return the device to encode and, without vLLM, to generate on."""
    return "auto" if settings.backend == "vllm" else settings.backend


def _has_accelerator() -> bool:
    return NVIDIA_DEVICE.exists() or sys.platform == "darwin"


def _choose_quantization(settings: Settings) -> Quantization | None:
    """Return the weight format by CLARA_QUANTIZATION or CLARA_DTYPE; None leaves it to the checkpoint."""
    if settings.dtype in ("fp32", "bf16", "fp16") and settings.quantization is None:
        return "no"
    return settings.quantization or (settings.dtype if settings.dtype in ("int8", "int4") else None)


def _hub_access(settings: Settings) -> HubAccess:
    return HubAccess(settings.cache.expanduser() if settings.cache else None)


def create_clara(settings: Settings, folder: Path) -> ClaraBackend | None:
    """Return CLaRa, here or on another machine; None without a model. The first job loads the model."""
    model = resolve_local_model(settings)
    if model is None:
        return None
    cache = _hub_access(settings).cache
    config = LocalModelConfig(
        model,
        settings.subfolder,
        settings.base,
        _choose_device(settings),
        _choose_quantization(settings),
        cache or folder / "latents",
        settings.latents,
        "auto" if settings.dtype in QUANTIZED else settings.dtype,
        settings.threads,
        cache,
        settings.latents_memory_mb * 2**20,
        settings.latents_disk_mb * 2**20,
        (cache or folder) / "quantized",
        settings.quantized_disk_mb * 2**20,
        _open_shared_latents(settings),
        settings.abstention_threshold,
    )
    if is_remote(settings):
        return RemoteClara(config, settings.backend, settings.backend_key, settings.clara_queue)
    keep_alive = None if settings.keep_alive < 0 else settings.keep_alive
    limits = WorkerLimits(max_waiting=settings.clara_queue, keep_alive=keep_alive)
    if settings.backend == "vllm":
        return VllmClara(config, limits, split_urls(settings.vllm_url or ""), settings.backend_key)
    return LocalClara(config, limits)


def _open_shared_latents(settings: Settings) -> "LatentCache | None":
    if settings.latents_url is None or is_remote(settings):
        return None
    return open_latent_cache(settings.latents_url, settings.latents_disk_mb * 2**20)


def open_latent_cache(url: str, capacity: int) -> "LatentCache":
    """Return the store of shared latents at a URL of Redis or PostgreSQL; `capacity` in bytes bounds the latter."""
    if url.startswith("postgres"):
        from ..stores.latents_postgres import PostgresLatents  # noqa: PLC0415 - an extra

        return PostgresLatents(url, capacity)
    from ..stores.latents_redis import RedisLatents  # noqa: PLC0415 - an extra

    return RedisLatents(url)


def is_remote(settings: Settings) -> bool:
    """Return True if CLaRa runs on another machine, behind the URL of CLARA_BACKEND."""
    return settings.backend.startswith(("http://", "https://"))


def resolve_local_model(settings: Settings) -> str | None:
    """Return the local model: the configured one, else clara-nano if its library is installed, else None.

    Each of several processes would load clara-nano, so that they have none unless it is configured.
    """
    if is_remote(settings) and settings.model is None:
        return "clara"
    if settings.model is not None:
        return None if settings.model == "none" else settings.model
    is_available = BUNDLED_MODELS[NANO_NAME].is_dir() and _has_library(settings)
    return NANO_NAME if is_available and settings.processes == 1 else None


def _has_library(settings: Settings) -> bool:
    """Return True if the library that computes on the backend is installed."""
    return find_spec("mlx" if settings.backend == "mlx" else "torch") is not None


def resolve_auto_mode(settings: Settings) -> str:
    """Return the mode that `auto` means here. A mode that changed later would change forwarded prefixes."""
    if settings.auto is not None:
        return settings.auto
    has_device = settings.backend == "auto" and NVIDIA_DEVICE.exists()
    has_device |= settings.backend in ("cuda", "mps", "vllm")
    has_device |= settings.backend == "mlx" and sys.platform == "darwin"
    accelerated = has_device or is_remote(settings)
    return "answer" if accelerated and settings.model not in (None, NANO_NAME, "none") else "extract"
