"""How an original is packed: compressed, and encrypted where there is a key.

Knows no store. The invariant: `unpack` gives back what `pack` was given, for the same owner and name and with a key of
the same list; what was tampered with, or moved to another owner or name, is refused.
"""

import base64
import os
from collections.abc import Sequence

import zstandard

from .originals_store import OriginalsError

_ENCRYPTED_PREFIX = b"\x01clara\x01"  # no zstd frame begins like this
_NONCE_BYTES = 12  # bytes


class Encryption:
    """Packs with the first of `keys` (32 bytes in base64 each) and unpacks with any of them; without keys in the clear.

    What was stored before there was a key can still be read. Raises OriginalsError when encryption is not installed.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._compress = zstandard.ZstdCompressor(level=1).compress
        self._ciphers = [] if not keys else _create_ciphers(keys)

    def pack(self, owner: str, name: str, value: bytes) -> bytes:
        """Return the bytes to store. Not for two threads at once."""
        packed = self._compress(value)
        if not self._ciphers:
            return packed
        nonce = os.urandom(_NONCE_BYTES)
        return _ENCRYPTED_PREFIX + nonce + self._ciphers[0].encrypt(nonce, packed, _build_associated_data(owner, name))

    def unpack(self, owner: str, name: str, body: bytes) -> bytes:
        """Return what was packed. Raises OriginalsError when it cannot be had with these keys."""
        packed = self._decrypt(owner, name, body) if body.startswith(_ENCRYPTED_PREFIX) else body
        try:
            return zstandard.ZstdDecompressor().decompress(packed)
        except zstandard.ZstdError as error:
            raise OriginalsError("an original in the store is damaged") from error

    def _decrypt(self, owner: str, name: str, body: bytes) -> bytes:
        nonce, sealed = body[len(_ENCRYPTED_PREFIX) :][:_NONCE_BYTES], body[len(_ENCRYPTED_PREFIX) + _NONCE_BYTES :]
        for cipher in self._ciphers:
            opened = cipher.decrypt(nonce, sealed, _build_associated_data(owner, name))
            if opened is not None:
                return opened
        raise OriginalsError("an original in the store is encrypted with another key, or damaged")


class _Cipher:
    def __init__(self, key: bytes) -> None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        self._invalid_tag = InvalidTag
        self._cipher = AESGCM(key)
        self.encrypt = self._cipher.encrypt

    def decrypt(self, nonce: bytes, sealed: bytes, place: bytes) -> bytes | None:
        try:
            return self._cipher.decrypt(nonce, sealed, place)
        except self._invalid_tag:
            return None


def _create_ciphers(keys: Sequence[str]) -> list[_Cipher]:
    try:
        return [_Cipher(base64.b64decode(key)) for key in keys]
    except ImportError as error:
        raise OriginalsError("encryption needs the extra: pip install 'clara-proxy[encrypted]'") from error


def _build_associated_data(owner: str, name: str) -> bytes:
    return f"{owner}\0{name}".encode("utf-8", "surrogatepass")
