"""Keeps quantized weights on disk, so that loading a model again does not quantize it again.

A model is a folder with one safetensors file per layer, named by a hash of the base's weights, their format and
`VERSION`. Files are written atomically and carry a checksum; a damaged one is deleted and its layer quantized again.
The least recently used models are deleted beyond a number of bytes.
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .weight_file import WeightFile

_log = logging.getLogger(__name__)

VERSION = 1  # of the quantized formats; other versions are not read
_SPARE_BYTES = 1 << 30  # of the disk, left to others
_DIGESTS = "digests.json"


class QuantizedWeightStore:
    """Quantized models in `folder`, of at most `max_bytes` in all. Processes may share the folder."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 34) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def open_model(self, base_folder: Path, description: str, layer_count: int) -> "StoredModel | None":
        """Return the stored form of a base model, complete or not, in a format; None if the folder cannot be used.

        `description` names everything beside the base's files that the quantized weights depend on.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            digests = [self._digest_file(path) for path in sorted(base_folder.glob("*.safetensors"))]
            key = hashlib.sha256(json.dumps([VERSION, description, digests]).encode()).hexdigest()[:32]
            model = self._folder / key
            model.mkdir(mode=0o700, exist_ok=True)
            os.utime(model)  # the time of last use
        except OSError as error:
            _log.warning("quantized weights cannot be stored: %s", error.strerror)
            return None
        return StoredModel(model, layer_count, self)

    def make_room(self, model: Path, size: int) -> bool:
        """Delete other models until one of this size fits; return False if it cannot fit."""
        models = [(path.stat().st_mtime, path) for path in self._folder.iterdir() if path.is_dir() and path != model]
        others = [(path, _folder_bytes(path)) for _, path in sorted(models)]
        while others and sum(used for _, used in others) + size > self._max_bytes:
            shutil.rmtree(others.pop(0)[0], ignore_errors=True)
        missing = size - _folder_bytes(model)
        return size <= self._max_bytes and shutil.disk_usage(self._folder).free > missing + _SPARE_BYTES

    def _digest_file(self, path: Path) -> str:
        """Return the hash of a file; it is computed again only if the file's size or time changes."""
        status, resolved = path.stat(), str(path.resolve())
        state = [status.st_size, status.st_mtime_ns]
        known = self._read_digests()
        if known.get(resolved, [None])[:-1] != state:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            known = self._read_digests() | {resolved: [*state, digest]}
            draft = self._folder / f"{_DIGESTS}.{secrets.token_hex(4)}.tmp"
            draft.write_text(json.dumps(known), encoding="utf-8")
            draft.replace(self._folder / _DIGESTS)
        return str(known[resolved][-1])

    def _read_digests(self) -> dict[str, list[Any]]:
        with suppress(OSError, ValueError):
            known: dict[str, list[Any]] = json.loads((self._folder / _DIGESTS).read_text(encoding="utf-8"))
            return known
        return {}


class StoredModel(NamedTuple):
    """The layers of one base model in one format."""

    folder: Path
    layer_count: int
    store: QuantizedWeightStore

    def read_layer(self, index: int, device: torch.device) -> dict[str, Tensor] | None:
        """Return the tensors of a layer on a device; None if they are not stored, or damaged."""
        path = self._path(index)
        try:
            file = WeightFile.open(path)
            checksum = file.metadata["crc32"]
            tensors = {name: file.read(name) for name in file.tensors}
            if _compute_checksum(tensors) != checksum:
                raise ValueError("the checksum differs")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            _log.warning("stored quantized weights are damaged, and made again: %s", error)
            with suppress(OSError):
                path.unlink()
            return None
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    def write_layer(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a layer, if the whole model fits; if they cannot be written, a warning is logged."""
        path = self._path(index)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        size = sum(copy.nbytes for copy in copies.values())
        try:
            if self.store.make_room(self.folder, size * self.layer_count):
                save_file(copies, draft, metadata={"crc32": _compute_checksum(copies)})
                draft.replace(path)
        except (OSError, SafetensorError) as error:
            _log.warning("quantized weights cannot be stored: %s", error)
            with suppress(OSError):
                draft.unlink()

    def _path(self, index: int) -> Path:
        return self.folder / f"layer-{index:03d}.safetensors"


def _compute_checksum(tensors: Mapping[str, Tensor]) -> str:
    checksum = 0
    for name in sorted(tensors):
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))
