"""Finds a checkpoint and its base model: in a folder, in the hub's cache or, failing that, on the hub itself.

Opens no weights. A snapshot in the cache is used without a network request.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .exceptions import CheckpointError

_log = logging.getLogger(__name__)

CHECKPOINT_FILES = ("config.json", "adapters.pth", "decoder_first_last_layers.pth")
BASE_FILES = ("config.json", "tokenizer.json")
_BASE_FILE_PATTERNS = ("config.json", "generation_config.json", "tokenizer.json", "model*.safetensors", "model*.json")
_REPO_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")
# The released configs name a path on the trainer's disk; the last part of it is the model's name.
_KNOWN_BASES = {"Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2"}
# The bundled model: small, for short memories and simple facts.
NANO_NAME = "clara-nano"
BUNDLED_MODELS = {NANO_NAME: Path(__file__).with_name("nano")}


def find_checkpoint_folder(source: str | Path, subfolder: str | None) -> Path:
    """Return the folder of a complete checkpoint; `source` is a folder, a hub repository, or a bundled model.

    A repository holds one checkpoint per compression rate; `subfolder` selects it and is `compression-16` by default.
    Raises `CheckpointError` naming a missing file or a repository that cannot be downloaded.
    """
    local = BUNDLED_MODELS.get(str(source), Path(source).expanduser())
    if local.is_dir():
        return _require_files(_select_subfolder(local, subfolder), CHECKPOINT_FILES)
    name = str(source)
    if not _REPO_PATTERN.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and not the name of a hub repository (owner/name)")
    subfolder = subfolder or "compression-16"
    files = [f"{subfolder}/{file}" for file in CHECKPOINT_FILES]
    return _require_files(_fetch_snapshot(name, files, files) / subfolder, CHECKPOINT_FILES)


def find_base_folder(config: dict[str, Any], override: str | Path | None) -> Path:
    """Return the folder of the base model: the override, or the model named by `decoder_model_name`."""
    name = str(override) if override is not None else str(config.get("decoder_model_name") or "")
    local = BUNDLED_MODELS[name] / "base" if name in BUNDLED_MODELS else Path(name).expanduser()
    if name and local.is_dir():
        return _require_files(local, BASE_FILES)
    repo = _KNOWN_BASES.get(local.name, name)
    if override is not None or not _REPO_PATTERN.fullmatch(repo):
        repo = name
    if not _REPO_PATTERN.fullmatch(repo):
        raise CheckpointError(f"no base model {name!r} (decoder_model_name) found; pass its folder as `base`")
    if repo != name:
        _log.info("decoder_model_name is a path on the trainer's machine; using %s", repo)
    return _require_files(_fetch_snapshot(repo, list(_BASE_FILE_PATTERNS), BASE_FILES), BASE_FILES)


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


def _fetch_snapshot(repo: str, patterns: list[str], needed: Sequence[str]) -> Path:
    import huggingface_hub  # noqa: PLC0415 - only when no folder was given
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    hub: Any = huggingface_hub
    download: Callable[..., str] = hub.snapshot_download
    try:
        folder = Path(download(repo, allow_patterns=patterns, local_files_only=True))
        if all((folder / file).is_file() for file in needed):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        _log.info("%s is not in the cache; asking the hub", repo)
    try:
        return Path(download(repo, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise CheckpointError(f"{repo}: not in the cache, and the download from the hub failed ({error})") from error
