"""Compressed documents in Redis, shared by all proxies with the same model.

Redis bounds its own memory: an eviction policy may delete values before they expire.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from .latents import LIFETIME_SECONDS, TIMEOUT_SECONDS, LatentCache

KEY_PREFIX = "clara-latent/"


class RedisLatents(LatentCache):
    """Latents in the Redis at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__((RedisError,))
        options = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        self._client: Any = cast("Any", Redis).from_url(url, **options)  # redis-py is hardly typed

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._client.close()

    def _read_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        values = self._client.execute_command("MGET", *(KEY_PREFIX + key for key in keys))
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def _write_batch(self, values: Mapping[str, bytes]) -> bool:
        with self._client.pipeline(transaction=False) as commands:
            for key, value in values.items():
                commands.set(KEY_PREFIX + key, value, ex=LIFETIME_SECONDS)
            commands.execute()
        return True
