"""The stored form of an original."""

import pytest

from clara_proxy.proxy.stores.encryption import Encryption
from clara_proxy.proxy.stores.originals_store import OriginalsError

# `ZstdCompressor(level=1).compress(b"a line of an original\n" * 3)` of the package zstandard 0.25, used until 0.1
STORED = bytes.fromhex("28b52ffd2042ed0000b061206c696e65206f6620616e206f726967696e616c0a01004a733601")


def test_an_original_stored_with_another_zstd_library_stays_readable() -> None:
    assert Encryption().unpack("owner", "name", STORED) == b"a line of an original\n" * 3


@pytest.mark.parametrize("body", [b"", STORED[:-1], b"no frame"])
def test_a_damaged_original_is_rejected(body: bytes) -> None:
    with pytest.raises(OriginalsError, match="damaged"):
        Encryption().unpack("owner", "name", body)
