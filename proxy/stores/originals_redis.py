"""Originals in Redis, shared by all replicas.

Each entry is a key that Redis deletes when it expires; its value is the expiry (a big-endian double) and the body.
Scripts keep three more keys consistent: an index by expiry, the sizes, and their sum. All keys share one hash tag, so
that a cluster stores them on one node. An eviction policy that could delete entries early is rejected. Redis's own
persistence decides if entries survive its restart.
"""

import asyncio
import logging
import math
import struct
import uuid
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from .originals_store import TIMEOUT_SECONDS, Entry, EntryInfo, EntryKey, OriginalsError, map_store_errors

_HASH_TAG = b"{clara-originals}"
_INDEX_KEYS = (_HASH_TAG + b"/index", _HASH_TAG + b"/sizes", _HASH_TAG + b"/bytes")
_DELETION_VERSION_KEY = _HASH_TAG + b"/dropped"
_EXPIRY_HEADER = struct.Struct(">d")
_BATCH_SIZE = 1_000  # entries of one script; Redis is blocked while it runs

# KEYS: the three index keys, then the entries. ARGV: expiry and value of each entry; a value of only the header renews.
_WRITE_SCRIPT = """
    local exists = {}
    for i = 4, #KEYS do
        local key, expires, value = KEYS[i], ARGV[2 * i - 7], ARGV[2 * i - 6]
        local head = redis.call('GETRANGE', key, 0, 7)
        exists[i - 3] = #head == 8 and 1 or 0
        if #head == 8 or #value > 8 then
            if #head < 8 then
                redis.call('SET', key, value)
                local counted = tonumber(redis.call('HGET', KEYS[2], key) or 0)
                redis.call('HSET', KEYS[2], key, #value)
                redis.call('INCRBY', KEYS[3], #value - counted)
            end
            if #head < 8 or struct.unpack('>d', head) < tonumber(expires) then
                redis.call('SETRANGE', key, 0, string.sub(value, 1, 8))
                redis.call('PEXPIREAT', key, math.ceil(tonumber(expires) * 1000))
                redis.call('ZADD', KEYS[1], expires, key)
            end
        end
    end
    return exists
"""
# KEYS: the three index keys, then the entries. ARGV: entries that expire later are not deleted.
_DELETE_SCRIPT = """
    local deleted = 0
    for i = 4, #KEYS do
        local score = redis.call('ZSCORE', KEYS[1], KEYS[i])
        if score and tonumber(score) <= tonumber(ARGV[1]) then
            redis.call('UNLINK', KEYS[i])
            redis.call('ZREM', KEYS[1], KEYS[i])
            redis.call('DECRBY', KEYS[3], redis.call('HGET', KEYS[2], KEYS[i]))
            redis.call('HDEL', KEYS[2], KEYS[i])
            deleted = deleted + 1
        end
    end
    return deleted
"""
_ERROR_TYPES = (RedisError, OSError, TimeoutError, ValueError)
log = logging.getLogger(__name__)


