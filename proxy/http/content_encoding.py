"""Removes the content encoding of request bodies, piece by piece, so that a small body cannot take much memory."""

import zlib
from collections.abc import Iterator

from ...config import zstd
from ..protocols import offload
from ..protocols.api_errors import ApiError
from .body_budget import BodyReservation

_PIECE_BYTES = 2**20  # bytes unpacked at once
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "zstd"})
_INLINE_PACKED_BYTES = 4096  # deflate multiplies by a thousand at most, and zstd by more; others run in a thread


async def decode_body(body: bytes, encodings: str, limit: int, reservation: BodyReservation) -> bytes | None:
    """Remove the content encodings of a request body, such as `gzip, zstd`; return None if one is unknown.

    Raises:
        ApiError: 400 for a body that does not match its encoding, 413 for one of more than `limit` decoded bytes, 503
            if other bodies take the memory.
    """
    names = [name.strip() for name in reversed(encodings.lower().split(","))]  # the last one was applied last
    names = [name for name in names if name not in ("", "identity")]
    if not _ENCODINGS.issuperset(names):
        return None
    for name in names:
        is_small = len(body) <= _INLINE_PACKED_BYTES and name != "zstd"
        work = 0 if is_small else offload.INLINE_BYTES + 1
        body = await offload.run_for(work, _unpack, body, name, limit, reservation)
    return body


def _unpack(body: bytes, encoding: str, limit: int, reservation: BodyReservation) -> bytes:
    pieces: list[bytes] = []
    size = 0
    iterator = _iter_zstd(body) if encoding == "zstd" else _iter_inflated(body, may_be_raw=encoding == "deflate")
    try:
        for piece in iterator:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large_error(limit)
            reservation.grow_to(len(body) + size)
    except (zlib.error, zstd.ZstdError) as error:
        raise ApiError(400, f"the request body is not valid {encoding}: {error}", code="invalid_encoding") from None
    return b"".join(pieces)


def _iter_inflated(body: bytes, *, may_be_raw: bool) -> Iterator[bytes]:
    """Decompress gzip, zlib or raw deflate data.

    Raises:
        zlib.error: the data is invalid or incomplete.
    """
    # Some clients send raw data as `deflate`; the first byte of a zlib stream ends in 8.
    is_raw = may_be_raw and body[:2] != b"\x1f\x8b" and body[:1] != b"" and body[0] & 0x0F != zlib.DEFLATED
    decoder = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | 32)
    for start in range(0, max(1, len(body)), _PIECE_BYTES):
        packed = body[start : start + _PIECE_BYTES]
        while piece := decoder.decompress(packed, _PIECE_BYTES):
            yield piece
            packed = decoder.unconsumed_tail
        if decoder.eof:
            return
    raise zlib.error("the data is incomplete")


def _iter_zstd(body: bytes) -> Iterator[bytes]:
    """Decompress one frame.

    Raises:
        ZstdError: the data is invalid or incomplete.
    """
    decoder = zstd.ZstdDecompressor()
    for start in range(0, len(body), _PIECE_BYTES):
        packed = body[start : start + _PIECE_BYTES]
        while not decoder.eof and (packed or not decoder.needs_input):
            if piece := decoder.decompress(packed, _PIECE_BYTES):
                yield piece
            packed = b""
    if not decoder.eof:
        raise zstd.ZstdError("the data is incomplete")


def too_large_error(limit: int) -> ApiError:
    """Return the error for a body of more than `limit` bytes."""
    return ApiError(413, f"the request body is larger than {limit} bytes", code="request_too_large")
