"""The used and reserved budgets of keys, in the ledger's database, shared by all replicas.

Each process holds a lease of every key that it serves: tokens, dollars and request starts that it may use without
asking. `exchange` records the usage, returns the unused part of a lease and takes more, in one transaction. The
invariant: used tokens plus all leases exceed a limit by at most the reservation of one request, and starts never
exceed theirs.

Time never goes back here: each exchange raises the stored time, and a new day begins by the stored time. A holder
that does not increment its `beat` for long enough is dead, by the observer's own monotonic clock, and its leases are
deleted.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    MetaData,
    Row,
    Table,
    Text,
    delete,
    func,
    select,
    update,
)

from .async_engine import AsyncConnection, AsyncEngine
from .key_usage import NO_USAGE, KeyUsage
from .ledger_dialect import SECONDS_PER_DAY, Dialect

LEASE_SHARE = 8  # a lease takes an eighth of what is left, so that other replicas find some, too
MAX_TOKENS = 2**53  # of a sum, so that every database can store it

_METADATA = MetaData()
_USAGE = Table(
    "proxy_key_usage",
    _METADATA,
    Column("name", Text),
    Column("at", Double),
    Column("day", BigInteger),
    Column("tokens", BigInteger),
    Column("dollars", Double),
)
_LEASES = Table(
    "proxy_key_leases",
    _METADATA,
    *(Column(name, Text) for name in ("name", "holder")),
    *(Column(name, BigInteger) for name in ("day", "tokens")),
    Column("dollars", Double),
    Column("starts", BigInteger),
)
_HOLDERS = Table("proxy_key_holders", _METADATA, Column("holder", Text), Column("beat", BigInteger))


class Limits(NamedTuple):
    """The limits of a key: tokens and dollars a day, starts a minute; None without a limit."""

    tokens: int | None
    dollars: float | None
    starts: int | None


class LeaseRequest(NamedTuple):
    """One exchange. Times are Unix seconds, days are UTC.

    `spent` is the usage of requests that ended since the last exchange, `kept` the reservations of running ones, on
    `day`. `needed` and `needs_start` are for the request that waits; with `takes_ahead` the lease gets more than that.
    """

    name: str
    limits: Limits
    now: float
    day: int
    spent: KeyUsage = NO_USAGE
    kept: KeyUsage = NO_USAGE
    kept_starts: int = 0
    needed: KeyUsage = NO_USAGE
    needs_start: bool = False
    takes_ahead: bool = True


class LeaseReply(NamedTuple):
    """The result of an exchange: the time and day of the store, the usage of all replicas on that day, and the grant.

    `granted` and `granted_starts` come in addition to the kept part. If `is_refused`, nothing was granted.
    """

    now: float
    day: int
    used: KeyUsage
    granted: KeyUsage
    granted_starts: int
    is_refused: bool


class BudgetStore:
    """The tables of usage and leases in an open database; `holder` is a unique name of this process.

    Every method raises `error_types` of the dialect. `KeyStore.start` creates the tables.
    """

    def __init__(self, engine: AsyncEngine, dialect: Dialect, holder: str) -> None:
        self._engine = engine
        self._dialect = dialect
        self._holder = holder

    async def exchange(self, request: LeaseRequest) -> LeaseReply:
        """Record usage, and exchange this process's lease of one key for another one."""
        async with self._engine.begin() as connection:
            stored = await self._lock_usage(connection, request)
            now = max(stored.at, request.now)
            day = max(stored.day, int(now // SECONDS_PER_DAY))
            used = KeyUsage(stored.tokens, stored.dollars) if day == stored.day else NO_USAGE
            kept = NO_USAGE
            if day == request.day:  # requests of an earlier day count for that day, which is over
                used, kept = used.add(request.spent), request.kept
            others, other_starts = await self._sum_other_leases(connection, request.name, day)
            left = Limits(
                _subtract(request.limits.tokens, used.tokens + others.tokens + kept.tokens),
                _subtract(request.limits.dollars, used.dollars + others.dollars + kept.dollars),
                _subtract(request.limits.starts, other_starts + request.kept_starts),
            )
            granted, granted_starts = _grant(request, left)
            is_refused = _is_refused(request, left)
            if is_refused:
                granted, granted_starts = NO_USAGE, 0
            values = {"at": now, "day": day, "tokens": min(used.tokens, MAX_TOKENS), "dollars": used.dollars}
            await connection.execute(update(_USAGE).where(_USAGE.c.name == request.name).values(values))
            lease = kept.add(granted)
            await self._write_lease(connection, request.name, day, lease, request.kept_starts + granted_starts)
        return LeaseReply(now, day, used, granted, granted_starts, is_refused)

    async def seed_usage(self, usage: Mapping[str, KeyUsage], now: float) -> None:
        """Raise the stored usage of today to these values for keys without a stored usage of this day."""
        day = int(now // SECONDS_PER_DAY)
        async with self._engine.begin() as connection:
            for name, used in sorted(usage.items()):
                stored = await self._lock_usage(connection, LeaseRequest(name, Limits(None, None, None), now, day))
                if stored.day < day or (stored.tokens, stored.dollars) == (0, 0.0):
                    values = {"at": now, "day": day, "tokens": used.tokens, "dollars": used.dollars}
                    await connection.execute(update(_USAGE).where(_USAGE.c.name == name).values(values))

    async def read_usage(self) -> dict[str, tuple[int, KeyUsage]]:
        """Return the day of the last request of each key, and the usage of that day."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_USAGE))
            return {row.name: (row.day, KeyUsage(row.tokens, row.dollars)) for row in rows}

    async def read_latest_time(self) -> float:
        """Return the latest time of any exchange, in Unix seconds; 0 without one."""
        async with self._engine.connect() as connection:
            return float(await connection.scalar(select(func.max(_USAGE.c.at))) or 0.0)

    async def beat(self) -> dict[str, int]:
        """Show that this process is alive; return the number of beats of each holder since it was registered."""
        async with self._engine.begin() as connection:
            insert = self._dialect.build_upsert(_HOLDERS).values(holder=self._holder, beat=1)
            await connection.execute(
                insert.on_conflict_do_update(index_elements=["holder"], set_={"beat": _HOLDERS.c.beat + 1})
            )
            return {row.holder: row.beat for row in await connection.execute(select(_HOLDERS))}

    async def delete_holders(self, holders: Collection[str]) -> None:
        """Delete holders, and all leases without a holder."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(_HOLDERS).where(_HOLDERS.c.holder.in_(holders)))
            await connection.execute(delete(_LEASES).where(_LEASES.c.holder.not_in(select(_HOLDERS.c.holder))))

    async def leave(self) -> None:
        """Delete this process and its leases."""
        await self.delete_holders([self._holder])

    async def _lock_usage(self, connection: AsyncConnection, request: LeaseRequest) -> Row[Any]:
        """Return the row of a key, and keep other processes from changing it or a lease of it."""
        values = {"name": request.name, "at": request.now, "day": request.day, "tokens": 0, "dollars": 0.0}
        # Writing first takes SQLite's lock; PostgreSQL locks the row.
        await connection.execute(self._dialect.build_upsert(_USAGE).values(values).on_conflict_do_nothing())
        query = select(_USAGE).where(_USAGE.c.name == request.name).with_for_update()
        return (await connection.execute(query)).one()

    async def _sum_other_leases(self, connection: AsyncConnection, name: str, day: int) -> tuple[KeyUsage, int]:
        query = select(_LEASES).where(_LEASES.c.name == name, _LEASES.c.holder != self._holder)
        leases = (await connection.execute(query)).all()
        tokens = sum(lease.tokens for lease in leases if lease.day == day)
        dollars = sum(lease.dollars for lease in leases if lease.day == day)
        return KeyUsage(tokens, dollars), sum(lease.starts for lease in leases)

    async def _write_lease(
        self, connection: AsyncConnection, name: str, day: int, lease: KeyUsage, starts: int
    ) -> None:
        values = {"day": day, "tokens": min(lease.tokens, MAX_TOKENS), "dollars": lease.dollars, "starts": starts}
        if lease == NO_USAGE and not starts:
            is_own = (_LEASES.c.name == name) & (_LEASES.c.holder == self._holder)
            await connection.execute(delete(_LEASES).where(is_own))
            return
        insert = self._dialect.build_upsert(_LEASES).values(name=name, holder=self._holder, **values)
        await connection.execute(insert.on_conflict_do_update(index_elements=["name", "holder"], set_=values))


def _subtract(limit: float | None, amount: float) -> Any:
    return None if limit is None else limit - amount


def _is_refused(request: LeaseRequest, left: Limits) -> bool:
    """Return True if a budget or the starts are used up: a request may exceed a budget, but not begin beyond it."""
    is_spent = request.needed != NO_USAGE and (
        (left.tokens is not None and left.tokens <= 0) or (left.dollars is not None and left.dollars <= 0)
    )
    return is_spent or (request.needs_start and left.starts is not None and left.starts < 1)


def _grant(request: LeaseRequest, left: Limits) -> tuple[KeyUsage, int]:
    """Return the tokens, dollars and starts to add to a lease. A dimension without a limit gets the needed amount."""
    tokens, dollars, starts = request.needed.tokens, request.needed.dollars, int(request.needs_start)
    if request.takes_ahead:
        tokens = max(tokens, (left.tokens or 0) // LEASE_SHARE)
        dollars = max(dollars, (left.dollars or 0.0) / LEASE_SHARE)
        starts = max(starts, (left.starts or 0) // 2)
    return KeyUsage(tokens, dollars), starts
