"""The differences between SQLite and PostgreSQL: how rows are inserted, and a few expressions.

`ledger_totals` defines the sums and `Ledger` begins the transactions. To support another database, implement `Dialect`
and add a branch to `ledger.select_dialect`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from sqlalchemy import ColumnElement, FromClause

from .async_engine import AsyncConnection, AsyncEngine
from .ledger_row import Row

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

SECONDS_PER_DAY = 86_400
COLUMN_NAMES = ", ".join(f'"{name}"' for name in Row._fields)

Expression = ColumnElement[Any]
Upsert: TypeAlias = "sqlite.Insert | postgresql.Insert"


class PassageColumns(NamedTuple):
    """The passages of a row: a source to join, its columns `tool` and `kind`, and the tokens before and after."""

    source: FromClause
    labels: Mapping[str, Expression]
    before: Expression
    after: Expression


class NewRowPassages(NamedTuple):
    """New rows as a source to join, the expression for their `id`, and that for the JSON text `passages`."""

    source: FromClause
    id: Expression
    passages: Expression


class Dialect(Protocol):
    """One kind of database; `error_types` are the exceptions that it may raise."""

    @property
    def error_types(self) -> tuple[type[Exception], ...]: ...  # noqa: D102

    async def open(self) -> AsyncEngine:
        """Open the database; create it if it is a file. Raises the driver's errors or OSError."""
        ...

    def check_file(self) -> None:
        """Raise OSError if the database is a file that was removed since it was opened."""
        ...

    async def lock(self, connection: AsyncConnection) -> None:
        """Prevent other processes from changing the tables until this transaction ends."""
        ...

    async def insert_rows(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[str]:
        """Insert rows and return the ids of the new ones."""
        ...

    def is_row_error(self, error: Exception) -> bool:
        """Return True if a row caused the error, rather than the database or the disk."""
        ...

    def build_upsert(self, table: Any) -> Upsert:
        """Return an INSERT that can handle conflicts."""
        ...

    @property
    def new_row_filter(self) -> ColumnElement[bool]:
        """The condition that the id of a row is in the only parameter (see `encode_ids`)."""
        ...

    @property
    def new_row_passages(self) -> NewRowPassages:
        """The ids and passages of new rows in the only parameter: a JSON list of objects (see `NewRowPassages`)."""
        ...

    @property
    def time_range_filter(self) -> ColumnElement[bool]:
        """The condition that the time of a row is from the first parameter to before the second."""
        ...

    def encode_ids(self, ids: Sequence[str]) -> object:
        """Return ids as the parameter of `new_row_filter`."""
        ...

    def compile_statement(self, statement: Upsert) -> str:
        """Return the text of a statement, with its constants inlined."""
        ...

    def compute_day(self, at: Expression) -> Expression:
        """Return the number of the day (UTC) since 1970."""
        ...

    def expand_tags(self, json: Expression) -> tuple[FromClause, Expression, Expression]:
        """Return the tags of a row: a source to join, its name column and its value column."""
        ...

    def expand_passages(self, json: Expression) -> PassageColumns:
        """Return the passages of a row."""
        ...
