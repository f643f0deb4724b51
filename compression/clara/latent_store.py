"""Latents kept by content: the same text under the same model is never encoded twice, not even after a restart.

Memory over disk, both bounded, both dropping what was used longest ago. Kept as they are or in 8 bits (`packing`); what
`put_many` gives back is what later readers will get, so the first answer is made of the same. Files are safetensors, so
reading one runs nothing; one that is broken is deleted and counts as absent. Two processes may share a folder: writes
are atomic. A latent says what its text said: the folder is made for its owner only.
"""

import hashlib
import logging
import os
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from . import latent_quantization
from .latent_quantization import PackedLatent, Precision

_log = logging.getLogger(__name__)
_SUFFIX = ".safetensors"


class LatentStore:
    """Memory vectors [M, H] by key; `folder` None keeps them in memory only. Sizes are in bytes. Safe for threads.

    `counts` is told how many were found and how many were missing.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        precision: Precision = "exact",
        memory_bytes: int = 1 << 28,
        disk_bytes: int = 1 << 33,
        counts: Counter[str] | None = None,
    ) -> None:
        self.precision: Precision = precision
        self._folder = folder
        self._memory = _LruSizes(memory_bytes)
        self._disk = _LruSizes(disk_bytes)
        self._packed_latents: dict[str, PackedLatent] = {}
        self._counts = Counter[str]() if counts is None else counts
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._index_files(folder)

    @staticmethod
    def make_key(text: str, fingerprint: str) -> str:
        """Return the name under which a text's latent is kept; `fingerprint` tells all else that it depends on."""
        return hashlib.sha256(f"{fingerprint}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()

    def get_many(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return what is there of these keys, on the CPU."""
        looked = {key: self._lookup(key) for key in dict.fromkeys(keys)}
        found = {key: latent_quantization.unpack_latent(packed) for key, packed in looked.items() if packed is not None}
        with self._lock:
            self._counts.update(latents_found=len(found), latents_missing=len(looked) - len(found))
        return found

    def put_many(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep latents and return them as they will be read; a full disk is logged and costs only the saving."""
        kept = {key: latent_quantization.pack_latent(vector, self.precision) for key, vector in latents.items()}
        for key, packed in kept.items():
            with self._lock:
                self._keep_in_memory(key, packed)
            if self._folder is not None:
                self._write_file(self._path(key), key, packed)
        return {key: latent_quantization.unpack_latent(packed) for key, packed in kept.items()}

    @property
    def stored_bytes(self) -> tuple[int, int]:
        """Return how many bytes are held in memory and on disk."""
        with self._lock:
            return self._memory.total_bytes, self._disk.total_bytes

    def _lookup(self, key: str) -> PackedLatent | None:
        with self._lock:
            packed = self._packed_latents.get(key)
            if packed is not None:
                self._memory.touch(key)
                return packed
            if self._folder is None or not self._disk.touch(key):
                return None
        packed = self._read_file(self._path(key), key)
        if packed is not None:
            with self._lock:
                self._keep_in_memory(key, packed)
        return packed

    def _keep_in_memory(self, key: str, packed: PackedLatent) -> None:
        self._packed_latents[key] = packed
        for old in self._memory.add(key, latent_quantization.packed_bytes(packed)):
            self._packed_latents.pop(old, None)

    def _read_file(self, path: Path, key: str) -> PackedLatent | None:
        try:
            packed = load_file(path)
            latent_quantization.unpack_latent(packed)
            os.utime(path)  # the time of last use, which a restart reads
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            _log.warning("a stored latent cannot be read and is dropped: %s", type(error).__name__)
            with suppress(OSError):
                path.unlink()
            with self._lock:
                self._disk.remove(key)
            return None
        return packed

    def _write_file(self, path: Path, key: str, packed: PackedLatent) -> None:
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            save_file(dict(packed), draft)
            size = draft.stat().st_size
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            _log.warning("a latent cannot be stored: %s", type(error).__name__)
            with suppress(OSError):
                draft.unlink()
            return
        with self._lock:
            dropped = self._disk.add(key, size)
        for old in dropped:
            with suppress(OSError):
                self._path(old).unlink()

    def _index_files(self, folder: Path) -> None:
        files = [(path.stat(), path) for path in folder.glob(f"??/*{_SUFFIX}")]
        for status, path in sorted(files, key=lambda pair: pair[0].st_mtime):
            for old in self._disk.add(path.name.removesuffix(_SUFFIX), status.st_size):
                self._path(old).unlink(missing_ok=True)
        for draft in folder.glob("??/*.tmp"):
            draft.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if self._folder is None:
            raise ValueError("this store has no folder")
        return self._folder / key[:2] / f"{key}{_SUFFIX}"


class _LruSizes:
    """Sizes by key in order of use; says what has to go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.total_bytes = 0

    def touch(self, key: str) -> bool:
        if key not in self._sizes:
            return False
        self._sizes.move_to_end(key)
        return True

    def add(self, key: str, size: int) -> list[str]:
        self.remove(key)
        self._sizes[key] = size
        self.total_bytes += size
        dropped: list[str] = []
        while self.total_bytes > self._limit:
            old, gone = self._sizes.popitem(last=False)
            self.total_bytes -= gone
            dropped.append(old)
        return dropped

    def remove(self, key: str) -> None:
        self.total_bytes -= self._sizes.pop(key, 0)
