"""Originals in SQL: one description of the table and its statements for SQLite and PostgreSQL, and the latter's store.

SQLAlchemy compiles each statement once per database; the drivers run the compiled text, because requests wait for it.
What differs between the databases is in the two subclasses of `SqlStore`. PostgreSQL is shared by all replicas.
The invariant: `originals_size` contains the total size of the bodies in every transaction. Its only row is locked last.
Entries are locked in the order of their keys, and deletion skips locked entries, so that replicas cannot deadlock.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    Double,
    FromClause,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    case,
    column,
    delete,
    func,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import ClauseElement

from .originals_store import TIMEOUT_SECONDS, Entry, EntryInfo, EntryKey, OriginalsError, Store, map_store_errors

if TYPE_CHECKING:
    import asyncpg

TABLE = Table(
    "originals",
    MetaData(),
    Column("owner", Text, primary_key=True, nullable=False),
    Column("name", Text, primary_key=True, nullable=False),
    Column("expires", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
EXPIRY_INDEX = Index("originals_expires", TABLE.c.expires)
SIZE_TABLE = Table(
    "originals_size",
    MetaData(),
    Column("only_one", BigInteger, primary_key=True, autoincrement=False),
    Column("bytes", BigInteger, nullable=False),
    Column("drops", BigInteger, nullable=False, server_default="0"),  # how often entries were wiped; added later
)
_ENTRY_COLUMNS, EXPIRY_COLUMNS = Entry._fields, Entry._fields[:3]
DELETE_BATCH = 1_000  # entries deleted in one transaction


class Statement(NamedTuple):
    """A compiled statement, the names of its parameters in order, and the values of its constants."""

    sql: str
    parameters: tuple[str, ...] = ()
    constants: Mapping[str, object] = {}

    def bind(self, values: Mapping[str, object]) -> tuple[object, ...]:
        """Return the values in order."""
        return tuple([values[name] if name in values else self.constants[name] for name in self.parameters])


class SqlStore(Store, ABC):
    """The base of the SQLite and PostgreSQL stores: their statements and their common operations."""

    _used_bytes: Statement
    _greatest: Callable[..., ColumnElement[Any]]  # the SQL function
    _byte_length: Callable[..., ColumnElement[Any]]  # the SQL function

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        owner, name = TABLE.c.owner, TABLE.c.name
        tables = (CreateTable(TABLE, if_not_exists=True), CreateIndex(EXPIRY_INDEX, if_not_exists=True))
        self._create = [self._compile(table).sql for table in tables]
        read = select(name, TABLE.c.body).where(owner == bindparam("owner"), TABLE.c.expires > bindparam("now"))
        self._read = self._compile(read.where(self._filter_names()))
        owner_filter = owner == func.coalesce(bindparam("owner", type_=Text), owner)
        name_filter = name == func.coalesce(bindparam("name", type_=Text), name)
        query = select(owner, name, TABLE.c.expires, self._byte_length(TABLE.c.body)).where(owner_filter, name_filter)
        self._list = self._compile(query.order_by(TABLE.c.expires.desc()).limit(bindparam("limit", type_=BigInteger)))
        expired = select(owner, name).where(TABLE.c.expires <= bindparam("until"), owner_filter)
        expired = expired.order_by(TABLE.c.expires).limit(literal_column(str(DELETE_BATCH)))
        deletion = delete(TABLE).where(tuple_(owner, name).in_(expired.with_for_update(skip_locked=True)))
        returned = self._byte_length(TABLE.c.body).label("bytes")
        self._delete = self._compile(self._track_deletions(deletion.returning(returned)))
        self._extend = self._compile(self._build_extension())

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Extend the expiry of the entries that are stored, and return their keys."""
        rows = await self._fetch(self._extend, self._encode_expiries(entries))
        return {(row[0], row[1]) for row in rows}

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return the bodies of the owner's entries with these names, without expired ones."""
        rows = await self._fetch(self._read, {"owner": owner, "now": now, "names": self._encode_names(names)})
        return {row[0]: row[1] for row in rows}

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or one name if given, the latest expiry first."""
        rows = await self._fetch(self._list, {"owner": owner, "name": name, "limit": limit})
        return [EntryInfo(*row) for row in rows]

    async def read_used_bytes(self) -> int:
        """Return how many bytes are used: in SQLite by pages (without the log), in PostgreSQL by bodies."""
        return int((await self._fetch(self._used_bytes, {}))[0][0])

    async def delete_expired(self, now: float) -> int:
        """Delete expired entries, the oldest first, and return their number."""
        return await self._delete_entries(now, None)

    async def delete_all(self, owner: str | None) -> int:
        """Delete everything, or everything of one owner, and return the number of entries."""
        deleted = await self._delete_entries(float("inf"), owner)
        # Afterwards: a process that notices the new version stores its entries again, and they must stay.
        await self._increment_deletion_version()
        return deleted

    async def _delete_entries(self, until: float, owner: str | None) -> int:
        """Delete entries in slices, with a pause as long as each slice, so that requests do not wait for them."""
        total = 0
        start_time = time.monotonic()
        while deleted := await self._delete_slice(until, owner):
            total += deleted
            await asyncio.sleep(time.monotonic() - start_time)
            start_time = time.monotonic()
        return total

    async def _delete_slice(self, until: float, owner: str | None) -> int:
        """Delete some of the entries that expire until then, the oldest first, and return their number."""
        return len(await self._fetch(self._delete, {"until": until, "owner": owner}))

    def _compile(self, statement: ClauseElement) -> Statement:
        compiled: Any = statement.compile(dialect=self._dialect)
        parameters = getattr(compiled, "positiontup", None)
        return Statement(str(compiled), tuple(parameters), compiled.params) if parameters else Statement(str(compiled))

    def _build_extension(self) -> ClauseElement:
        expiries = self._select_expiries()
        same = (TABLE.c.owner == expiries.c.owner) & (TABLE.c.name == expiries.c.name)
        stored = select(TABLE.c.owner, TABLE.c.name, expiries.c.expires.label("later")).join(expiries, same)
        locked = stored.order_by(TABLE.c.owner, TABLE.c.name).with_for_update(of=TABLE).cte("stored")
        extension = update(TABLE).values(expires=self._greatest(TABLE.c.expires, locked.c.later))
        extension = extension.where(TABLE.c.owner == locked.c.owner, TABLE.c.name == locked.c.name)
        return extension.returning(TABLE.c.owner, TABLE.c.name)

    def _complete_upsert(self, upsert: Any) -> Any:
        later = self._greatest(TABLE.c.expires, upsert.excluded.expires)
        return upsert.on_conflict_do_update(index_elements=["owner", "name"], set_={"expires": later})

    @abstractmethod
    async def _fetch(self, statement: Statement, values: Mapping[str, object]) -> list[Any]:
        """Run one statement in a transaction of its own and return its rows."""

    @abstractmethod
    async def _increment_deletion_version(self) -> None:
        """Record that entries were wiped."""

    @abstractmethod
    def _filter_names(self) -> ColumnElement[bool]:
        """Return the condition that the name is one of the parameter `names`."""

    @abstractmethod
    def _encode_names(self, names: Sequence[str]) -> object:
        """Return the value of the parameter `names`."""

    @abstractmethod
    def _select_expiries(self) -> FromClause:
        """Return rows of owner, name and expiry, given as parameters."""

    @abstractmethod
    def _encode_expiries(self, entries: Sequence[Entry]) -> dict[str, object]:
        """Return the parameters of `_select_expiries`."""

    def _track_deletions(self, deletion: Any) -> Any:
        """Return the DELETE; a database that counts its bytes itself extends it."""
        return deletion


class PostgresStore(SqlStore):
    """A store in the PostgreSQL database at `url`, in the form that libpq and asyncpg accept."""

    _LOCK = "SELECT pg_advisory_xact_lock(7305808869231650145)"  # one of several starting replicas creates the tables
    _used_bytes = Statement("SELECT bytes FROM originals_size")
    _greatest, _byte_length = staticmethod(func.greatest), staticmethod(func.octet_length)

    def __init__(self, url: str) -> None:
        import asyncpg  # noqa: PLC0415 - an extra
        from sqlalchemy.dialects.postgresql import asyncpg as driver  # noqa: PLC0415

        super().__init__(cast("Any", driver.dialect)())
        self._insert = self._compile(self._build_insert())
        self._error_types = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError)
        self._create_pool = asyncpg.create_pool
        self._url = url.replace("postgresql+asyncpg:", "postgresql:", 1)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def start(self) -> None:
        """Connect, and create the tables if they do not exist."""
        statements = [
            *(self._LOCK, *self._create, self._compile(CreateTable(SIZE_TABLE, if_not_exists=True)).sql),
            "ALTER TABLE originals ALTER body SET STORAGE EXTERNAL",
            "ALTER TABLE originals_size ADD COLUMN IF NOT EXISTS drops BIGINT NOT NULL DEFAULT 0",
            "INSERT INTO originals_size VALUES (1, 0) ON CONFLICT DO NOTHING",
        ]
        with map_store_errors(*self._error_types):
            self._pool = await self._create_pool(
                self._url, min_size=1, max_size=4, timeout=TIMEOUT_SECONDS, command_timeout=TIMEOUT_SECONDS
            )
        async with self._acquire_connection() as connection, connection.transaction():
            await connection.execute(";".join(statements))

    async def stop(self) -> None:
        """Close the connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with map_store_errors(*self._error_types):
                await pool.close()

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries, all or none; an entry that is stored only gets a later expiry."""
        await self._fetch(self._insert, _split_columns(_ENTRY_COLUMNS, entries))

    async def read_deletion_version(self) -> int:
        """Return how often entries were wiped."""
        return int((await self._fetch(Statement("SELECT drops FROM originals_size"), {}))[0][0])

    async def _increment_deletion_version(self) -> None:
        await self._fetch(Statement("UPDATE originals_size SET drops = drops + 1"), {})

    def _filter_names(self) -> ColumnElement[bool]:
        return TABLE.c.name == func.any(bindparam("names", type_=ARRAY(Text)))

    def _encode_names(self, names: Sequence[str]) -> object:
        return list(names)

    def _select_expiries(self) -> FromClause:
        return _unnest(EXPIRY_COLUMNS)

    def _encode_expiries(self, entries: Sequence[Entry]) -> dict[str, object]:
        return _split_columns(EXPIRY_COLUMNS, entries)

    def _track_deletions(self, deletion: Any) -> Any:
        deleted = deletion.cte("deleted")
        size = SIZE_TABLE.c.bytes - select(func.coalesce(func.sum(deleted.c.bytes), 0)).scalar_subquery()
        return select(deleted.c.bytes).add_cte(update(SIZE_TABLE).values(bytes=size).cte("decrement"))

    def _build_insert(self) -> ClauseElement:
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - SQLite does without it

        rows = _unnest(_ENTRY_COLUMNS)
        source = select(*rows.c).order_by(rows.c.owner, rows.c.name)
        upsert = self._complete_upsert(postgresql.insert(TABLE).from_select(_ENTRY_COLUMNS, source))
        new_bytes = case((literal_column("xmax = 0"), func.octet_length(TABLE.c.body)), else_=0).label("bytes")
        inserted = upsert.returning(new_bytes).cte("inserted")
        size = SIZE_TABLE.c.bytes + select(func.coalesce(func.sum(inserted.c.bytes), 0)).scalar_subquery()
        return update(SIZE_TABLE).values(bytes=size)

    async def _fetch(self, statement: Statement, values: Mapping[str, object]) -> list[Any]:
        async with self._acquire_connection() as connection:
            return await connection.fetch(statement.sql, *statement.bind(values))

    @asynccontextmanager
    async def _acquire_connection(self) -> "AsyncGenerator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        if self._pool is None:
            raise OriginalsError("the store of originals is not open")
        with map_store_errors(*self._error_types):
            async with self._pool.acquire(timeout=TIMEOUT_SECONDS) as connection:
                yield connection


def _unnest(names: Sequence[str]) -> FromClause:
    """Return rows with columns from array parameters of these names."""
    arrays = (bindparam(name, type_=ARRAY(TABLE.c[name].type)) for name in names)
    columns: list[Any] = [column(name) for name in names]
    return func.unnest(*arrays).table_valued(*columns).render_derived()


def _split_columns(names: Sequence[str], entries: Sequence[Entry]) -> dict[str, object]:
    """Return the parameters of `_unnest`."""
    return dict(zip(names, map(list, zip(*entries, strict=True)), strict=False))
