"""Finds a checkpoint and its base model: in a folder, in the hub's cache or, failing that, on the hub itself.

Opens no weights. A snapshot in the cache is used without a network request.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..models.errors import CheckpointError, NotDownloadedError
from .checkpoint_config import read_checkpoint_config

_log = logging.getLogger(__name__)

HEAD_FILE = "abstention.safetensors"  # of an abstention head; few checkpoints have one
CHECKPOINT_FILES = ("config.json", "adapters.pth", "decoder_first_last_layers.pth")
BASE_FILES = ("config.json", "tokenizer.json")
DEFAULT_SUBFOLDER = "compression-16"
_BASE_FILE_PATTERNS = ("config.json", "generation_config.json", "tokenizer.json", "model*.safetensors", "model*.json")
_REPO_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")
# The released configs name a path on the trainer's disk; the last part of it is the model's name.
_KNOWN_BASES = {"Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2"}
# The bundled model: small, for short memories and simple facts.
NANO_NAME = "clara-nano"
MLX_DEVICE = "mlx"
BUNDLED_MODELS = {NANO_NAME: Path(__file__).with_name("nano")}


class HubAccess(NamedTuple):
    """How repositories are found: a `cache` folder beside the hub client's own, and whether they may be downloaded.

    Downloads go to `cache`, if there is one.
    """

    cache: Path | None = None
    may_download: bool = True


DEFAULT_ACCESS = HubAccess()


def find_checkpoint_folder(source: str | Path, subfolder: str | None, access: HubAccess = DEFAULT_ACCESS) -> Path:
    """Return the folder of a complete checkpoint; `source` is a folder, a hub repository, or a bundled model.

    CLaRa's repositories hold one checkpoint per compression rate; `subfolder` selects it and is `compression-16` by
    default. PISCO's repositories are one checkpoint, without a subfolder.
    Raises `CheckpointError` naming a missing file or a repository that cannot be downloaded.
    """
    local = BUNDLED_MODELS.get(str(source), Path(source).expanduser())
    if local.is_dir():
        return _require_files(_select_subfolder(local, subfolder), CHECKPOINT_FILES)
    name = str(source)
    _require_repo_name(name)
    candidates = list_subfolders(subfolder)
    files = [*_list_files(candidates), *_list_files(candidates, [HEAD_FILE])]
    snapshot = _fetch_snapshot(name, files, [_list_files([folder]) for folder in candidates], access)
    return _require_files(snapshot / (find_complete_subfolder(snapshot, subfolder) or candidates[0]), CHECKPOINT_FILES)


def list_subfolders(subfolder: str | None) -> list[str]:
    """Return the possible folders of a repository's checkpoint: the subfolder, or `compression-16` and the top."""
    return [subfolder] if subfolder else [DEFAULT_SUBFOLDER, "."]


def find_complete_subfolder(snapshot: Path, subfolder: str | None) -> str | None:
    """Return the subfolder of a repository's folder with a complete checkpoint, "." for the top; None without one."""
    for name in list_subfolders(subfolder):
        if all((snapshot / name / file).is_file() for file in CHECKPOINT_FILES):
            return name
    return None


def _list_files(subfolders: Sequence[str], files: Sequence[str] = CHECKPOINT_FILES) -> list[str]:
    return [file if name == "." else f"{name}/{file}" for name in subfolders for file in files]


def find_rates(source: str | Path, subfolder: str | None, access: HubAccess = DEFAULT_ACCESS) -> dict[int, str | None]:
    """Return the compression rates of a model on this machine, each with its subfolder, the default rate first.

    The default rate is that of `subfolder`. The others are the complete checkpoints beside it. Empty for a repository
    that is not in the cache. Raises `CheckpointError` as `find_checkpoint_folder` does.
    """
    local = BUNDLED_MODELS.get(str(source), Path(source).expanduser())
    if local.is_dir():
        default = find_checkpoint_folder(source, subfolder)
    else:
        _require_repo_name(str(source))
        candidates = list_subfolders(subfolder)
        layouts = [_list_files([name]) for name in candidates]
        local_snapshot = find_cached_snapshot(str(source), _list_files(candidates), layouts, access.cache)
        if local_snapshot is None:
            return {}
        local, default = local_snapshot, local_snapshot / (find_complete_subfolder(local_snapshot, subfolder) or ".")
    rates: dict[int, str | None] = {read_checkpoint_config(default).compression_rate: subfolder}
    if default == local:  # the folder is a checkpoint itself
        return rates
    for folder in sorted(local.glob("compression-*")):
        if all((folder / file).is_file() for file in CHECKPOINT_FILES):
            rates.setdefault(read_checkpoint_config(folder).compression_rate, folder.name)
    return rates


