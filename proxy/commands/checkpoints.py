"""Lists, verifies and downloads CLaRa and PISCO checkpoints for `clara-proxy models`; prints nothing itself.

Verification reads the whole checkpoint (under 2 GB), but only the headers of the base model's weights, and uses no
network. A download starts only after a confirmation of license and size.
"""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...compression.clara.locate import (
    BUNDLED_MODELS,
    CHECKPOINT_FILES,
    HEAD_FILE,
    NANO_NAME,
    find_base_folder,
    find_checkpoint_folder,
    find_complete_subfolder,
    list_subfolders,
)
from ...compression.models.errors import CheckpointError, ModelError
from .known_models import KNOWN_MODELS, find_licence

if TYPE_CHECKING:
    from ...compression.clara.checkpoint_config import CheckpointConfig
    from ...compression.clara.decoder_config import DecoderConfig

BASE_REPO = "mistralai/Mistral-7B-Instruct-v0.2"
BASE_PATTERNS = ("config.json", "generation_config.json", "tokenizer.json", "model*.safetensors", "model*.json")
_MISSING_EXTRA = "the extra [clara] is not installed"


class CheckpointEntry(NamedTuple):
    """A published checkpoint: its size without a base model, its local folder if it is complete, and its purpose."""

    repo: str
    subfolder: str
    size_bytes: int
    licence: str
    local: Path | None
    purpose: str = ""


class CheckpointFinding(NamedTuple):
    """The result of one verification step."""

    name: str
    result: str
    is_ok: bool = True


class Hub(Protocol):
    """A source of model repositories; its errors are `CheckpointError`s."""

    def find_cached(self, repo: str, files: Sequence[str]) -> Path | None:
        """Return the cached folder of a repository, or None if it is not cached; uses no network."""
        ...

    def read_sizes(self, repo: str, files: Sequence[str]) -> dict[str, int]:
        """Return the sizes in bytes of a repository's files that match these patterns."""
        ...

    def download(self, repo: str, files: Sequence[str]) -> Path:
        """Download the matching files that are missing, resuming partial ones; return the folder."""
        ...


