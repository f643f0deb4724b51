"""Creates the local CLaRa from the settings, and checks at start that it can be loaded.

The check reads names and configurations, not weights, and loads torch only if an accelerator is required by name.
"""

import logging
from importlib.util import find_spec
from pathlib import Path

from ...compression.clara import checkpoint_config, locate
from ...compression.clara.async_engine import LocalClara, LocalModelConfig
from ...compression.clara.exceptions import CheckpointError, ClaraError, NotDownloadedError
from ...compression.clara.locate import BUNDLED_MODELS, NANO_NAME, HubAccess
from ...compression.clara.worker import WorkerLimits
from ...config.settings import Settings

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
    return ""


def describe_unavailable_model(settings: Settings) -> str:
    """Return the reason why the local model cannot be loaded, with the setting, or "".

    A repository that is not downloaded is no problem: the first request downloads it.
    """
    model = resolve_local_model(settings)
    if model is None:
        return ""
    if find_spec("torch") is None:
        return f"the model {model} (CLARA_MODEL) needs torch: pip install 'clara-proxy[clara]', or unset CLARA_MODEL"
    if settings.quantization == "int4" and find_spec("bitsandbytes") is None:
        return "int4 (CLARA_QUANTIZATION) needs bitsandbytes: pip install 'clara-proxy[quantized]'"
    try:
        _check_files(model, settings)
    except NotDownloadedError as error:
        log.warning("%s: the first request downloads it; `clara-proxy models pull` does so before", error)
    except CheckpointError as error:
        return f"the model {model} cannot be loaded: {error} (CLARA_MODEL, CLARA_SUBFOLDER, CLARA_BASE)"
    if settings.backend in ("cuda", "mps"):
        from ...compression.clara.loading import Placement, resolve_placement  # noqa: PLC0415 - loads torch

        try:
            resolve_placement(Placement(settings.backend))
        except ClaraError as error:
            return f"{error} (CLARA_BACKEND)"
    return ""


def _check_files(model: str, settings: Settings) -> None:
    """Find the files of checkpoint and base model. Raises `CheckpointError` naming what is missing."""
    access = _hub_access(settings)._replace(may_download=False)
    folder = locate.find_checkpoint_folder(model, settings.subfolder, access)
    locate.find_base_folder(checkpoint_config.read_checkpoint_config(folder).raw, settings.base, access)


def _hub_access(settings: Settings) -> HubAccess:
    return HubAccess(settings.cache.expanduser() if settings.cache else None)


def create_clara(settings: Settings, folder: Path) -> LocalClara | None:
    """Return the local CLaRa, which loads its model with the first job; None without a model."""
    model = resolve_local_model(settings)
    if model is None:
        return None
    cache = _hub_access(settings).cache
    config = LocalModelConfig(
        model,
        settings.subfolder,
        settings.base,
        settings.backend,
        settings.quantization,
        cache or folder / "latents",
        settings.latents,
        settings.dtype,
        settings.threads,
        cache,
        settings.latents_memory_mb * 2**20,
        settings.latents_disk_mb * 2**20,
    )
    keep_alive = None if settings.keep_alive < 0 else settings.keep_alive
    return LocalClara(config, WorkerLimits(max_waiting=settings.clara_queue, keep_alive=keep_alive))


def resolve_local_model(settings: Settings) -> str | None:
    """Return the local model: the configured one, else clara-nano if torch is installed, else None."""
    if settings.model is not None:
        return None if settings.model == "none" else settings.model
    return NANO_NAME if BUNDLED_MODELS[NANO_NAME].is_dir() and find_spec("torch") is not None else None


def resolve_auto_mode(settings: Settings) -> str:
    """Return the mode that `auto` means here. A mode that changed later would change forwarded prefixes."""
    accelerated = settings.backend in ("cuda", "mps") or (settings.backend == "auto" and NVIDIA_DEVICE.exists())
    return "answer" if accelerated and settings.model not in (None, NANO_NAME, "none") else "extract"
