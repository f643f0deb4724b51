"""What differs between SQLite and PostgreSQL: how rows go in, and a handful of expressions.

No sums are defined here (`ledger_totals` does) and no transaction begins here (`Ledger` does). A database is one file
with this protocol and one branch in `ledger.dialect_of`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, FromClause
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .ledger_row import Row

SECONDS_PER_DAY = 86_400  # seconds
COLUMN_NAMES = ", ".join(f'"{name}"' for name in Row._fields)

Expression = ColumnElement[Any]
Upsert = sqlite.Insert | postgresql.Insert


class PassageColumns(NamedTuple):
    """The passages of a row: something to join, their `tool` and `kind`, the tokens before and those after."""

    source: FromClause
    labels: Mapping[str, Expression]
    before: Expression
    after: Expression


class Dialect(Protocol):
    """One kind of database. `trouble` is what it may raise, whoever is to blame."""

    @property
    def error_types(self) -> tuple[type[Exception], ...]: ...  # noqa: D102

    async def open(self) -> AsyncEngine:
        """Open the database, and make it if it is a file. Raises the driver's errors or OSError."""
        ...

    async def lock(self, connection: AsyncConnection) -> None:
        """Keep others from changing the tables until this transaction ends."""
        ...

    async def insert_rows(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[str]:
        """Insert rows and return the ids of those that were not there."""
        ...

    def is_row_error(self, error: Exception) -> bool:
        """Say whether a row is to blame for an error, and not the database or the disk."""
        ...

    def build_upsert(self, table: Any) -> Upsert:
        """Return an INSERT that knows what to do on a conflict."""
        ...

    @property
    def new_row_filter(self) -> ColumnElement[bool]:
        """Say of a row that its id is one of those in the only parameter, as `several` writes them."""
        ...

    @property
    def time_range_filter(self) -> ColumnElement[bool]:
        """Say of a row that its time is from the first parameter to before the second."""
        ...

    def encode_ids(self, ids: Sequence[str]) -> object:
        """Write ids down for that parameter."""
        ...

    def compile_statement(self, statement: Upsert) -> str:
        """Write a statement out, with all its values in it."""
        ...

    def compute_day(self, at: Expression) -> Expression:
        """Return the number of the day (UTC) since 1970."""
        ...

    def expand_tags(self, of: Expression) -> tuple[FromClause, Expression, Expression]:
        """Return the tags of a row as something to join, the name and the value."""
        ...

    def expand_passages(self, of: Expression) -> PassageColumns:
        """Return the passages of a row."""
        ...
