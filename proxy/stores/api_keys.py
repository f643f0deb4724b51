"""The API keys of the proxy: their project, expiry and limits, in the database of the ledger.

Only the hash of a key is stored. One round of SHA-256 is enough, because the secret part is 24 random bytes; slow
hashes protect passwords. `access` decides what a key may do. The invariant: no two keys that are not revoked have the
same name, because the ledger's rows refer to keys by name.
"""

import re
import secrets
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import BigInteger, Boolean, Column, Double, MetaData, Table, Text, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from .async_engine import AsyncConnection, AsyncEngine
from .errors import describe
from .ledger import select_dialect
from .ledger_dialect import Dialect

KEY_PREFIX = "sk-clara-"
_ID_LENGTH = 8  # characters after the prefix; they identify the key and are not secret
_SECRET_LENGTH = 48  # characters after the id
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

# Append-only: never change a released migration. Each runs once, in order.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE proxy_keys (
        "id" TEXT NOT NULL PRIMARY KEY, "name" TEXT NOT NULL, "hash" TEXT NOT NULL, "project" TEXT NOT NULL,
        "admin" BOOLEAN NOT NULL, "created" DOUBLE PRECISION NOT NULL, "expires" DOUBLE PRECISION,
        "revoked" DOUBLE PRECISION, "tokens_per_day" BIGINT, "dollars_per_day" DOUBLE PRECISION,
        "requests_per_minute" BIGINT
    )
    """,
    'CREATE UNIQUE INDEX proxy_keys_name ON proxy_keys ("name") WHERE "revoked" IS NULL',
    """
    CREATE TABLE proxy_key_usage (
        "name" TEXT NOT NULL PRIMARY KEY, "at" DOUBLE PRECISION NOT NULL, "day" BIGINT NOT NULL,
        "tokens" BIGINT NOT NULL, "dollars" DOUBLE PRECISION NOT NULL
    )
    """,
    """
    CREATE TABLE proxy_key_leases (
        "name" TEXT NOT NULL, "holder" TEXT NOT NULL, "day" BIGINT NOT NULL, "tokens" BIGINT NOT NULL,
        "dollars" DOUBLE PRECISION NOT NULL, "starts" BIGINT NOT NULL, PRIMARY KEY ("name", "holder")
    )
    """,
    'CREATE TABLE proxy_key_holders ("holder" TEXT NOT NULL PRIMARY KEY, "beat" BIGINT NOT NULL)',
)


class KeyStoreError(Exception):
    """The keys cannot be read or written; the message contains no address, which may contain a password."""


class ApiKey(NamedTuple):
    """One key; the fields are its columns. Times are Unix seconds, days are UTC, None means no limit.

    `hash` is the SHA-256 of the whole key, in hexadecimal; `project` is the default project of its requests.
    """

    id: str
    name: str
    hash: str
    project: str
    admin: bool
    created: float
    expires: float | None = None
    revoked: float | None = None
    tokens_per_day: int | None = None
    dollars_per_day: float | None = None
    requests_per_minute: int | None = None

    @property
    def has_budget(self) -> bool:
        """True if tokens or dollars per day are limited."""
        return self.tokens_per_day is not None or self.dollars_per_day is not None

    @property
    def has_limits(self) -> bool:
        """True if the key has a budget or a limit of requests per minute."""
        return self.has_budget or self.requests_per_minute is not None


_TABLE = Table(
    "proxy_keys",
    MetaData(),
    *(Column(name, Text) for name in ("id", "name", "hash", "project")),
    Column("admin", Boolean),
    *(Column(name, Double) for name in ("created", "expires", "revoked")),
    Column("tokens_per_day", BigInteger),
    Column("dollars_per_day", Double),
    Column("requests_per_minute", BigInteger),
)


def hash_key(key: str) -> str:
    """Return the hash that is stored for a key."""
    return sha256(key.encode("utf-8", "replace")).hexdigest()


def parse_key_id(key: str) -> str:
    """Return the id within a key."""
    return key[len(KEY_PREFIX) : len(KEY_PREFIX) + _ID_LENGTH]


def create_key(name: str, *, project: str = "", admin: bool = False, created: float) -> tuple[str, ApiKey]:
    """Return a new secret key, and its entry for the store without limits.

    Raises:
        ValueError: the name contains characters that are not allowed.
    """
    if not _NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"invalid key name {name[:80]!r}: use 1 to 64 letters, digits, '.', '_', '@' or '-', and begin with a"
            " letter or digit"
        )
    key = KEY_PREFIX + secrets.token_hex((_ID_LENGTH + _SECRET_LENGTH) // 2)
    return key, ApiKey(parse_key_id(key), name, hash_key(key), project, admin, created)


class KeyStore:
    """The table of keys in an open database. Every method raises `error_types` of the dialect."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect

    async def start(self) -> None:
        """Create or migrate the table. Raises ValueError if a later version created it."""
        async with self._engine.begin() as connection:
            await self._dialect.lock(connection)
            await _migrate(connection)

    async def add(self, key: ApiKey) -> None:
        """Store a key. Raises ValueError if its name is in use."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(_TABLE).values(key._asdict()))
                await _increment_version(connection)
        except IntegrityError:
            raise ValueError(f"the key {key.name} already exists; revoke it first") from None

    async def revoke(self, name_or_id: str, now: float) -> int:
        """Revoke the key with this name or id; return how many were revoked."""
        is_match = or_(_TABLE.c.name == name_or_id, _TABLE.c.id == name_or_id) & _TABLE.c.revoked.is_(None)
        async with self._engine.begin() as connection:
            result = await connection.execute(update(_TABLE).where(is_match).values(revoked=now))
            await _increment_version(connection)
            return result.rowcount

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, including revoked ones, the oldest first."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_TABLE).order_by(_TABLE.c.created, _TABLE.c.id))
            return [ApiKey(*row) for row in rows]

    async def read_version(self) -> int:
        """Return a number that increases with every change."""
        async with self._engine.connect() as connection:
            return int((await connection.execute(text("SELECT changes FROM proxy_keys_version"))).scalar_one())


@asynccontextmanager
async def open_key_store(url: str) -> AsyncGenerator[KeyStore]:
    """Open the keys in the ledger's database at this URL, and close it after the block.

    Raises:
        KeyStoreError: the database cannot be used.
        ValueError: the database is not supported, or a later version created it.
    """
    dialect = select_dialect(url)
    error_types: tuple[type[Exception], ...] = (*dialect.error_types, sqlite3.Error)  # raised when a file is created
    try:
        engine = await dialect.open()
        try:
            keys = KeyStore(engine, dialect)
            await keys.start()
            yield keys
        finally:
            await engine.dispose()
    except ValueError:
        raise
    except error_types as error:
        raise KeyStoreError(
            f"the ledger's database, which stores the keys, cannot be used: {describe(error)}"
        ) from error


async def _migrate(connection: AsyncConnection) -> None:
    run = connection.exec_driver_sql
    await run(
        "CREATE TABLE IF NOT EXISTS proxy_keys_version "
        "(only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL, changes BIGINT NOT NULL)"
    )
    # Writing first takes SQLite's lock: of two processes that start at once the second finds the migrations done.
    await run("INSERT INTO proxy_keys_version VALUES (1, 0, 0) ON CONFLICT DO NOTHING")
    step = int((await run("SELECT step FROM proxy_keys_version")).scalar_one())
    if step > len(MIGRATIONS):
        raise ValueError(
            f"the keys have schema version {step}, but this version of clara-proxy supports {len(MIGRATIONS)}:"
            " a later version created them; upgrade clara-proxy"
        )
    for statement in MIGRATIONS[step:]:
        await run(statement)
    await run(f"UPDATE proxy_keys_version SET step = {len(MIGRATIONS)}")  # noqa: S608


async def _increment_version(connection: AsyncConnection) -> None:
    await connection.execute(text("UPDATE proxy_keys_version SET changes = changes + 1"))
