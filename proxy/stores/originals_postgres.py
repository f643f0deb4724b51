"""Originals in a PostgreSQL database, shared by all replicas.

The invariant beside the store's own: `originals_size` says how many bytes the bodies take, in every transaction. Its
one row is locked last and for no longer than a commit takes; entries are locked in the order of their keys, and what
is being renewed is not waited for when wiping, so that replicas do not block one another in a circle.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from .originals_store import TIMEOUT_SECONDS, Entry, EntryInfo, EntryKey, OriginalsError, map_store_errors

_LOCK = "SELECT pg_advisory_xact_lock(7305808869231650145)"  # of two replicas that start at once one makes the tables
_TABLES = """
    CREATE TABLE IF NOT EXISTS originals (
        owner TEXT NOT NULL, name TEXT NOT NULL, expires DOUBLE PRECISION NOT NULL, body BYTEA NOT NULL,
        PRIMARY KEY (owner, name)
    );
    ALTER TABLE originals ALTER body SET STORAGE EXTERNAL;
    CREATE INDEX IF NOT EXISTS originals_expires ON originals (expires);
    CREATE TABLE IF NOT EXISTS originals_size (only_one SMALLINT PRIMARY KEY, bytes BIGINT NOT NULL);
    ALTER TABLE originals_size ADD COLUMN IF NOT EXISTS drops BIGINT NOT NULL DEFAULT 0;
    INSERT INTO originals_size VALUES (1, 0) ON CONFLICT DO NOTHING;
"""
_INSERT = """
    WITH added AS (
        INSERT INTO originals
        SELECT * FROM unnest($1::text[], $2::text[], $3::double precision[], $4::bytea[]) AS given(owner, name)
        ORDER BY owner, name
        ON CONFLICT (owner, name) DO UPDATE SET expires = greatest(originals.expires, excluded.expires)
        RETURNING CASE WHEN xmax = 0 THEN octet_length(body) ELSE 0 END AS bytes
    )
    UPDATE originals_size SET bytes = bytes + (SELECT coalesce(sum(added.bytes), 0) FROM added)
"""
_EXTEND_EXPIRY = """
    WITH mine AS (
        SELECT owner, name, given.expires AS later FROM originals
        JOIN unnest($1::text[], $2::text[], $3::double precision[]) AS given(owner, name, expires) USING (owner, name)
        ORDER BY owner, name FOR UPDATE OF originals
    )
    UPDATE originals SET expires = greatest(expires, later) FROM mine
    WHERE originals.owner = mine.owner AND originals.name = mine.name RETURNING originals.owner, originals.name
"""
_DELETE = """
    WITH gone AS (
        DELETE FROM originals WHERE (owner, name) IN (
            SELECT owner, name FROM originals WHERE expires <= $1 AND owner = coalesce($2, owner)
            ORDER BY expires LIMIT 10000 FOR UPDATE SKIP LOCKED
        ) RETURNING octet_length(body) AS bytes
    ), less AS (
        UPDATE originals_size SET bytes = bytes - (SELECT coalesce(sum(gone.bytes), 0) FROM gone)
    )
    SELECT count(*) FROM gone
"""
_LIST_ENTRIES = """
    SELECT owner, name, expires, octet_length(body) FROM originals
    WHERE owner = coalesce($1, owner) AND name = coalesce($2, name) ORDER BY expires DESC LIMIT $3
"""
_READ = "SELECT name, body FROM originals WHERE owner = $1 AND name = ANY($2::text[]) AND expires > $3"
_ERROR_TYPES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError)


class PostgresStore:
    """A store in the database at `url`, as libpq and asyncpg understand it."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("postgresql+asyncpg:", "postgresql:", 1)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def start(self) -> None:
        """Connect, and make the tables if they are not there."""
        with map_store_errors(*_ERROR_TYPES):
            self._pool = await asyncpg.create_pool(
                self._url, min_size=1, max_size=4, timeout=TIMEOUT_SECONDS, command_timeout=TIMEOUT_SECONDS
            )
        async with self._acquire_connection() as connection, connection.transaction():
            await connection.execute(_LOCK)
            await connection.execute(_TABLES)

    async def stop(self) -> None:
        """Let the connections go."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            with map_store_errors(*_ERROR_TYPES):
                await pool.close()

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries, all or none; what is there already only gets a later expiry."""
        async with self._acquire_connection() as connection:
            await connection.execute(_INSERT, *map(list, zip(*entries, strict=True)))

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Give later expiries to those of the entries that are there, and say which are."""
        given = [[entry[field] for entry in entries] for field in range(3)]
        async with self._acquire_connection() as connection:
            return {(row[0], row[1]) for row in await connection.fetch(_EXTEND_EXPIRY, *given)}

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return those bodies that the owner has under these names and that have not expired."""
        async with self._acquire_connection() as connection:
            return {row[0]: row[1] for row in await connection.fetch(_READ, owner, list(names), now)}

    async def read_deletion_version(self) -> int:
        """Return how often something was dropped."""
        async with self._acquire_connection() as connection:
            return int(await connection.fetchval("SELECT drops FROM originals_size"))

    async def read_used_bytes(self) -> int:
        """Return how many bytes the bodies take."""
        async with self._acquire_connection() as connection:
            return int(await connection.fetchval("SELECT bytes FROM originals_size"))

    async def delete_expired(self, now: float) -> int:
        """Delete what has expired, the oldest first, and say how many entries that were."""
        return await self._delete_entries(now, None)

    async def delete_all(self, owner: str | None) -> int:
        """Delete everything, or all that one owner has, and say how many entries that were."""
        gone = await self._delete_entries(float("inf"), owner)
        async with (
            self._acquire_connection() as connection
        ):  # afterwards: who hears of it stores anew, and that must stay
            await connection.execute("UPDATE originals_size SET drops = drops + 1")
        return gone

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or of one name if that is said, those first that are kept longest."""
        async with self._acquire_connection() as connection:
            return [EntryInfo(*row) for row in await connection.fetch(_LIST_ENTRIES, owner, name, limit)]

    async def _delete_entries(self, until: float, owner: str | None) -> int:
        total = 0
        async with self._acquire_connection() as connection:
            while gone := int(await connection.fetchval(_DELETE, until, owner)):
                total += gone
        return total

    @asynccontextmanager
    async def _acquire_connection(self) -> "AsyncGenerator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        if self._pool is None:
            raise OriginalsError("the store of originals is not open")
        with map_store_errors(*_ERROR_TYPES):
            async with self._pool.acquire(timeout=TIMEOUT_SECONDS) as connection:
                yield connection
