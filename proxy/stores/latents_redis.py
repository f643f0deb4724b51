"""Compressed documents in Redis, shared by all proxies with the same model, so that each is encoded once.

A cache: if Redis fails, documents are encoded again. Values expire, and an eviction policy of Redis may delete them
before. They carry the content of their texts.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

KEY_PREFIX = "clara-latent/"
LIFETIME_SECONDS = 30 * 86_400
TIMEOUT_SECONDS = 2.0
RETRY_SECONDS = 10.0  # after a failure, Redis is left alone for this time
_BATCH_SIZE = 64  # values of a request, of 128 KiB each for a 7B model at rate 16
log = logging.getLogger(__name__)


class RedisLatents:
    """Latents as bytes by key, in the Redis at `url`. Thread-safe; no method raises."""

    def __init__(self, url: str) -> None:
        options = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        self._client: Any = cast("Any", Redis).from_url(url, **options)  # redis-py is hardly typed
        self._retry_time = 0.0

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored values of these keys; none if Redis fails."""
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), _BATCH_SIZE):
            batch = keys[start : start + _BATCH_SIZE]
            values = self._execute("MGET", *(KEY_PREFIX + key for key in batch))
            if values is None:
                break
            found |= {key: value for key, value in zip(batch, values, strict=True) if value is not None}
        return found

    def write_many(self, values: Mapping[str, bytes]) -> None:
        """Store values."""
        for key, value in values.items():
            if self._execute("SET", KEY_PREFIX + key, value, "EX", LIFETIME_SECONDS) is None:
                return

    def _execute(self, *command: Any) -> Any:
        """Return the reply of a command, None after a failure."""
        if time.monotonic() < self._retry_time:
            return None
        try:
            return self._client.execute_command(*command)
        except (RedisError, OSError, ValueError) as error:
            self._retry_time = time.monotonic() + RETRY_SECONDS
            log.warning("shared latents cannot be read or stored: %s", type(error).__name__)
            return None
