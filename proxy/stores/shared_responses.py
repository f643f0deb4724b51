"""Stored answers of the response cache that replicas share: in PostgreSQL or Redis.

Both behave as `cached_responses.ResponseStore`. In Redis, the server's own memory limit applies, so it should evict.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Column, Double, Index, LargeBinary, MetaData, Table, Text, delete, func, select

from ...config.extras import describe_install
from .async_engine import AsyncEngine
from .cached_responses import DELETED_SHARE, CachedResponse, ResponseStorage, ResponseStore
from .encryption import Encryption
from .ledger import select_dialect
from .originals_store import TIMEOUT_SECONDS, OriginalsError, map_store_errors

REDIS_SCHEMES = ("redis:", "rediss:", "unix:")
MAX_BUCKET_QUESTIONS = 10_000
_KEY_PREFIX = "{clara-responses}"  # a hash tag, so that a cluster keeps everything on one node
_HEADER = struct.Struct(">dd")  # when a value was stored, and when it expires
RESPONSES = Table(
    "cached_responses",
    MetaData(),
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("bucket", Text, nullable=False),
    Column("stored", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("question", LargeBinary),
    Column("body", LargeBinary, nullable=False),
)
Index("cached_responses_by_bucket", RESPONSES.c.owner, RESPONSES.c.bucket, RESPONSES.c.stored)
Index("cached_responses_by_expiry", RESPONSES.c.expires)
log = logging.getLogger(__name__)


def create_response_store(
    url: str | None,
    file: Path,
    capacity: int,
    encryption_keys: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
) -> ResponseStorage:
    """Return the store at a URL (`sqlite:`, `postgresql:` or `redis:`), or without one in a file.

    Raises:
        OriginalsError: the package for Redis or for encryption is not installed.
        ValueError: the database is not supported, or its driver is not installed.
    """
    if url is None:
        return ResponseStore(file, capacity, encryption_keys, clock)
    if url.startswith(REDIS_SCHEMES):
        return RedisResponseStore(url, encryption_keys, clock)
    if url.startswith("sqlite:"):
        return ResponseStore(Path(url.removeprefix("sqlite:///")), capacity, encryption_keys, clock)
    return PostgresResponseStore(url, capacity, encryption_keys, clock)


class PostgresResponseStore:
    """The answers in a PostgreSQL database, of about `capacity` bytes and an eighth more for each replica."""

    def __init__(self, url: str, capacity: int, encryption_keys: Sequence[str], clock: Callable[[], float]) -> None:
        self._dialect, self._capacity, self._clock = select_dialect(url), capacity, clock
        self._encryption = Encryption(encryption_keys)
        self._engine: AsyncEngine | None = None
        self._added_bytes = 0  # since the last deletion

    async def start(self) -> None:
        """Connect, and create the table."""
        with map_store_errors(*self._dialect.error_types):
            self._engine = await self._dialect.open()
            async with self._engine.begin() as connection:
                await self._dialect.lock(connection)
                await connection.run_sync(RESPONSES.metadata.create_all)

    async def stop(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            await self._engine.dispose()

    async def read(self, owner: str, name: str, max_age: float) -> bytes | None:
        """Return the owner's answer of at most this age in seconds, or None."""
        query = select(RESPONSES.c.body).where(RESPONSES.c.name == name, *self._build_condition(owner, max_age))
        rows = await self._execute(query)
        return self._encryption.unpack(owner, name, rows[0].body) if rows else None

    async def list_questions(self, owner: str, bucket: str, max_age: float, limit: int) -> dict[str, str]:
        """Return the owner's newest questions in a bucket, by the names of their answers."""
        query = select(RESPONSES.c.name, RESPONSES.c.question).where(
            RESPONSES.c.bucket == bucket, RESPONSES.c.bucket != "", *self._build_condition(owner, max_age)
        )
        rows = await self._execute(query.order_by(RESPONSES.c.stored.desc()).limit(limit))
        return {row.name: self._encryption.unpack(owner, row.name, row.question).decode() for row in rows}

    async def insert(self, response: CachedResponse) -> None:
        """Store or replace an answer. One that is too large for the store is ignored."""
        owner, name = response.owner, response.name
        values = response._asdict() | {"stored": self._clock(), "question": None}
        values["body"] = self._encryption.pack(owner, name, response.body)
        if response.bucket:
            values["question"] = self._encryption.pack(owner, name, response.question.encode())
        size = len(values["body"])
        if size > self._capacity // DELETED_SHARE:
            return
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - SQLite does without it

        statement = postgresql.insert(RESPONSES).values(values)
        await self._execute(statement.on_conflict_do_update(constraint=RESPONSES.primary_key, set_=values))
        self._added_bytes += size
        if self._added_bytes > self._capacity // DELETED_SHARE:
            await self.delete_expired()

    async def delete_expired(self) -> None:
        """Delete expired answers and, as long as the store is too large, the oldest ones."""
        self._added_bytes = 0
        await self._execute(delete(RESPONSES).where(RESPONSES.c.expires <= self._clock()))
        newest_first = RESPONSES.c.stored.desc()
        total = func.sum(func.octet_length(RESPONSES.c.body)).over(order_by=newest_first)
        sizes = select(RESPONSES.c.stored, total.label("total")).subquery()
        oldest = select(func.max(sizes.c.stored)).where(sizes.c.total > self._capacity).scalar_subquery()
        await self._execute(delete(RESPONSES).where(RESPONSES.c.stored <= oldest))

    def _build_condition(self, owner: str, max_age: float) -> tuple[Any, ...]:
        now = self._clock()
        return RESPONSES.c.owner == owner, RESPONSES.c.expires > now, RESPONSES.c.stored >= now - max_age

    async def _execute(self, statement: Any) -> Sequence[Any]:
        if self._engine is None:
            raise OriginalsError("the response cache is not open")
        with map_store_errors(*self._dialect.error_types):
            async with asyncio.timeout(TIMEOUT_SECONDS), self._engine.begin() as connection:
                result = await connection.execute(statement)
                return result.all() if result.returns_rows else ()


