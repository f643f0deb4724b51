"""Stores latents by content: a text is encoded once per model, even across restarts.

Two bounded LRU levels, memory over disk. Latents are stored exactly or in 8 bits (`latent_quantization`); `put_many`
returns them as they will be read, so the first answer uses the same latents as later ones. Files are safetensors, which
hold no code; a broken file is deleted and counts as missing. Writes are atomic, so processes may share a folder. As
latents carry the content of their texts, only the owner may read the folder.
"""

import hashlib
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cachetools import LRUCache
from safetensors import SafetensorError

from .inference import Array

if TYPE_CHECKING:
    from .latent_quantization import Precision

_log = logging.getLogger(__name__)
_SUFFIX = ".safetensors"
ArrayKind = Literal["torch", "numpy"]
PackedLatent = Mapping[str, Array]


class LatentFormat(Protocol):
    """The stored form of latents, for one kind of arrays."""

    def pack_latent(self, memories: Any, precision: "Precision", /) -> Mapping[str, Any]:
        """Return the stored form of memories [M, H], a copy."""
        ...

    def unpack_latent(self, packed: Any, /) -> Array:
        """Return the memories [M, H]. Raises KeyError if a part is missing."""
        ...

    def serialize(self, packed: Any, /) -> bytes:
        """Return a latent in its stored form as safetensors."""
        ...

    def deserialize(self, data: bytes, /) -> Mapping[str, Any]:
        """Return a latent in its stored form from safetensors."""
        ...

    def load_file(self, path: Path, /) -> Mapping[str, Any]:
        """Read a stored latent."""
        ...

    def save_file(self, packed: Any, path: Path, /) -> None:
        """Write a latent in its stored form."""
        ...


class LatentStore:
    """Memory vectors [M, H] by key. Sizes are in bytes. Thread-safe.

    `arrays` are those of the model: torch's tensors or, for MLX, numpy's arrays. Without `folder`, latents are kept in
    memory only. Hits and misses are added to `counts`, as `latents_found` and `latents_missing`.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        precision: "Precision" = "exact",
        memory_bytes: int = 1 << 28,
        disk_bytes: int = 1 << 33,
        counts: Counter[str] | None = None,
        arrays: ArrayKind = "torch",
    ) -> None:
        self._format = _import_format(arrays)
        self.precision: Precision = precision
        self._folder = folder
        self._memory: LRUCache[str, PackedLatent] = LRUCache(memory_bytes, getsizeof=_packed_bytes)
        self._disk = _FileSizes(disk_bytes)
        self._counts = Counter[str]() if counts is None else counts
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._index_files(folder)

    @staticmethod
    def make_key(text: str, fingerprint: str) -> str:
        """Return the key of a text's latent; `fingerprint` covers everything else that the latent depends on."""
        return hashlib.sha256(f"{fingerprint}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()

    def get_many(self, keys: Iterable[str]) -> dict[str, Array]:
        """Return the stored latents of these keys, on the CPU."""
        entries = {key: self._lookup(key) for key in dict.fromkeys(keys)}
        unpack = self._format.unpack_latent
        latents = {key: unpack(packed) for key, packed in entries.items() if packed is not None}
        with self._lock:
            self._counts.update(latents_found=len(latents), latents_missing=len(entries) - len(latents))
        return latents

    def get_recent(self, keys: Iterable[str]) -> dict[str, Array]:
        """Return those latents of these keys that are in memory, on the CPU; hits and misses are not counted."""
        with self._lock:
            entries = {key: packed for key in keys if (packed := self._memory.get(key)) is not None}
        return {key: self._format.unpack_latent(packed) for key, packed in entries.items()}

    def put_many(self, latents: Mapping[str, Array]) -> dict[str, Array]:
        """Store latents and return them as they will be read; if a file cannot be written, a warning is logged."""
        entries = {key: self._format.pack_latent(vector, self.precision) for key, vector in latents.items()}
        for key, packed in entries.items():
            with self._lock:
                self._keep_in_memory(key, packed)
            if self._folder is not None:
                self._write_file(self._path(key), key, packed)
        return {key: self._format.unpack_latent(packed) for key, packed in entries.items()}

    def _lookup(self, key: str) -> PackedLatent | None:
        with self._lock:
            packed = self._memory.get(key)
            if packed is not None:
                return packed
            if self._folder is None or self._disk.get(key) is None:
                return None
        packed = self._read_file(self._path(key), key)
        if packed is not None:
            with self._lock:
                self._keep_in_memory(key, packed)
        return packed

    def _keep_in_memory(self, key: str, packed: PackedLatent) -> None:
        with suppress(ValueError):  # larger than the memory's limit
            self._memory[key] = packed

    def _read_file(self, path: Path, key: str) -> PackedLatent | None:
        try:
            packed = self._format.load_file(path)
            self._format.unpack_latent(packed)
            os.utime(path)  # the time of last use, for the order after a restart
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            _log.warning("a stored latent cannot be read and is dropped: %s", type(error).__name__)
            with suppress(OSError):
                path.unlink()
            with self._lock:
                self._disk.pop(key, None)
            return None
        return packed

    def _write_file(self, path: Path, key: str, packed: PackedLatent) -> None:
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._format.save_file(packed, draft)
            size = draft.stat().st_size
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            _log.warning("a latent cannot be stored: %s", type(error).__name__)
            with suppress(OSError):
                draft.unlink()
            return
        with self._lock:
            evicted = self._disk.add(key, size)
        for old_key in evicted:
            with suppress(OSError):
                self._path(old_key).unlink()

    def _index_files(self, folder: Path) -> None:
        files = [(path.stat(), path) for path in folder.glob(f"??/*{_SUFFIX}")]
        for status, path in sorted(files, key=lambda pair: pair[0].st_mtime):
            for old_key in self._disk.add(path.name.removesuffix(_SUFFIX), status.st_size):
                self._path(old_key).unlink(missing_ok=True)
        for draft in folder.glob("??/*.tmp"):
            draft.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if self._folder is None:
            raise ValueError("this store has no folder")
        return self._folder / key[:2] / f"{key}{_SUFFIX}"


def _import_format(arrays: ArrayKind) -> LatentFormat:
    if arrays == "numpy":
        from . import latent_arrays  # noqa: PLC0415 - each library is loaded where it is used

        return latent_arrays
    from . import latent_quantization  # noqa: PLC0415

    return latent_quantization


def _packed_bytes(packed: PackedLatent) -> int:
    return sum(array.nbytes for array in packed.values())


class _FileSizes(LRUCache[str, int]):
    """Sizes of stored files in bytes, by key; their files are deleted by the caller of `add`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=int)
        self._evicted: list[str] = []

    def add(self, key: str, size: int) -> list[str]:
        """Add a file; return the keys of files to delete, its own if it is larger than the limit."""
        self.pop(key, None)
        self._evicted = []
        try:
            self[key] = size
        except ValueError:
            return [key]
        return self._evicted

    def popitem(self) -> tuple[str, int]:
        key, size = super().popitem()
        self._evicted.append(key)
        return key, size
