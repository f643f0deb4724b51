"""Lists the published pruners, and finds the files of a pruner in a folder, in the hub's cache, or on the hub.

A pruner with a non-commercial license is never downloaded without consent. No code of a repository is downloaded.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..models.errors import CheckpointError, NotDownloadedError
from .families import Family

_log = logging.getLogger(__name__)
NON_COMMERCIAL = "CC BY-NC 4.0: no commercial use"
_REPO_PATTERN = re.compile(r"[\w.-]+/[\w.-]+")
_PROSE, _ANY_LANGUAGE = "prose and documents, by the question", "prose and documents, without a question"


class PublishedPruner(NamedTuple):
    """A published pruner: its parameters in millions, license, purpose, and the bytes of its weights or None."""

    repo: str
    family: Family
    parameters: int
    licence: str
    purpose: str
    size_bytes: int | None = None

    @property
    def needs_consent(self) -> bool:
        """Return True if the license must be accepted before a download."""
        return self.licence == NON_COMMERCIAL

    def estimate_bytes(self) -> int:
        """Return the size of the weights, in float32 if it is unknown."""
        return self.size_bytes or 4_000_000 * self.parameters


_LLMLINGUA2 = "microsoft/llmlingua-2-"
_OPEN_PROVENCE = "hotchpotch/open-provence-reranker-"
PUBLISHED_PRUNERS: Mapping[str, PublishedPruner] = {
    pruner.repo: pruner
    for pruner in (
        PublishedPruner(f"{_OPEN_PROVENCE}xsmall-v1", "open-provence", 30, "MIT", f"{_PROSE}; English, Japanese; CPU"),
        PublishedPruner(f"{_OPEN_PROVENCE}v1", "open-provence", 130, "MIT", f"{_PROSE}; English, Japanese"),
        PublishedPruner(f"{_OPEN_PROVENCE}v1-gte-modernbert-base", "open-provence", 149, "MIT", f"{_PROSE}; English"),
        PublishedPruner(f"{_OPEN_PROVENCE}large-v1", "open-provence", 310, "MIT", f"{_PROSE}; English, Japanese"),
        PublishedPruner("naver/provence-reranker-debertav3-v1", "provence", 430, NON_COMMERCIAL, f"{_PROSE}; English"),
        PublishedPruner(
            f"{_LLMLINGUA2}bert-base-multilingual-cased-meetingbank", "llmlingua2", 178, "MIT", _ANY_LANGUAGE
        ),
        PublishedPruner(f"{_LLMLINGUA2}xlm-roberta-large-meetingbank", "llmlingua2", 560, "MIT", _ANY_LANGUAGE),
        PublishedPruner(
            "ayanami-kitasan/code-pruner", "swe-pruner", 600, "MIT", "code, by the question; GPU", 1_345_834_856
        ),
    )
}
_METADATA_PATTERNS = ("*.json", "*.txt", "*.model")
_WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model.bin", "onnx/model.onnx", "model.onnx")  # in this order


def find_licence(repo: str) -> str:
    """Return the license of a pruner: of a published one, or by the owner of its repository."""
    if repo in PUBLISHED_PRUNERS:
        return PUBLISHED_PRUNERS[repo].licence
    return NON_COMMERCIAL if repo.startswith("naver/") else "unknown: see the page of the repository"


def choose_patterns(names: Sequence[str]) -> list[str]:
    """Return the patterns of the files to download, with one format of weights.

    Raises:
        CheckpointError: there are no weights in a known format.
    """
    for pattern in _WEIGHT_PATTERNS:
        expression = re.compile(re.escape(pattern).replace(r"\*", ".*"))
        if any(expression.fullmatch(name) for name in names):
            return [*_METADATA_PATTERNS, pattern]
    raise CheckpointError("the repository has no weights in a known format")


def has_weights(folder: Path) -> bool:
    """Return True if a folder has a config and weights."""
    return (folder / "config.json").is_file() and any(any(folder.glob(pattern)) for pattern in _WEIGHT_PATTERNS)


def find_local_folder(source: str, cache: Path | None = None) -> Path | None:
    """Return the folder of a pruner on this machine: `source` itself, or a repository in a cache; uses no network.

    `cache` is searched first, then the hub client's own cache.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not _REPO_PATTERN.fullmatch(source):
        return None
    try:
        import huggingface_hub  # noqa: PLC0415 - only when no folder was given
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    hub: Any = huggingface_hub
    for cache_folder in dict.fromkeys((cache, None)):
        options: dict[str, Any] = {} if cache_folder is None else {"cache_dir": cache_folder}
        with suppress(LocalEntryNotFoundError, HFValidationError):
            folder = Path(hub.snapshot_download(source, local_files_only=True, **options))
            if has_weights(folder):
                return folder
    return None


def require_folder(source: str, cache: Path | None = None) -> Path:
    """Return the folder of a pruner on this machine.

    Raises:
        NotDownloadedError: a repository that is not downloaded.
        CheckpointError: neither a folder nor the name of a repository.
    """
    folder = find_local_folder(source, cache)
    if folder is not None:
        return folder
    if not _REPO_PATTERN.fullmatch(source):
        raise CheckpointError(f"{source}: no such folder, and not the name of a hub repository (owner/name)")
    consent = " --accept-licence" if find_licence(source) == NON_COMMERCIAL else ""
    raise NotDownloadedError(f"{source} is not downloaded; run `clara-proxy models pull {source}{consent}`")


def fetch_folder(source: str, cache: Path | None = None) -> Path:
    """Return the folder of a pruner; a published one with a free license is downloaded if it is missing.

    Raises:
        CheckpointError: as `require_folder` does, or the download failed.
    """
    try:
        return require_folder(source, cache)
    except NotDownloadedError:
        pruner = PUBLISHED_PRUNERS.get(source)
        if pruner is None or pruner.needs_consent:
            raise
    import huggingface_hub  # noqa: PLC0415 - only when no folder was given

    hub: Any = huggingface_hub
    options: dict[str, Any] = {} if cache is None else {"cache_dir": cache}
    _log.info("%s is not in the cache; downloading it", source)
    try:
        patterns = choose_patterns(hub.list_repo_files(source))
        return Path(hub.snapshot_download(source, allow_patterns=patterns, **options))
    except Exception as error:  # the client lets errors of several libraries through
        raise CheckpointError(
            f"{source}: the download from the hub failed ({type(error).__name__}: {error})"
        ) from error