def find_base_folder(config: dict[str, Any], override: str | Path | None, access: HubAccess = DEFAULT_ACCESS) -> Path:
    """Return the folder of the base model: the override, or the model named by `decoder_model_name`.

    Raises `CheckpointError` naming a missing file of the base, one of its weights among them.
    """
    name = str(override) if override is not None else str(config.get("decoder_model_name") or "")
    local = BUNDLED_MODELS[name] / "base" if name in BUNDLED_MODELS else Path(name).expanduser()
    if name and local.is_dir():
        return _require_weights(local)
    repo = _KNOWN_BASES.get(local.name, name)
    if override is not None or not _REPO_PATTERN.fullmatch(repo):
        repo = name
    if not _REPO_PATTERN.fullmatch(repo):
        raise CheckpointError(f"no base model {name!r} (decoder_model_name) found; pass its folder as `base`")
    if repo != name:
        _log.info("decoder_model_name is a path on the trainer's machine; using %s", repo)
    return _require_weights(_fetch_snapshot(repo, list(_BASE_FILE_PATTERNS), [BASE_FILES], access))


def _require_repo_name(name: str) -> None:
    if not _REPO_PATTERN.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and not the name of a hub repository (owner/name)")


def _require_weights(folder: Path) -> Path:
    """Return a base model's folder if it has all its files. A missing shard is found here, before loading begins."""
    _require_files(folder, BASE_FILES)
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return _require_files(folder, ["model.safetensors"])
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of weights ({type(error).__name__})") from error
    return _require_files(folder, shards)


def _select_subfolder(folder: Path, subfolder: str | None) -> Path:
    if subfolder is not None and (folder / subfolder).is_dir():
        return folder / subfolder
    if subfolder is not None and folder.name != subfolder:
        raise CheckpointError(f"{folder}: has no folder {subfolder}")
    if (folder / "config.json").exists():
        return folder
    rates = sorted(entry.name for entry in folder.glob("compression-*") if entry.is_dir())
    if len(rates) == 1 or "compression-16" in rates:
        return folder / (rates[0] if len(rates) == 1 else "compression-16")
    choice = f"choose one of the subfolders {', '.join(rates)}" if rates else "no config.json in it"
    raise CheckpointError(f"{folder}: {choice}")


def _require_files(folder: Path, files: Sequence[str]) -> Path:
    for file in files:
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / file}: no such file")
    return folder


def find_cached_snapshot(
    repo: str, patterns: Sequence[str], layouts: Sequence[Sequence[str]], cache: Path | None = None
) -> Path | None:
    """Return the folder of a repository in a cache if it has all files of one of the `layouts`; uses no network.

    `cache` is searched first, then the hub client's own cache.
    """
    import huggingface_hub  # noqa: PLC0415 - only when no folder was given
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    hub: Any = huggingface_hub
    for cache_folder in dict.fromkeys((cache, None)):
        options: dict[str, Any] = {} if cache_folder is None else {"cache_dir": cache_folder}
        with suppress(LocalEntryNotFoundError, HFValidationError):
            folder = Path(hub.snapshot_download(repo, allow_patterns=list(patterns), local_files_only=True, **options))
            if any(all((folder / file).is_file() for file in files) for files in layouts):
                return folder
    return None


def _fetch_snapshot(repo: str, patterns: list[str], layouts: Sequence[Sequence[str]], access: HubAccess) -> Path:
    import huggingface_hub  # noqa: PLC0415 - only when no folder was given
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    cached = find_cached_snapshot(repo, patterns, layouts, access.cache)
    if cached is not None:
        return cached
    if not access.may_download:
        raise NotDownloadedError(f"{repo} is not downloaded")
    _log.info("%s is not in the cache; asking the hub", repo)
    hub: Any = huggingface_hub
    download: Callable[..., str] = hub.snapshot_download
    try:
        options: dict[str, Any] = {} if access.cache is None else {"cache_dir": access.cache}
        return Path(download(repo, allow_patterns=patterns, **options))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise CheckpointError(f"{repo}: not in the cache, and the download from the hub failed ({error})") from error
