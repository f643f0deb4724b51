"""A store of latents before one of several processes, so that a document is encoded once for all of them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from safetensors import SafetensorError

from .inference import Array
from .latent_store import LatentStore, PackedLatent

_log = logging.getLogger(__name__)


class SharedLatents(Protocol):
    """Latents in their stored form, as safetensors by key. Thread-safe; methods block for a moment, and never raise."""

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored values of these keys."""
        ...

    def write_many(self, values: Mapping[str, bytes]) -> None:
        """Store values."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class SharingLatentStore(LatentStore):
    """A `LatentStore` before `shared`, if there is one; latents found there count as `latents_shared`, too."""

    def __init__(self, shared: SharedLatents | None, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared = shared

    def get_many(self, keys: Iterable[str]) -> dict[str, Array]:
        """Return the stored latents of these keys, on the CPU."""
        wanted = list(dict.fromkeys(keys))
        latents = super().get_many(wanted)
        if self._shared is None:
            return latents
        missing = [key for key in wanted if key not in latents]
        found = self._read_shared(self._shared, missing) if missing else {}
        with self._lock:
            self._counts.update(latents_found=len(found), latents_missing=-len(found), latents_shared=len(found))
            for key, packed in found.items():
                self._keep_in_memory(key, packed)
        return latents | {key: self._format.unpack_latent(packed) for key, packed in found.items()}

    def put_many(self, latents: Mapping[str, Array]) -> dict[str, Array]:
        """Store latents here and there, and return them as they will be read."""
        if self._shared is not None:
            packed = {key: self._format.pack_latent(vector, self.precision) for key, vector in latents.items()}
            self._shared.write_many({key: self._format.serialize(parts) for key, parts in packed.items()})
        return super().put_many(latents)

    def _read_shared(self, shared: SharedLatents, keys: Sequence[str]) -> dict[str, PackedLatent]:
        """Return the latents that other processes have stored; a broken one counts as missing."""
        found: dict[str, PackedLatent] = {}
        for key, value in shared.read_many(keys).items():
            try:
                packed = self._format.deserialize(value)
                self._format.unpack_latent(packed)
            except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
                _log.warning("a shared latent cannot be read: %s", type(error).__name__)
            else:
                found[key] = packed
        return found