class RedisStore:
    """A store in the Redis at `url` (`redis://`, `rediss://` or `unix://`)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None  # redis-py is hardly typed

    async def start(self) -> None:
        """Connect, and check the configuration of Redis. Raises OriginalsError if it could evict entries."""
        with map_store_errors(*_ERROR_TYPES):
            limits = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
            self._client = cast("Any", Redis).from_url(self._url, **limits)
            info = await self._execute("INFO", "everything")
            await self._execute("SET", _DELETION_VERSION_KEY, uuid.uuid4().hex, "NX")
        if info.get("maxmemory", 0) and info.get("maxmemory_policy") != "noeviction":
            policy = info.get("maxmemory_policy")
            raise OriginalsError(
                f"Redis may evict originals before they expire: set maxmemory-policy to noeviction, not {policy}"
            )
        if not info.get("aof_enabled"):
            log.warning("Redis has no append-only file: originals may be lost when it restarts")

    async def stop(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            with map_store_errors(*_ERROR_TYPES):
                await client.aclose()

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries in batches of `_BATCH_SIZE`; an entry that is stored already only gets a later expiry."""
        await self._write_entries(entries, [_EXPIRY_HEADER.pack(entry.expires) + entry.body for entry in entries])

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Extend the expiry of the entries that are stored, and return their keys."""
        results = await self._write_entries(entries, [_EXPIRY_HEADER.pack(entry.expires) for entry in entries])
        return {(entry.owner, entry.name) for entry, exists in zip(entries, results, strict=True) if exists}

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return the bodies of the owner's entries with these names, without expired ones."""
        with map_store_errors(*_ERROR_TYPES):
            values = await self._execute("MGET", *(_encode_key(owner, name) for name in names))
        entries = ((name, value) for name, value in zip(names, values, strict=True) if value is not None)
        return {name: value[_EXPIRY_HEADER.size :] for name, value in entries if _read_expiry(value) > now}

    async def read_deletion_version(self) -> object:
        """Return a random text that each `delete_all` replaces; it is missing or new after Redis lost its data."""
        with map_store_errors(*_ERROR_TYPES):
            # In its own task: `wait_for` of Python 3.11, used by redis-py, may swallow a cancellation.
            return await asyncio.shield(asyncio.ensure_future(self._execute("GET", _DELETION_VERSION_KEY)))

    async def read_used_bytes(self) -> int:
        """Return the total size of the values."""
        with map_store_errors(*_ERROR_TYPES):
            return int(await self._execute("GET", _INDEX_KEYS[2]) or 0)

    async def delete_expired(self, now: float) -> int:
        """Delete expired entries, the oldest first, and return their number."""
        total = 0
        with map_store_errors(*_ERROR_TYPES):
            while keys := await self._execute(
                "ZRANGEBYSCORE", _INDEX_KEYS[0], "-inf", repr(now), "LIMIT", 0, _BATCH_SIZE
            ):
                total += await self._delete_keys(keys, now)
        return total

    async def delete_all(self, owner: str | None) -> int:
        """Delete everything, or everything of one owner, and return the number of entries."""
        keys = [_encode_key(entry.owner, entry.name) for entry in await self.list_entries(owner, None, 2**53)]
        starts = range(0, len(keys), _BATCH_SIZE)
        with map_store_errors(*_ERROR_TYPES):
            deleted = sum([await self._delete_keys(keys[start : start + _BATCH_SIZE], math.inf) for start in starts])
            # Afterwards: a process that notices the new version stores its entries again, and they must stay.
            await self._execute("SET", _DELETION_VERSION_KEY, uuid.uuid4().hex)
        return deleted

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or one name if given, the latest expiry first."""
        entries: list[EntryInfo] = []
        start = 0
        with map_store_errors(*_ERROR_TYPES):
            while len(entries) < limit and (page := await self._read_page(start)):
                entries += [row for row in page if row.owner == (owner or row.owner) and row.name == (name or row.name)]
                start += _BATCH_SIZE
        return entries[:limit]

    async def _read_page(self, start: int) -> list[EntryInfo]:
        keys = cast("list[bytes]", await self._execute("ZREVRANGE", _INDEX_KEYS[0], start, start + _BATCH_SIZE - 1))
        if not keys:
            return []
        scores = await self._execute("ZMSCORE", _INDEX_KEYS[0], *keys)
        sizes = await self._execute("HMGET", _INDEX_KEYS[1], *keys)
        return [
            EntryInfo(*_decode_key(key), float(expires), int(size) - _EXPIRY_HEADER.size)
            for key, expires, size in zip(keys, scores, sizes, strict=True)
            if expires is not None and size is not None  # deleted in the meantime
        ]

    async def _write_entries(self, entries: Sequence[Entry], values: Sequence[bytes]) -> list[int]:
        results: list[int] = []
        for start in range(0, len(entries), _BATCH_SIZE):
            batch = entries[start : start + _BATCH_SIZE]
            pairs = zip(batch, values[start : start + _BATCH_SIZE], strict=True)
            arguments = [argument for entry, value in pairs for argument in (repr(entry.expires), value)]
            with map_store_errors(*_ERROR_TYPES):
                results += await self._run_script(
                    _WRITE_SCRIPT, [_encode_key(entry.owner, entry.name) for entry in batch], arguments
                )
        return results

    async def _delete_keys(self, keys: Sequence[bytes], until: float) -> int:
        return int(await self._run_script(_DELETE_SCRIPT, keys, [repr(until)]))

    async def _run_script(self, script: str, keys: Sequence[bytes], arguments: Sequence[str | bytes]) -> Any:
        # Sending the script costs less than EVALSHA, which may need a second round trip.
        return await self._execute("EVAL", script, len(_INDEX_KEYS) + len(keys), *_INDEX_KEYS, *keys, *arguments)

    async def _execute(self, *command: object) -> Any:
        if self._client is None:
            raise OriginalsError("the store of originals is not open")
        return await self._client.execute_command(*command)


def _encode_key(owner: str, name: str) -> bytes:
    return _HASH_TAG + f"{owner}\0{name}".encode()


def _decode_key(key: bytes) -> tuple[str, str]:
    owner, _, name = key.removeprefix(_HASH_TAG).decode().partition("\0")
    return owner, name


def _read_expiry(value: bytes) -> float:
    return float(_EXPIRY_HEADER.unpack_from(value)[0])
