"""Originals in Redis, shared by all replicas.

Each entry is one key that Redis itself lets go of when it expires; its value is the expiry (a big-endian double) and
the body. Beside them an index by expiry, the sizes and their sum, which scripts keep in step. All keys share one hash
tag, so that a cluster has them in one place. Redis must not evict what was promised: a policy that would is refused.
Whether entries outlive a restart of Redis is up to its persistence.
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
_BATCH_SIZE = 1_000  # entries that one script handles: Redis does nothing else meanwhile

# KEYS: the books, then the entries' keys. ARGV: for each its expiry and its value: of the head alone, renew only.
_WRITE_SCRIPT = """
    local there = {}
    for i = 4, #KEYS do
        local key, expires, value = KEYS[i], ARGV[2 * i - 7], ARGV[2 * i - 6]
        local head = redis.call('GETRANGE', key, 0, 7)
        there[i - 3] = #head == 8 and 1 or 0
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
    return there
"""
# KEYS: the books, then the entries' keys. ARGV: what expires later than this stays.
_DELETE_SCRIPT = """
    local gone = 0
    for i = 4, #KEYS do
        local score = redis.call('ZSCORE', KEYS[1], KEYS[i])
        if score and tonumber(score) <= tonumber(ARGV[1]) then
            redis.call('UNLINK', KEYS[i])
            redis.call('ZREM', KEYS[1], KEYS[i])
            redis.call('DECRBY', KEYS[3], redis.call('HGET', KEYS[2], KEYS[i]))
            redis.call('HDEL', KEYS[2], KEYS[i])
            gone = gone + 1
        end
    end
    return gone
"""
_ERROR_TYPES = (RedisError, OSError, TimeoutError, ValueError)
log = logging.getLogger(__name__)


class RedisStore:
    """A store in the Redis at `url` (`redis://`, `rediss://` or `unix://`)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None  # redis-py says little of its types

    async def start(self) -> None:
        """Connect, and see that Redis keeps what it is given. Raises OriginalsError where it would evict it."""
        with map_store_errors(*_ERROR_TYPES):
            limits = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
            self._client = cast("Any", Redis).from_url(self._url, **limits)
            said = await self._execute("INFO", "everything")
            await self._execute("SET", _DELETION_VERSION_KEY, uuid.uuid4().hex, "NX")
        if said.get("maxmemory", 0) and said.get("maxmemory_policy") != "noeviction":
            policy = said.get("maxmemory_policy")
            raise OriginalsError(f"this Redis evicts what was promised: set maxmemory-policy noeviction, not {policy}")
        if not said.get("aof_enabled"):
            log.warning("this Redis keeps no append-only file: when it restarts, originals may be gone")

    async def stop(self) -> None:
        """Let the connections go."""
        if self._client is not None:
            client, self._client = self._client, None
            with map_store_errors(*_ERROR_TYPES):
                await client.aclose()

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries, `_BATCH_SIZE` at once; what is there already only gets a later expiry."""
        await self._write_entries(entries, [_EXPIRY_HEADER.pack(entry.expires) + entry.body for entry in entries])

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Give later expiries to those of the entries that are there, and say which are."""
        there = await self._write_entries(entries, [_EXPIRY_HEADER.pack(entry.expires) for entry in entries])
        return {(entry.owner, entry.name) for entry, found in zip(entries, there, strict=True) if found}

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return those bodies that the owner has under these names and that have not expired."""
        with map_store_errors(*_ERROR_TYPES):
            found = await self._execute("MGET", *(_encode_key(owner, name) for name in names))
        values = ((name, value) for name, value in zip(names, found, strict=True) if value is not None)
        return {name: value[_EXPIRY_HEADER.size :] for name, value in values if _read_expiry(value) > now}

    async def read_deletion_version(self) -> object:
        """Return the name of the time since the last drop; there is another, or none, where Redis forgot everything."""
        with map_store_errors(*_ERROR_TYPES):
            # In a task of its own: Python 3.11's `wait_for`, which redis-py uses, may swallow that the client has left.
            return await asyncio.shield(asyncio.ensure_future(self._execute("GET", _DELETION_VERSION_KEY)))

    async def read_used_bytes(self) -> int:
        """Return how many bytes the values take."""
        with map_store_errors(*_ERROR_TYPES):
            return int(await self._execute("GET", _INDEX_KEYS[2]) or 0)

    async def delete_expired(self, now: float) -> int:
        """Delete what has expired, the oldest first, and say how many entries that were."""
        total = 0
        with map_store_errors(*_ERROR_TYPES):
            while keys := await self._execute(
                "ZRANGEBYSCORE", _INDEX_KEYS[0], "-inf", repr(now), "LIMIT", 0, _BATCH_SIZE
            ):
                total += await self._delete_keys(keys, now)
        return total

    async def delete_all(self, owner: str | None) -> int:
        """Delete everything, or all that one owner has, and say how many entries that were."""
        keys = [_encode_key(entry.owner, entry.name) for entry in await self.list_entries(owner, None, 2**53)]
        starts = range(0, len(keys), _BATCH_SIZE)
        with map_store_errors(*_ERROR_TYPES):
            gone = sum([await self._delete_keys(keys[start : start + _BATCH_SIZE], math.inf) for start in starts])
            await self._execute(
                "SET", _DELETION_VERSION_KEY, uuid.uuid4().hex
            )  # now: who hears of it stores anew, and that must stay
        return gone

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or of one name if that is said, those first that are kept longest."""
        found: list[EntryInfo] = []
        start = 0
        with map_store_errors(*_ERROR_TYPES):
            while len(found) < limit and (rows := await self._read_page(start)):
                found += [row for row in rows if row.owner == (owner or row.owner) and row.name == (name or row.name)]
                start += _BATCH_SIZE
        return found[:limit]

    async def _read_page(self, start: int) -> list[EntryInfo]:
        keys = cast("list[bytes]", await self._execute("ZREVRANGE", _INDEX_KEYS[0], start, start + _BATCH_SIZE - 1))
        if not keys:
            return []
        scores = await self._execute("ZMSCORE", _INDEX_KEYS[0], *keys)
        sizes = await self._execute("HMGET", _INDEX_KEYS[1], *keys)
        return [
            EntryInfo(*_decode_key(key), float(expires), int(size) - _EXPIRY_HEADER.size)
            for key, expires, size in zip(keys, scores, sizes, strict=True)
            if expires is not None and size is not None  # it may have gone since
        ]

    async def _write_entries(self, entries: Sequence[Entry], values: Sequence[bytes]) -> list[int]:
        there: list[int] = []
        for start in range(0, len(entries), _BATCH_SIZE):
            some = entries[start : start + _BATCH_SIZE]
            pairs = zip(some, values[start : start + _BATCH_SIZE], strict=True)
            given = [said for entry, value in pairs for said in (repr(entry.expires), value)]
            with map_store_errors(*_ERROR_TYPES):
                there += await self._run_script(
                    _WRITE_SCRIPT, [_encode_key(entry.owner, entry.name) for entry in some], given
                )
        return there

    async def _delete_keys(self, keys: Sequence[bytes], until: float) -> int:
        return int(await self._run_script(_DELETE_SCRIPT, keys, [repr(until)]))

    async def _run_script(self, script: str, keys: Sequence[bytes], given: Sequence[str | bytes]) -> Any:
        # Redis knows a script that it has run before by its text: sending a thousand bytes costs less than to find out.
        return await self._execute("EVAL", script, len(_INDEX_KEYS) + len(keys), *_INDEX_KEYS, *keys, *given)

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
