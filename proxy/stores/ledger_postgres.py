"""The ledger in PostgreSQL, shared by replicas."""

from collections.abc import Sequence
from typing import Any
from typing import cast as cast_to

import asyncpg
from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    ColumnElement,
    FromClause,
    Text,
    cast,
    column,
    func,
    literal_column,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from .ledger_dialect import COLUMN_NAMES, SECONDS_PER_DAY, Expression, PassageColumns, Upsert
from .ledger_row import Row
from .ledger_schema import LEDGER_TABLE


class PostgresDialect:
    """PostgreSQL, shared by replicas."""

    error_types = (
        *(SQLAlchemyError, OSError, ValueError, TypeError, OverflowError),
        *(asyncpg.PostgresError, asyncpg.InterfaceError),  # as they are while a connection is made
    )

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+asyncpg")

    async def open(self) -> AsyncEngine:
        """Make a pool of connections; none is made yet."""
        return create_async_engine(self._url, hide_parameters=True, pool_pre_ping=True)

    async def lock(self, connection: AsyncConnection) -> None:
        """Take a lock that goes with the transaction."""
        await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305808869231650146)")

    async def insert_rows(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[str]:
        """Insert rows by columns, in one statement; return the ids of those that were not there."""
        columns = tuple(map(list, zip(*rows, strict=True)))
        return [row[0] for row in await connection.exec_driver_sql(_UNNEST_INSERT, columns)]

    def is_row_error(self, error: Exception) -> bool:
        """Say whether a row is to blame: what does not fit in its column, or is no JSON."""
        if not isinstance(error, DBAPIError):
            return isinstance(error, UnicodeEncodeError | OverflowError | TypeError)
        state = str(getattr(error.orig, "sqlstate", None) or "")
        unfit = isinstance(getattr(error.orig, "__cause__", None), ValueError | TypeError | OverflowError)
        return not error.connection_invalidated and (state[:2] in {"22", "23"} or (not state and unfit))

    def build_upsert(self, table: Any) -> Upsert:
        """Return PostgreSQL's INSERT."""
        return postgresql.insert(table)

    @property
    def new_row_filter(self) -> ColumnElement[bool]:
        """Compare with an array."""
        return LEDGER_TABLE.c.id == func.any(literal_column("$1::text[]"))

    @property
    def time_range_filter(self) -> ColumnElement[bool]:
        """Compare with two parameters."""
        return (LEDGER_TABLE.c.at >= literal_column("$1")) & (LEDGER_TABLE.c.at < literal_column("$2"))

    def encode_ids(self, ids: Sequence[str]) -> object:
        """Leave the list as it is."""
        return list(ids)

    def compile_statement(self, statement: Upsert) -> str:
        """Write a statement out, with all its values in it."""
        return str(statement.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))

    def compute_day(self, at: Expression) -> Expression:
        """Cut the fraction off: a cast alone would round."""
        return cast(func.floor(at / SECONDS_PER_DAY), BigInteger)

    def expand_tags(self, of: Expression) -> tuple[FromClause, Expression, Expression]:
        """Read the object."""
        tag = func.json_each_text(cast(of, JSON)).table_valued(column("key", Text), column("value", Text))
        return tag, tag.c.key, tag.c.value

    def expand_passages(self, of: Expression) -> PassageColumns:
        """Read the list of objects."""
        passage = func.json_array_elements(cast(of, JSON)).table_valued(column("value", JSON))
        read = {name: passage.c.value.op("->>")(name) for name in ("tool", "kind", "before", "after")}
        return PassageColumns(passage, read, cast(read["before"], BigInteger), cast(read["after"], BigInteger))


_DIALECT = cast_to("Any", asyncpg_dialect)()  # as far as types go, nothing is known of it


def _build_unnest_insert() -> str:
    types = {"BigInteger": "bigint", "Boolean": "boolean", "Double": "double precision", "Text": "text"}
    kinds = [types[type(one.type).__name__] for one in LEDGER_TABLE.columns]
    arrays = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(kinds, start=1))
    return f'INSERT INTO ledger ({COLUMN_NAMES}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING RETURNING "id"'  # noqa: S608


_UNNEST_INSERT = _build_unnest_insert()
