"""Does a ledger add up? Its file, each of its rows, and what it keeps of each day. Reads only.

The invariant: what cannot be read is a finding, too, and ends nothing but the look that met it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from math import isclose
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from . import accounting, ledger_totals
from .ledger import Ledger
from .ledger_dialect import SECONDS_PER_DAY
from .ledger_schema import DAILY_TABLE, LEDGER_TABLE, TOTAL_COLUMNS


class AuditFinding(NamedTuple):
    """One thing that was looked at; `wrong` says what does not add up, and is empty when all does."""

    name: str
    result: str
    problem: str = ""


async def audit(ledger: Ledger) -> AsyncIterator[AuditFinding]:
    """Look at everything, in the order of its cost."""
    for name, look in (("file", _check_file), ("totals of days", _check_daily_totals), ("rows", _check_rows)):
        yield await _run_check(name, look, ledger)


def describe_damage(error: Exception) -> str:
    """Return the database's own words, without the statement that met the damage."""
    return str(getattr(error, "orig", None) or error)


async def _run_check(name: str, look: Callable[[Ledger], Awaitable[AuditFinding]], ledger: Ledger) -> AuditFinding:
    try:
        return await look(ledger)
    except SQLAlchemyError as error:
        return AuditFinding(name, "cannot be read", describe_damage(error))


async def _check_file(ledger: Ledger) -> AuditFinding:
    if ledger.engine.dialect.name != "sqlite":
        return AuditFinding("database", "the server's own business")
    async with ledger.engine.connect() as connection:
        said = [str(row[0]) for row in await connection.exec_driver_sql("PRAGMA integrity_check")]
    return AuditFinding("file", "looked through", "" if said == ["ok"] else "; ".join(said[:5]))


async def _check_rows(ledger: Ledger) -> AuditFinding:
    total, wrong = 0, Counter[str]()
    async for row in ledger.iter_rows():
        total += 1
        wrong.update(accounting.find_inconsistencies(row))
    told = "; ".join(f"{complaint} ({times} rows)" for complaint, times in wrong.most_common())
    return AuditFinding("rows", f"{total:,}", told)


async def _check_daily_totals(ledger: Ledger) -> AuditFinding:
    """Add the rows up anew, day by day, in one look at rows and totals: what is written meanwhile does not disturb."""
    odd: list[str] = []
    async with ledger.engine.connect() as connection:
        if ledger.engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("BEGIN")
        else:
            await connection.execution_options(isolation_level="REPEATABLE READ")
        days = await _list_days(connection)
        for day in days:
            odd += await _find_differences(ledger, connection, day)
    return AuditFinding(
        "totals of days", f"{len(days):,}", f"{len(odd)} differ from the rows: {odd[:3]}" if odd else ""
    )


async def _list_days(connection: AsyncConnection) -> list[int]:
    """Return the days that have rows or totals."""
    days = {int(day) for day in await connection.scalars(select(DAILY_TABLE.c.day).distinct())}
    end = 0.0
    while (
        at := await connection.scalar(select(func.min(LEDGER_TABLE.c.at)).where(LEDGER_TABLE.c.at >= end))
    ) is not None:
        days.add(int(at // SECONDS_PER_DAY))
        end = (at // SECONDS_PER_DAY + 1) * SECONDS_PER_DAY
    return sorted(days)


async def _find_differences(ledger: Ledger, connection: AsyncConnection, day: int) -> list[str]:
    stored = select(DAILY_TABLE).where(
        DAILY_TABLE.c.by.in_(ledger_totals.list_daily_groupings()), DAILY_TABLE.c.day == day
    )
    kept = {_get_group_key(row): row for row in (await connection.execute(stored)).mappings()}
    anew = {
        _get_group_key(row): row
        for statement in ledger_totals.build_day_queries(ledger.dialect, day)
        for row in (await connection.execute(statement)).mappings()
    }
    wrong = [
        key for key in sorted(kept.keys() | anew.keys()) if not _is_same_total(kept.get(key, {}), anew.get(key, {}))
    ]
    return [f"{by} {group!r} of day {day}" for by, group in wrong]


def _get_group_key(row: Mapping[Any, Any]) -> tuple[str, str]:
    return str(row["by"]), str(row["group"])


def _is_same_total(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return all(_is_close(one.get(name), other.get(name)) for name in TOTAL_COLUMNS)


def _is_close(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1e-6)
