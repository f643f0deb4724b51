"""Compressed documents that all proxies with the same model share, so that each is encoded once: the common part.

The stores are caches: if one fails, documents are encoded again. A key is a hash of the model and of the text, so only
a request with the same text finds its value. Values expire; they carry the content of their texts.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

LIFETIME_SECONDS = 30 * 86_400
TIMEOUT_SECONDS = 2.0
RETRY_SECONDS = 10.0  # after a failure, the store is left alone for this time
_BATCH_SIZE = 64  # values of a request, of 128 KiB each for a 7B model at rate 16
log = logging.getLogger(__name__)
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class LatentCache(ABC):
    """Latents as bytes by key. Thread-safe; no public method raises."""

    def __init__(self, error_types: tuple[type[Exception], ...]) -> None:
        self._error_types: tuple[type[Exception], ...] = (*error_types, OSError, ValueError)
        self._retry_time = 0.0

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored values of these keys; none if the store fails."""
        found: dict[str, bytes] = {}
        for batch in _split_batches(keys):
            values = self._attempt(self._read_batch, batch)
            if values is None:
                break
            found |= values
        return found

    def write_many(self, values: Mapping[str, bytes]) -> None:
        """Store values."""
        for batch in _split_batches(sorted(values)):  # in order, so that writers cannot deadlock
            if self._attempt(self._write_batch, {key: values[key] for key in batch}) is None:
                break

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    @abstractmethod
    def _read_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored values of these keys; may raise the error types."""

    @abstractmethod
    def _write_batch(self, values: Mapping[str, bytes]) -> bool:
        """Store values; may raise the error types."""

    def _attempt(self, operation: Callable[[Argument], Result], argument: Argument) -> Result | None:
        """Return the result of an operation; None after a failure."""
        if time.monotonic() < self._retry_time:
            return None
        try:
            return operation(argument)
        except self._error_types as error:
            self._retry_time = time.monotonic() + RETRY_SECONDS
            log.warning("shared latents cannot be read or stored: %s", type(error).__name__)
            return None


def _split_batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + _BATCH_SIZE] for start in range(0, len(keys), _BATCH_SIZE))
