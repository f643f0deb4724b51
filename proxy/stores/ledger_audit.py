"""An audit of the ledger: the database file, every row, and the stored totals of the days. Read-only.

The invariant: unreadable data is a finding of one check and does not stop the others.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from math import isclose
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from . import accounting, ledger_totals
from .async_engine import AsyncConnection
from .ledger import Ledger
from .ledger_columns import TOTAL_NAMES
from .ledger_dialect import SECONDS_PER_DAY
from .ledger_schema import DAILY_TABLE, LEDGER_TABLE


class AuditFinding(NamedTuple):
    """The result of one check; `problem` is empty if all is well."""

    name: str
    result: str
    problem: str = ""


async def audit(ledger: Ledger) -> AsyncIterator[AuditFinding]:
    """Run all checks, the cheapest first."""
    for name, check in (("file", _check_file), ("totals of days", _check_daily_totals), ("rows", _check_rows)):
        yield await _run_check(name, check, ledger)


def describe_damage(error: Exception) -> str:
    """Return the message of the database, without the statement that failed."""
    return str(getattr(error, "orig", None) or error)


async def _run_check(name: str, check: Callable[[Ledger], Awaitable[AuditFinding]], ledger: Ledger) -> AuditFinding:
    try:
        return await check(ledger)
    except SQLAlchemyError as error:
        return AuditFinding(name, "cannot be read", describe_damage(error))


async def _check_file(ledger: Ledger) -> AuditFinding:
    if ledger.engine.dialect.name != "sqlite":
        return AuditFinding("database", "not checked; the server checks its own files")
    async with ledger.engine.connect() as connection:
        messages = [str(row[0]) for row in await connection.exec_driver_sql("PRAGMA integrity_check")]
    return AuditFinding("file", "checked", "" if messages == ["ok"] else "; ".join(messages[:5]))


async def _check_rows(ledger: Ledger) -> AuditFinding:
    total, problems = 0, Counter[str]()
    async for row in ledger.iter_rows():
        total += 1
        problems.update(accounting.find_inconsistencies(row))
    summary = "; ".join(f"{problem} ({count} rows)" for problem, count in problems.most_common())
    return AuditFinding("rows", f"{total:,}", summary)


async def _check_daily_totals(ledger: Ledger) -> AuditFinding:
    """Recompute the totals of each day, in one transaction that does not see concurrent writes."""
    differences: list[str] = []
    async with ledger.engine.connect() as connection:
        if ledger.engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("BEGIN")
        else:
            await connection.execution_options(isolation_level="REPEATABLE READ")
        days = await _list_days(connection)
        for day in days:
            differences += await _find_differences(ledger, connection, day)
    problem = f"{len(differences)} differ from the rows: {differences[:3]}" if differences else ""
    return AuditFinding("totals of days", f"{len(days):,}", problem)


async def _list_days(connection: AsyncConnection) -> list[int]:
    """Return the days with rows or stored totals."""
    days = {int(day) for day in await connection.scalars(select(DAILY_TABLE.c.day).distinct())}
    end = 0.0
    while (
        at := await connection.scalar(select(func.min(LEDGER_TABLE.c.at)).where(LEDGER_TABLE.c.at >= end))
    ) is not None:
        days.add(int(at // SECONDS_PER_DAY))
        end = (at // SECONDS_PER_DAY + 1) * SECONDS_PER_DAY
    return sorted(days)


async def _find_differences(ledger: Ledger, connection: AsyncConnection, day: int) -> list[str]:
    query = select(DAILY_TABLE).where(
        DAILY_TABLE.c.by.in_(ledger_totals.list_daily_groupings()), DAILY_TABLE.c.day == day
    )
    stored = {_get_group_key(row): row for row in (await connection.execute(query)).mappings()}
    computed = {
        _get_group_key(row): row
        for statement in ledger_totals.build_day_queries(ledger.dialect, day)
        for row in (await connection.execute(statement)).mappings()
    }
    different = [
        key
        for key in sorted(stored.keys() | computed.keys())
        if not _is_same_total(stored.get(key, {}), computed.get(key, {}))
    ]
    return [f"{by} {group!r} of day {day}" for by, group in different]


def _get_group_key(row: Mapping[Any, Any]) -> tuple[str, str]:
    return str(row["by"]), str(row["group"])


def _is_same_total(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> bool:
    return all(_is_close(first.get(name), second.get(name)) for name in TOTAL_NAMES)


def _is_close(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return isclose(float(first), float(second), rel_tol=1e-9, abs_tol=1e-6)