class HuggingFace:
    """The Hugging Face Hub through its own client, with its progress bars.

    Downloads go to `cache`, by default the client's own cache; both are searched.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._options: dict[str, Any] = {} if cache is None else {"cache_dir": cache}

    def find_cached(self, repo: str, files: Sequence[str]) -> Path | None:
        """Return the cached snapshot, which may be incomplete, or None."""
        try:
            import huggingface_hub  # noqa: PLC0415 - slow, and not part of the core install
            from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415
        except ModuleNotFoundError:
            return None
        hub: Any = huggingface_hub
        for options in (self._options, {}):
            with suppress(LocalEntryNotFoundError, HFValidationError):
                return Path(hub.snapshot_download(repo, allow_patterns=list(files), local_files_only=True, **options))
        return None

    def read_sizes(self, repo: str, files: Sequence[str]) -> dict[str, int]:
        """Request the file sizes from the hub."""
        with _open_hub(repo) as hub:
            entries = hub.model_info(repo, files_metadata=True).siblings
        names = {str(entry.rfilename): int(entry.size or 0) for entry in entries}
        return {name: size for name, size in names.items() if any(fnmatchcase(name, file) for file in files)}

    def download(self, repo: str, files: Sequence[str]) -> Path:
        """Download the missing files."""
        with _open_hub(repo) as hub:
            return Path(hub.snapshot_download(repo, allow_patterns=list(files), **self._options))


@contextmanager
def _open_hub(repo: str) -> Generator[Any]:
    try:
        import huggingface_hub  # noqa: PLC0415 - slow, and not part of the core install
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{_MISSING_EXTRA}: {error}") from None
    try:
        yield huggingface_hub
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{repo}: cannot be downloaded from the hub ({error})") from error
    except Exception as error:  # of the hub client's own HTTP library: httpx or httpx2, by its version
        raise CheckpointError(f"{repo}: the hub cannot be reached ({type(error).__name__}: {error})") from error


def list_checkpoints(hub: Hub | None = None) -> list[CheckpointEntry]:
    """Return clara-nano and the published checkpoints; uses no network."""
    hub = hub or HuggingFace()
    bundled = BUNDLED_MODELS[NANO_NAME]
    size = sum(path.stat().st_size for path in bundled.rglob("*") if path.is_file())
    return [
        CheckpointEntry(
            NANO_NAME,
            "compression-16",
            size,
            "Apache-2.0, part of the package",
            bundled if size else None,
            "demonstrations and tests; short statements",
        ),
        *(
            CheckpointEntry(
                model.repo,
                model.subfolder,
                model.size_bytes,
                find_licence(model.repo),
                _find_complete(hub, model.repo, model.subfolder),
                model.purpose,
            )
            for model in KNOWN_MODELS
        ),
    ]


def verify_checkpoint(
    source: str | Path, subfolder: str | None = None, base: str | Path | None = None, hub: Hub | None = None
) -> list[CheckpointFinding]:
    """Verify a checkpoint and its base model, in a folder or in the cache; problems are findings, not exceptions.

    Verification stops at the first problem, so only the last finding may have one.
    """
    findings: list[CheckpointFinding] = []
    try:
        for finding in _inspect_checkpoint(source, subfolder, base, hub or HuggingFace()):
            findings.append(finding)  # noqa: PERF402 - keeps the findings before an error
    except ModelError as error:
        findings.append(CheckpointFinding("checkpoint", str(error), is_ok=False))
    except ModuleNotFoundError as error:
        findings.append(CheckpointFinding("checkpoint", f"{_MISSING_EXTRA}: {error}", is_ok=False))
    return findings


def pull_checkpoint(
    repo: str,
    subfolder: str | None,
    base: str | Path | None,
    confirm: Callable[[str], bool],
    hub: Hub | None = None,
) -> list[CheckpointFinding] | None:
    """Download a checkpoint and its base model, then verify them; None if `confirm` rejects license and size.

    A `base` that is a folder is used directly. A second call resumes an interrupted download. Raises `CheckpointError`
    if a file cannot be downloaded.
    """
    hub = hub or HuggingFace()
    layouts = {name: _list_files([name]) for name in list_subfolders(subfolder)}
    available = hub.read_sizes(repo, [file for files in layouts.values() for file in files])
    complete = [name for name, files in layouts.items() if all(file in available for file in files)]
    if not complete:
        missing = next(file for file in next(iter(layouts.values())) if file not in available)
        raise CheckpointError(f"{repo} has no {missing}")
    subfolder = complete[0]
    downloads = [(repo, [*layouts[subfolder], *_list_files([subfolder], [HEAD_FILE])])]
    if base is None or not Path(base).expanduser().is_dir():
        downloads.append((str(base or BASE_REPO), list(BASE_PATTERNS)))
    sizes = [hub.read_sizes(name, files) for name, files in downloads]
    lines = [
        f"{name}: {format_size(sum(file_sizes.values()))}; license {find_licence(name)}"
        for (name, _), file_sizes in zip(downloads, sizes, strict=True)
    ]
    if not confirm("\n".join(lines)):
        return None
    for name, files in downloads:
        hub.download(name, files)
    return verify_checkpoint(repo, subfolder, base, hub)


def format_size(count: int) -> str:
    """Format a number of bytes: `0.78 GB`, `512 kB`."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count} B"


def _find_complete(hub: Hub, repo: str, subfolder: str) -> Path | None:
    folder = hub.find_cached(repo, _list_files([subfolder or "."]))
    if folder is None or find_complete_subfolder(folder, subfolder or ".") is None:
        return None
    return folder / subfolder


def _list_files(subfolders: Sequence[str], files: Sequence[str] = CHECKPOINT_FILES) -> list[str]:
    return [file if name == "." else f"{name}/{file}" for name in subfolders for file in files]


def _inspect_checkpoint(
    source: str | Path, subfolder: str | None, base: str | Path | None, hub: Hub
) -> Iterator[CheckpointFinding]:
    from ...compression.clara import checkpoint, checkpoint_config, decoder_config  # noqa: PLC0415 - imports torch
    from ...compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec  # noqa: PLC0415

    folder = _locate_checkpoint(source, subfolder, hub)
    config = checkpoint_config.read_checkpoint_config(folder)
    yield CheckpointFinding(
        "checkpoint", f"{folder}: {config.compression_rate}x, {config.memory_tokens} memory tokens per document"
    )
    for file in CHECKPOINT_FILES[1:]:
        yield _check_archive(folder / file)
    base_folder = find_base_folder(config.raw, _locate_base(config, base, hub))
    shape = decoder_config.read_decoder_config(base_folder)
    yield CheckpointFinding("base model", f"{base_folder}: {shape.layer_count} layers of size {shape.hidden_size}")
    yield _check_base_weights(base_folder, shape)
    layout = MemoryTokenSpec(
        config.memory_tokens, config.has_distinct_memory_tokens, ("<KBTC>",) if config.has_kbtc_token else ()
    )
    vocabulary = ClaraTokenizer.from_file(base_folder / "tokenizer.json", layout)
    yield CheckpointFinding("tokenizer", f"{vocabulary.vocabulary_size} tokens, including CLaRa's")
    loaded = checkpoint.load_checkpoint(folder, shape, vocabulary.vocabulary_size)
    yield CheckpointFinding("adapters", f"{', '.join(loaded.adapters)} fit the base model")


