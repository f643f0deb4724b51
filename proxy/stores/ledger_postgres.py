"""The ledger in a PostgreSQL database, shared by all replicas."""

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

from .async_engine import AsyncConnection, AsyncEngine, create_async_engine
from .ledger_dialect import COLUMN_NAMES, SECONDS_PER_DAY, Expression, NewRowPassages, PassageColumns, Upsert
from .ledger_row import Row
from .ledger_schema import LEDGER_TABLE


class PostgresDialect:
    """PostgreSQL: many writers."""

    error_types = (
        *(SQLAlchemyError, OSError, ValueError, TypeError, OverflowError),
        *(asyncpg.PostgresError, asyncpg.InterfaceError),  # raised while connecting
    )

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+asyncpg")

    async def open(self) -> AsyncEngine:
        """Create a pool of connections; it connects later."""
        return create_async_engine(self._url, hide_parameters=True, pool_pre_ping=True)

    def check_file(self) -> None:
        """Do nothing: a server keeps the database."""

    async def lock(self, connection: AsyncConnection) -> None:
        """Take a lock that lasts as long as the transaction."""
        await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305808869231650146)")

    async def insert_rows(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[str]:
        """Insert rows in one statement, given as columns; return the ids of the new ones."""
        columns = tuple(map(list, zip(*rows, strict=True)))
        return [row[0] for row in await connection.exec_driver_sql(_UNNEST_INSERT, columns)]

    def is_row_error(self, error: Exception) -> bool:
        """Return True if a row has a value that does not fit its column, or invalid JSON."""
        if not isinstance(error, DBAPIError):
            return isinstance(error, UnicodeEncodeError | OverflowError | TypeError)
        state = str(getattr(error.orig, "sqlstate", None) or "")
        is_invalid_value = isinstance(getattr(error.orig, "__cause__", None), ValueError | TypeError | OverflowError)
        return not error.connection_invalidated and (state[:2] in {"22", "23"} or (not state and is_invalid_value))

    def build_upsert(self, table: Any) -> Upsert:
        """Return PostgreSQL's INSERT."""
        return postgresql.insert(table)

    @property
    def new_row_filter(self) -> ColumnElement[bool]:
        """The condition with an array."""
        return LEDGER_TABLE.c.id == func.any(literal_column("$1::text[]"))

    @property
    def new_row_passages(self) -> NewRowPassages:
        """The rows of a JSON list."""
        row = func.json_array_elements(literal_column("$1::json")).table_valued(column("value", JSON), name="new_row")
        values = (row.c.value.op("->>")(name) for name in ("id", "passages"))
        return NewRowPassages(row, *values)

    @property
    def time_range_filter(self) -> ColumnElement[bool]:
        """The condition with two positional parameters."""
        return (LEDGER_TABLE.c.at >= literal_column("$1")) & (LEDGER_TABLE.c.at < literal_column("$2"))

    def encode_ids(self, ids: Sequence[str]) -> object:
        """Return the list unchanged."""
        return list(ids)

    def compile_statement(self, statement: Upsert) -> str:
        """Return the text of a statement, with its constants inlined."""
        return str(statement.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))

    def compute_day(self, at: Expression) -> Expression:
        """Return the day; a cast alone would round."""
        return cast(func.floor(at / SECONDS_PER_DAY), BigInteger)

    def expand_tags(self, json: Expression) -> tuple[FromClause, Expression, Expression]:
        """Expand the JSON object."""
        tag = func.json_each_text(cast(json, JSON)).table_valued(column("key", Text), column("value", Text))
        return tag, tag.c.key, tag.c.value

    def expand_passages(self, json: Expression) -> PassageColumns:
        """Expand the JSON list."""
        passage = func.json_array_elements(cast(json, JSON)).table_valued(column("value", JSON))
        columns = {name: passage.c.value.op("->>")(name) for name in ("tool", "kind", "before", "after")}
        return PassageColumns(passage, columns, cast(columns["before"], BigInteger), cast(columns["after"], BigInteger))


_DIALECT = cast_to("Any", asyncpg_dialect)()  # the driver has no types


def _build_unnest_insert() -> str:
    types = {"BigInteger": "bigint", "Boolean": "boolean", "Double": "double precision", "Text": "text"}
    sql_types = [types[type(column.type).__name__] for column in LEDGER_TABLE.columns]
    arrays = ", ".join(f"${number}::{sql_type}[]" for number, sql_type in enumerate(sql_types, start=1))
    return f'INSERT INTO ledger ({COLUMN_NAMES}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING RETURNING "id"'  # noqa: S608


_UNNEST_INSERT = _build_unnest_insert()
