"""Decoders for content encodings of responses that aiohttp leaves alone: `x-gzip`, and several at once."""

import zlib
from collections.abc import Callable
from typing import Any

import brotli  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from ...config import zstd

Decoder = Callable[[bytes], bytes]
_brotli: Any = brotli  # it has no types


def create_decoders(encodings: str) -> list[Decoder]:
    """Return the decoders of a `content-encoding`, in the order in which they apply; none if an encoding is unknown."""
    names = [name.strip() for name in reversed(encodings.lower().split(","))]
    decoders = [_create_decoder(name) for name in names if name not in ("", "identity")]
    known = [decoder for decoder in decoders if decoder is not None]
    return known if len(known) == len(decoders) else []


def _create_decoder(name: str) -> Decoder | None:
    match name:
        case "gzip" | "x-gzip" | "deflate" | "x-deflate":
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
        case "br":
            decompressor: Any = _brotli.Decompressor()
            decode: Decoder = decompressor.process
            return decode
        case "zstd":
            return zstd.ZstdDecompressor().decompress
        case _:
            return None