class RedisResponseStore:
    """The answers in a Redis at `url`; each is a key that Redis deletes when it expires, or evicts earlier."""

    def __init__(self, url: str, encryption_keys: Sequence[str], clock: Callable[[], float]) -> None:
        try:
            from redis.asyncio import Redis  # noqa: PLC0415 - an extra
            from redis.exceptions import RedisError  # noqa: PLC0415
        except ImportError as error:
            raise OriginalsError(f"Redis needs the extra: {describe_install('redis')}") from error
        self._error_types = (RedisError, OSError, TimeoutError, ValueError)
        limits = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        self._client: Any = cast("Any", Redis).from_url(url, **limits)  # redis-py is hardly typed
        self._encryption, self._clock = Encryption(encryption_keys), clock

    async def start(self) -> None:
        """Connect, and warn if this Redis refuses to write when it is full."""
        info = await self._execute("INFO", "memory")
        if info.get("maxmemory_policy") == "noeviction":
            log.warning("Redis does not evict: a full response cache makes it refuse writes")

    async def stop(self) -> None:
        """Close the connections."""
        with map_store_errors(*self._error_types):
            await self._client.aclose()

    async def read(self, owner: str, name: str, max_age: float) -> bytes | None:
        """Return the owner's answer of at most this age in seconds, or None."""
        return self._unpack(owner, name, await self._execute("GET", _build_key("answer", owner, name)), max_age)

    async def list_questions(self, owner: str, bucket: str, max_age: float, limit: int) -> dict[str, str]:
        """Return the owner's newest questions in a bucket, by the names of their answers."""
        if not bucket:
            return {}
        key, oldest = _build_key("bucket", owner, bucket), self._clock() - max_age
        names = [
            name.decode() for name in await self._execute("ZREVRANGEBYSCORE", key, "+inf", oldest, "LIMIT", 0, limit)
        ]
        if not names:
            return {}
        values = await self._execute("MGET", *(_build_key("question", owner, name) for name in names))
        unpacked = [self._unpack(owner, name, value, max_age) for name, value in zip(names, values, strict=True)]
        return {name: question.decode() for name, question in zip(names, unpacked, strict=True) if question is not None}

    async def insert(self, response: CachedResponse) -> None:
        """Store or replace an answer."""
        owner, name, now = response.owner, response.name, self._clock()
        header = _HEADER.pack(now, response.expires)
        body = header + self._encryption.pack(owner, name, response.body)
        milliseconds = max(1, round(1000 * (response.expires - now)))
        with map_store_errors(*self._error_types):
            async with self._client.pipeline(transaction=True) as commands:
                commands.set(_build_key("answer", owner, name), body, px=milliseconds)
                if response.bucket:
                    question = header + self._encryption.pack(owner, name, response.question.encode())
                    bucket = _build_key("bucket", owner, response.bucket)
                    commands.set(_build_key("question", owner, name), question, px=milliseconds)
                    commands.zadd(bucket, {name: now})
                    commands.zremrangebyrank(bucket, 0, -MAX_BUCKET_QUESTIONS - 1)
                    commands.pexpire(bucket, milliseconds)
                await commands.execute()

    async def delete_expired(self) -> None:
        """Do nothing: Redis deletes expired keys itself."""

    def _unpack(self, owner: str, name: str, value: bytes | None, max_age: float) -> bytes | None:
        if value is None:
            return None
        now, (stored, expires) = self._clock(), _HEADER.unpack_from(value)
        if expires <= now or stored < now - max_age:
            return None
        return self._encryption.unpack(owner, name, value[_HEADER.size :])

    async def _execute(self, *command: object) -> Any:
        with map_store_errors(*self._error_types):
            return await self._client.execute_command(*command)


def _build_key(kind: str, owner: str, name: str) -> str:
    return f"{_KEY_PREFIX}/{kind}/{owner}/{name}"