def _locate_checkpoint(source: str | Path, subfolder: str | None, hub: Hub) -> Path:
    if str(source) in BUNDLED_MODELS or Path(source).expanduser().is_dir():
        return find_checkpoint_folder(source, subfolder)
    subfolders = list_subfolders(subfolder)
    folder = hub.find_cached(str(source), _list_files(subfolders))
    if folder is None:
        raise CheckpointError(
            f"{source} is neither a folder nor a downloaded checkpoint; run `clara-proxy models pull {source}`"
        )
    complete = find_complete_subfolder(folder, subfolder)
    if complete is None:
        present = [name for name in subfolders if any((folder / file).is_file() for file in _list_files([name]))]
        files = _list_files((present or subfolders)[:1])
        missing = next(file for file in files if not (folder / file).is_file())
        raise CheckpointError(
            f"{folder / missing} is missing, the download is incomplete; run `clara-proxy models pull` again"
        )
    return folder / complete


def _locate_base(config: "CheckpointConfig", base: str | Path | None, hub: Hub) -> Path:
    """Return the folder of the base model; a missing path with the name of the published model means that model."""
    name = str(base) if base is not None else str(config.raw.get("decoder_model_name") or "")
    if name in BUNDLED_MODELS or (name and Path(name).expanduser().is_dir()):
        return find_base_folder(config.raw, base)
    repo = BASE_REPO if base is None and Path(name).name == Path(BASE_REPO).name else name
    folder = hub.find_cached(repo, BASE_PATTERNS)
    if folder is None:
        raise CheckpointError(
            f"the base model {repo!r} is not downloaded; run `clara-proxy models pull`, or set its folder with --base"
        )
    return folder


def _check_archive(path: Path) -> CheckpointFinding:
    """Verify the checksum of every tensor in a file of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            count = sum("/data/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is no complete file of torch.save ({error}); delete it and pull again"
        ) from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged at {damaged}; delete it and pull again")
    return CheckpointFinding(path.name, f"{format_size(path.stat().st_size)}, {count} tensors, checksums are correct")


def _check_base_weights(folder: Path, shape: "DecoderConfig") -> CheckpointFinding:
    """Compare the names, shapes and sizes in the headers of the base model's weights with its config."""
    index = folder / "model.safetensors.index.json"
    files: dict[str, str] = _parse_json(index.read_bytes(), index).get("weight_map", {}) if index.is_file() else {}
    headers: dict[str, dict[str, Any]] = {}
    total = 0
    for name, expected in _iter_expected_tensors(shape):
        path = folder / files.get(name, "model.safetensors")
        if path.name not in headers:
            headers[path.name] = _read_header(path)
            total += path.stat().st_size
        entry = headers[path.name].get(name)
        if entry is None:
            raise CheckpointError(f"{path} has no tensor {name}")
        if tuple(entry["shape"]) != expected:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(entry['shape'])}, but config.json expects {expected}"
            )
    return CheckpointFinding("base weights", f"{format_size(total)} in {len(headers)} files, all tensors are present")


def _iter_expected_tensors(shape: "DecoderConfig") -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.norm.weight", (shape.hidden_size,)
    for layer in range(shape.layer_count):
        stem = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{stem}.{norm}.weight", (shape.hidden_size,)
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{stem}.self_attn.{module}.weight", shape.linear_shape(module)
        for module in ("gate_proj", "up_proj", "down_proj"):
            yield f"{stem}.mlp.{module}.weight", shape.linear_shape(module)


def _read_header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file (8 bytes of length, then JSON) and verify the size of the file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise CheckpointError(f"{path} is no complete safetensors file; delete it and pull again")
            header = _parse_json(file.read(length), path)
        end = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (OSError, struct.error, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error})") from error
    if path.stat().st_size != end:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes instead of {end}; delete it and pull again")
    return header


def _parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from error
    return value
