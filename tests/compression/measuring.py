"""Measures processor time alone: the garbage of other tests in the process is no part of it."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Generator[None]:
    """Switch the collector off for the duration of the block; `serve` freezes its objects, so it costs little there."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
