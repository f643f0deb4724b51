"""The proxy's own keys: who may use it, for which project, until when, and how much a day.

They lie in the ledger's database, so that replicas share them. Of a key only the hash is kept: it is 24 random bytes,
which nobody finds by trying, so that one round of SHA-256 is enough (slow hashes are for what people think up). Who
may do what is not decided here (`gate` does). The invariant: no two keys that are not revoked have the same name,
because that is what rows of the ledger call them.
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
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .ledger import select_dialect
from .ledger_dialect import Dialect

KEY_PREFIX = "sk-clara-"
_ID_LENGTH = 8  # characters after the prefix that are no secret: they say which key it is
_SECRET_LENGTH = 48  # characters after those
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

# Append-only, as the ledger's: a step that has been released is never changed. Each runs once, in order.
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
)


class KeyStoreError(Exception):
    """The keys cannot be read or written now; the message names no address, as there may be a password in it."""


class ApiKey(NamedTuple):
    """One key; the fields are its columns. Times are Unix seconds, days are UTC; None is no limit.

    `hash` is that of the whole key, in hexadecimal; `project` is the default project of its rows.
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
        """Say whether what it uses of a day is limited."""
        return self.tokens_per_day is not None or self.dollars_per_day is not None


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
    """Return the hash that is kept of a key."""
    return sha256(key.encode("utf-8", "replace")).hexdigest()


def parse_key_id(key: str) -> str:
    """Return the part of a key that says which one it is."""
    return key[len(KEY_PREFIX) : len(KEY_PREFIX) + _ID_LENGTH]


def create_key(name: str, *, project: str = "", admin: bool = False, created: float) -> tuple[str, ApiKey]:
    """Make a key: what its holder is told, this once, and what is kept of it; limits are for the caller to add.

    Raises:
        ValueError: the name is not one that labels, tables and metrics can bear.
    """
    if not _NAME_PATTERN.fullmatch(name):
        raise ValueError("a key's name has 1 to 64 letters, digits, '.', '_', '@' or '-', and begins with no sign")
    key = KEY_PREFIX + secrets.token_hex((_ID_LENGTH + _SECRET_LENGTH) // 2)
    return key, ApiKey(parse_key_id(key), name, hash_key(key), project, admin, created)


class KeyStore:
    """The table of keys in an open database. Every method raises the database's errors (`trouble` of its dialect)."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect

    async def start(self) -> None:
        """Make the table, or bring it up to date. Raises ValueError for one of a later version."""
        async with self._engine.begin() as connection:
            await self._dialect.lock(connection)
            await _migrate(connection)

    async def add(self, key: ApiKey) -> None:
        """Keep a key. Raises ValueError when there is one of its name."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(_TABLE).values(key._asdict()))
                await _increment_version(connection)
        except IntegrityError:
            raise ValueError(f"there is a key {key.name} already; revoke it first") from None

    async def revoke(self, which: str, now: float) -> int:
        """Revoke the key of this name or id; return how many were."""
        of = or_(_TABLE.c.name == which, _TABLE.c.id == which) & _TABLE.c.revoked.is_(None)
        async with self._engine.begin() as connection:
            done = await connection.execute(update(_TABLE).where(of).values(revoked=now))
            await _increment_version(connection)
            return done.rowcount

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, the oldest first, revoked ones too."""
        async with self._engine.connect() as connection:
            found = await connection.execute(select(_TABLE).order_by(_TABLE.c.created, _TABLE.c.id))
            return [ApiKey(*row) for row in found]

    async def read_version(self) -> int:
        """Return a number that is another one after every change; reading it is cheap."""
        async with self._engine.connect() as connection:
            return int((await connection.execute(text("SELECT changes FROM proxy_keys_version"))).scalar_one())


@asynccontextmanager
async def open_key_store(url: str) -> AsyncGenerator[KeyStore]:
    """Open the keys in the ledger's database at this URL, and close it after the block.

    Raises:
        KeysError: the database cannot be used, now or in the block.
        ValueError: it is one that the ledger cannot be kept in, or that a later version made.
    """
    dialect = select_dialect(url)
    trouble: tuple[type[Exception], ...] = (*dialect.error_types, sqlite3.Error)  # the latter while a file is made
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
    except trouble as error:
        raise KeyStoreError(
            f"the ledger's database, where the keys are, cannot be used: {type(error).__name__}"
        ) from error


async def _migrate(connection: AsyncConnection) -> None:
    run = connection.exec_driver_sql
    await run(
        "CREATE TABLE IF NOT EXISTS proxy_keys_version "
        "(only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL, changes BIGINT NOT NULL)"
    )
    # Writing first takes SQLite's lock, so that of two processes that start at once the second finds the work done.
    await run("INSERT INTO proxy_keys_version VALUES (1, 0, 0) ON CONFLICT DO NOTHING")
    step = int((await run("SELECT step FROM proxy_keys_version")).scalar_one())
    if step > len(MIGRATIONS):
        raise ValueError(f"the keys are at step {step}, this version knows {len(MIGRATIONS)}: a later one made them")
    for statement in MIGRATIONS[step:]:
        await run(statement)
    await run(f"UPDATE proxy_keys_version SET step = {len(MIGRATIONS)}")  # noqa: S608 - a number of ours


async def _increment_version(connection: AsyncConnection) -> None:
    await connection.execute(text("UPDATE proxy_keys_version SET changes = changes + 1"))
