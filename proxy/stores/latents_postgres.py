"""Compressed documents in a PostgreSQL database, shared by all proxies with the same model.

The worker's thread waits for the database, and the driver is asynchronous: an event loop of the store's own runs while
a method does. PostgreSQL has no bound of its own, so that a writer deletes what expired and, above the capacity, the
oldest values.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from .latents import LIFETIME_SECONDS, TIMEOUT_SECONDS, LatentCache, Result

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

CLEANED_SHARE = 16  # after writing this part of the capacity, a proxy deletes what is too much
_CREATE = """
    SELECT pg_advisory_xact_lock(7305808869231650147);
    CREATE TABLE IF NOT EXISTS clara_latents (
        key TEXT PRIMARY KEY, stored DOUBLE PRECISION NOT NULL, expires DOUBLE PRECISION NOT NULL, body BYTEA NOT NULL
    );
    ALTER TABLE clara_latents ALTER body SET STORAGE EXTERNAL;
    CREATE INDEX IF NOT EXISTS clara_latents_by_age ON clara_latents (stored)
"""
_READ = "SELECT key, body FROM clara_latents WHERE key = ANY($1) AND expires > $2"
_WRITE = """
    INSERT INTO clara_latents (key, stored, expires, body)
    SELECT key, $3, $4, body FROM unnest($1::text[], $2::bytea[]) AS new (key, body)
    ON CONFLICT (key) DO UPDATE SET stored = excluded.stored, expires = excluded.expires, body = excluded.body
"""
_DELETE = """
    DELETE FROM clara_latents WHERE key IN (
        SELECT key FROM clara_latents WHERE key IN (
            SELECT key FROM (
                SELECT key, expires, sum(octet_length(body)) OVER (ORDER BY stored DESC, key) AS total
                FROM clara_latents
            ) AS sizes WHERE expires <= $1 OR total > $2
        ) FOR UPDATE SKIP LOCKED
    )
"""


class PostgresLatents(LatentCache):
    """Latents in the PostgreSQL database at `url`, of about `capacity` bytes and a sixteenth more for each proxy."""

    def __init__(self, url: str, capacity: int, clock: Callable[[], float] = time.time) -> None:
        super().__init__((asyncpg.PostgresError, asyncpg.InterfaceError))
        self._url = url.replace("postgresql+asyncpg:", "postgresql:", 1)
        self._capacity, self._clock = capacity, clock
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()  # of the loop and its connection
        self._connection: Connection | None = None
        self._added_bytes = capacity  # the first write deletes, too

    def close(self) -> None:
        """Close the connection; later calls find nothing."""
        with self._lock:
            if not self._loop.is_closed():
                self._loop.run_until_complete(self._disconnect())
                self._loop.close()

    def _read_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        async def read(connection: "Connection") -> dict[str, bytes]:
            rows = await connection.fetch(_READ, list(keys), self._clock())
            return {row["key"]: row["body"] for row in rows}

        return self._run(read)

    def _write_batch(self, values: Mapping[str, bytes]) -> bool:
        async def write(connection: "Connection") -> bool:
            now = self._clock()
            await connection.execute(_WRITE, list(values), list(values.values()), now, now + LIFETIME_SECONDS)
            self._added_bytes += sum(map(len, values.values()))
            if self._added_bytes > self._capacity // CLEANED_SHARE:
                await connection.execute(_DELETE, now, self._capacity)
                self._added_bytes = 0
            return True

        return self._run(write)

    def _run(self, operation: "Callable[[Connection], Awaitable[Result]]") -> Result:
        """Run an operation with the connection; after an error the next one connects again."""

        async def run() -> Result:
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await self._connect()
                    return await operation(self._connection)
            except BaseException:
                await self._disconnect()
                raise

        with self._lock:
            if self._loop.is_closed():
                raise ConnectionError("the store is closed")
            return self._loop.run_until_complete(run())

    async def _connect(self) -> "Connection":
        connect: Any = asyncpg.connect
        connection: Connection = await connect(self._url, timeout=TIMEOUT_SECONDS)
        async with connection.transaction():
            await connection.execute(_CREATE)
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
            await asyncio.sleep(0)  # the loop closes the socket
