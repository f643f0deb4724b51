"""Creates the pruner of mode `prune` from the settings, and checks at start that it can be loaded.

The check reads a configuration, not weights, and does not load torch.
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...compression import registry
from ...compression.models.errors import CheckpointError, NotDownloadedError
from ...compression.models.resources import load_torch_libraries
from ...compression.models.worker import WorkerLimits
from ...compression.pruners import catalogue
from ...compression.pruners.catalogue import PUBLISHED_PRUNERS
from ...compression.pruners.compressor import PruneCompressor, PruneOptions
from ...compression.pruners.families import Family, read_spec
from ...compression.pruners.worker import PrunerWorker
from ...config.extras import describe_install
from ...config.settings import Settings

if TYPE_CHECKING:
    from ...compression.pruners.pruner import Pruner

TORCH_DEVICES = ("cuda", "mps", "cpu")
log = logging.getLogger(__name__)


def describe_problem(settings: Settings) -> str:
    """Return the reason why mode `prune` or the pruner of these settings cannot be used, or "" if both can."""
    source = settings.pruner
    if source is None:
        setting = "CLARA_MODE" if settings.mode == "prune" else "CLARA_AUTO"
        if "prune" not in (settings.mode, settings.auto):
            return ""
        return f"mode prune ({setting}) needs a pruner: set CLARA_PRUNER, see `clara-proxy models list`"
    missing = next((name for name in ("torch", "transformers") if find_spec(name) is None), None)
    if missing is not None:
        return f"the pruner {source} (CLARA_PRUNER) needs {missing}: {describe_install('pruners')}"
    try:
        family = find_family(settings)
    except CheckpointError as error:
        return f"the pruner {source} cannot be used: {error} (CLARA_PRUNER)"
    if catalogue.find_local_folder(source, _cache_folder(settings)) is None:
        log.warning("the pruner %s (%s) is not downloaded: the first request downloads it", source, family)
    return ""


def find_family(settings: Settings) -> Family:
    """Return the kind of the configured pruner.

    Raises:
        CheckpointError: it is no pruner, or it is not on this machine and may not be downloaded by a request.
    """
    source = str(settings.pruner)
    try:
        return read_spec(catalogue.require_folder(source, _cache_folder(settings))).family
    except NotDownloadedError:
        published = PUBLISHED_PRUNERS.get(source)
        if published is None or published.needs_consent:
            raise
        return published.family


def create_pruner(settings: Settings) -> tuple[PrunerWorker, PruneCompressor] | None:
    """Return the worker of the configured pruner and its compressor, or None. The first job loads the model."""
    if settings.pruner is None:
        return None
    source, cache = settings.pruner, _cache_folder(settings)
    device = settings.backend if settings.backend in TORCH_DEVICES else "auto"
    dtype, threads = settings.dtype, settings.threads
    family = find_family(settings)

    def load() -> "Pruner":
        load_torch_libraries()
        from ...compression.pruners.pruner import PrunerPlacement, load_pruner  # noqa: PLC0415 - loads torch

        return load_pruner(catalogue.fetch_folder(source, cache), PrunerPlacement(device, dtype, threads))

    keep_alive = None if settings.keep_alive < 0 else settings.keep_alive
    worker = PrunerWorker(load, WorkerLimits(max_waiting=settings.clara_queue, keep_alive=keep_alive))
    options = PruneOptions(family, settings.pruner_threshold, timeout=settings.clara_timeout)
    return worker, PruneCompressor(worker, registry.find_compressor, options)


def _cache_folder(settings: Settings) -> Path | None:
    return settings.cache.expanduser() if settings.cache else None
