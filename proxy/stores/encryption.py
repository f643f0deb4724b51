"""Compression of originals, and encryption if there is a key.

The invariant: `unpack` returns the value that `pack` received, for the same owner and name and with one of the same
keys. It rejects a value that was changed, or moved to another owner or name.
"""

import base64
import os
from collections.abc import Sequence

from ...config import zstd
from ...config.extras import describe_install
from .originals_store import OriginalsError

_ENCRYPTED_PREFIX = b"\x01clara\x01"  # no zstd frame begins with these bytes
_NONCE_BYTES = 12


class Encryption:
    """Encrypts with the first of `keys` (32 bytes in base64 each) and decrypts with any of them.

    Without keys nothing is encrypted. Values stored before there was a key stay readable. Raises OriginalsError if the
    package for encryption is not installed.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._ciphers = [] if not keys else _create_ciphers(keys)

    def pack(self, owner: str, name: str, value: bytes) -> bytes:
        """Return the bytes to store."""
        packed = zstd.compress(value, level=1)
        if not self._ciphers:
            return packed
        nonce = os.urandom(_NONCE_BYTES)
        return _ENCRYPTED_PREFIX + nonce + self._ciphers[0].encrypt(nonce, packed, _build_associated_data(owner, name))

    def unpack(self, owner: str, name: str, body: bytes) -> bytes:
        """Return the packed value. Raises OriginalsError if it is damaged or no key fits."""
        packed = self._decrypt(owner, name, body) if body.startswith(_ENCRYPTED_PREFIX) else body
        try:
            return zstd.decompress(packed)
        except zstd.ZstdError as error:
            raise OriginalsError("an original in the store is damaged") from error

    def _decrypt(self, owner: str, name: str, body: bytes) -> bytes:
        nonce, ciphertext = body[len(_ENCRYPTED_PREFIX) :][:_NONCE_BYTES], body[len(_ENCRYPTED_PREFIX) + _NONCE_BYTES :]
        for cipher in self._ciphers:
            packed = cipher.decrypt(nonce, ciphertext, _build_associated_data(owner, name))
            if packed is not None:
                return packed
        raise OriginalsError("an original in the store is encrypted with another key, or damaged")


class _Cipher:
    def __init__(self, key: bytes) -> None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        self._invalid_tag = InvalidTag
        self._cipher = AESGCM(key)
        self.encrypt = self._cipher.encrypt

    def decrypt(self, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes | None:
        try:
            return self._cipher.decrypt(nonce, ciphertext, associated_data)
        except self._invalid_tag:
            return None


def _create_ciphers(keys: Sequence[str]) -> list[_Cipher]:
    try:
        return [_Cipher(base64.b64decode(key)) for key in keys]
    except ImportError as error:
        raise OriginalsError(f"encryption needs the extra: {describe_install('encrypted')}") from error


def _build_associated_data(owner: str, name: str) -> bytes:
    return f"{owner}\0{name}".encode("utf-8", "surrogatepass")
