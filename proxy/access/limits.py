"""Limits of keys: requests a minute, tokens and dollars a day (UTC), shared by all replicas.

A request reserves the most that it may use before it is forwarded, and is settled afterwards. A reservation is taken
from this process's lease of the key (`stores.key_budgets`); only when the lease is too small, the database is asked.
The invariant: the used and reserved amounts of all replicas exceed a budget by at most one reservation, and no more
than the allowed requests start within any 60 seconds.

The wall clock is read once, at start; from then on, the monotonic clock is added to it. So a clock that is set ahead or
back neither renews a budget nor locks it.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..stores.api_keys import ApiKey
from ..stores.errors import ThrottledLogger
from ..stores.key_budgets import BudgetStore, LeaseReply, LeaseRequest, Limits
from ..stores.key_usage import NO_USAGE, KeyUsage
from ..stores.ledger import Ledger
from ..stores.ledger_dialect import SECONDS_PER_DAY
from .limit_errors import budget_error, rate_error, unavailable_error

_log = logging.getLogger(__name__)
MINUTE = 60.0  # seconds
LEASE_SECONDS = 60.0  # seconds without a beat after which other replicas delete the leases of a process
REFUSAL_SECONDS = 0.1  # seconds for which a refusal by the database holds
FAILURE_SECONDS = 1.0  # seconds until a database that failed is asked again
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # includes the time in which the machine sleeps


def read_uptime() -> float:
    """Return monotonic seconds, including the time of suspensions."""
    return time.clock_gettime(_CLOCK)


class LimitClock:
    """Unix time that only advances as the monotonic clock does, except to the later time of another replica.

    `offset` is the difference between this time and the monotonic one.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time, uptime: Callable[[], float] = read_uptime) -> None:
        self.read_uptime = uptime
        self.offset = wall_clock() - uptime()

    def now(self) -> float:
        """Return the time in Unix seconds."""
        return self.offset + self.read_uptime()

    def advance_to(self, now: float) -> None:
        """Set the clock to a time, unless that time is over."""
        self.offset = max(self.offset, now - self.read_uptime())


class RateWindow:
    """The start times of the last minute, in monotonic seconds."""

    def __init__(self) -> None:
        self._start_times: deque[float] = deque()

    def count(self, now: float) -> int:
        """Return the number of starts within the last minute."""
        while self._start_times and self._start_times[0] <= now - MINUTE:
            self._start_times.popleft()
        return len(self._start_times)

    def get_wait_seconds(self, limit: int, now: float) -> float:
        """Return the seconds until another request may start under `limit` requests a minute; 0 if it may start now."""
        count = self.count(now)
        if count < limit:
            return 0.0
        # If the limit was lowered, more than `limit` are in the window, and only the last `limit` of them count.
        return max(0.0, self._start_times[count - limit] + MINUTE - now) if limit else MINUTE

    def record_start(self, now: float) -> None:
        """Record the start of a request."""
        self._start_times.append(now)

    def cancel_start(self, start_time: float) -> None:
        """Remove a recorded start."""
        if start_time in self._start_times:
            self._start_times.remove(start_time)


@dataclass(slots=True)
class KeyMeter:
    """One key in this process: its lease of `day`, and the amounts taken from it. `used` is by all replicas.

    `reserved` belongs to running requests, `spent` to ended ones that the database does not know yet. `lease` covers
    both, and more.
    """

    window: RateWindow = field(default_factory=RateWindow)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    day: int = -1
    used: KeyUsage = NO_USAGE
    lease: KeyUsage = NO_USAGE
    reserved: KeyUsage = NO_USAGE
    spent: KeyUsage = NO_USAGE
    starts: int = 0
    open_requests: int = 0
    is_active: bool = True
    refused_until: float = 0.0
    starts_refused_until: float = 0.0

    def has_room(self, key: ApiKey, amount: KeyUsage) -> bool:
        """Return True if the lease covers another reservation."""
        lease_tokens, lease_dollars = self.lease
        tokens, dollars = self.reserved
        spent_tokens, spent_dollars = self.spent
        return (key.tokens_per_day is None or lease_tokens - tokens - spent_tokens >= amount.tokens) and (
            key.dollars_per_day is None or lease_dollars - dollars - spent_dollars >= amount.dollars
        )

    def is_spent(self, key: ApiKey) -> bool:
        """Return True if a budget is used up, as far as this process knows."""
        tokens, dollars = self.used
        spent_tokens, spent_dollars = self.spent
        return (key.tokens_per_day is not None and tokens + spent_tokens >= key.tokens_per_day) or (
            key.dollars_per_day is not None and dollars + spent_dollars >= key.dollars_per_day
        )

    def give_up_unused(self, now: float) -> None:
        """Keep only the part of the lease that is in use."""
        self.lease = self.reserved.add(self.spent)
        self.starts = self.window.count(now)

    def apply_reply(self, reply: LeaseReply, spent: KeyUsage) -> None:
        """Add the database's grant to the lease, after it has recorded `spent`."""
        if reply.day != self.day:  # a new day: earlier reservations do not count for it
            self.day, self.lease, self.reserved, self.spent = reply.day, NO_USAGE, NO_USAGE, NO_USAGE
        else:
            self.spent, self.lease = self.spent.subtract(spent), self.lease.subtract(spent)
        self.used = reply.used
        self.lease = self.lease.add(reply.granted)
        self.starts += reply.granted_starts


class KeyLimits:
    """The meters of all keys by name; a new key with the name of an old one continues its meter."""

    def __init__(self, ledger: Ledger, clock: LimitClock | None = None) -> None:
        self.clock = clock or LimitClock()
        self._holder = uuid.uuid4().hex
        self._store = BudgetStore(ledger.engine, ledger.dialect, self._holder)
        self._error_types = ledger.dialect.error_types
        self._throttled_log = ThrottledLogger(_log)
        self._meters: dict[str, KeyMeter] = {}
        self._keys: dict[str, ApiKey] = {}
        self._last_beat = float("-inf")
        self._failed_until = float("-inf")
        self._seen_beats: dict[str, tuple[int, float]] = {}

    async def start(self) -> None:
        """Register this process; raises the database's errors. The tables must exist."""
        self.clock.advance_to(await self._store.read_latest_time())
        await self._beat()

    async def seed_usage(self, usage: Mapping[str, KeyUsage]) -> None:
        """Set today's usage of keys without any recorded usage."""
        await self._store.seed_usage(usage, self.clock.now())

    async def refresh(self) -> None:
        """Record the usage, return unused leases, and delete those of dead replicas. Raises database errors."""
        if not self._meters:
            return
        await self._beat()
        for name, meter in list(self._meters.items()):
            async with meter.lock:
                if not meter.open_requests:
                    meter.reserved = NO_USAGE  # without the rounding errors of dollars
                if meter.open_requests or meter.spent != NO_USAGE or meter.lease != NO_USAGE or meter.starts:
                    await self._exchange(self._keys[name], meter, takes_ahead=meter.is_active)
                elif not meter.is_active and not meter.window.count(self.clock.read_uptime()):
                    del self._meters[name], self._keys[name]
                meter.is_active = False

    async def stop(self) -> None:
        """Record the usage, and return all leases. Raises database errors."""
        for name, meter in self._meters.items():
            async with meter.lock:
                await self._exchange(self._keys[name], meter, takes_ahead=False)
        await self._store.leave()

    def get_meter(self, key: ApiKey) -> KeyMeter:
        """Return the meter of a key."""
        meter = self._meters.get(key.name)
        if meter is None:
            meter = self._meters[key.name] = KeyMeter()
        self._keys[key.name] = key
        meter.is_active = True
        return meter

    async def admit(self, key: ApiKey) -> tuple[KeyMeter, float | None]:
        """Admit a request of a key; return the key's meter, and the recorded start if starts are limited.

        The caller decrements `open_requests` of the meter at the end.

        Raises:
            ApiError: 429 if the key may not start a request now, 503 if the database cannot tell.
        """
        meter = self.get_meter(key)
        if meter.is_spent(key) and meter.day == self._read_day():
            raise budget_error(key, self.clock.now(), is_spent=True)
        start_time = None if key.requests_per_minute is None else await self._take_start(key, meter)
        meter.open_requests += 1
        return meter, start_time

    def try_reserve(self, key: ApiKey, meter: KeyMeter, amount: KeyUsage) -> bool:
        """Reserve an amount on the meter's day if the lease covers it; else return False."""
        now = self.clock.read_uptime()
        if (
            now - self._last_beat >= LEASE_SECONDS / 2
            or meter.day != (now + self.clock.offset) // SECONDS_PER_DAY
            or not meter.has_room(key, amount)
        ):
            return False
        tokens, dollars = meter.reserved
        meter.reserved = KeyUsage(tokens + amount.tokens, dollars + amount.dollars)
        return True

    async def reserve(self, key: ApiKey, meter: KeyMeter, amount: KeyUsage) -> None:
        """Reserve an amount on the meter's day; enlarge the lease if necessary.

        Raises:
            ApiError: 429 if the budget is used up or reserved, 503 if the database cannot tell.
        """
        async with meter.lock:
            if self.try_reserve(key, meter, amount):
                return
            is_refused = self.clock.read_uptime() < meter.refused_until and meter.day == self._read_day()
            if is_refused or (await self._exchange(key, meter, needed=amount)).is_refused:
                if not is_refused:
                    meter.refused_until = self.clock.read_uptime() + REFUSAL_SECONDS
                raise budget_error(key, self.clock.now(), is_spent=meter.is_spent(key))
            meter.reserved = meter.reserved.add(amount)

    def release(self, meter: KeyMeter, amount: KeyUsage, day: int, spent: KeyUsage = NO_USAGE) -> None:
        """Replace a reservation of a day by the amount spent."""
        if day == meter.day:
            meter.reserved, meter.refused_until = meter.reserved.subtract(amount), 0.0
            if spent is not NO_USAGE:
                meter.spent = meter.spent.add(spent)

    async def _take_start(self, key: ApiKey, meter: KeyMeter) -> float:
        """Record the start of a request and return its time."""
        limit = key.requests_per_minute or 0
        if (start_time := self._try_start(limit, meter)) is not None:
            return start_time
        async with meter.lock:
            if (start_time := self._try_start(limit, meter)) is not None:
                return start_time
            now = self.clock.read_uptime()
            is_whole = meter.starts >= limit and now - self._last_beat < LEASE_SECONDS / 2
            is_refused = is_whole or now < meter.starts_refused_until
            if not is_refused:
                is_refused = (await self._exchange(key, meter, needs_start=True)).is_refused
                now = self.clock.read_uptime()
                meter.starts_refused_until = now + REFUSAL_SECONDS if is_refused else 0.0
            if is_refused:
                raise rate_error(key, meter.window.get_wait_seconds(min(limit, meter.starts), now) or REFUSAL_SECONDS)
            meter.window.record_start(now)
            return now

    def _try_start(self, limit: int, meter: KeyMeter) -> float | None:
        now = self.clock.read_uptime()
        if now - self._last_beat >= LEASE_SECONDS / 2 or meter.window.get_wait_seconds(min(limit, meter.starts), now):
            return None
        meter.window.record_start(now)
        return now

    async def _exchange(
        self,
        key: ApiKey,
        meter: KeyMeter,
        *,
        needed: KeyUsage = NO_USAGE,
        needs_start: bool = False,
        takes_ahead: bool = True,
    ) -> LeaseReply:
        """Exchange the lease of a key; hold its lock."""
        uptime = self.clock.read_uptime()
        is_waited_for = needed != NO_USAGE or needs_start
        if is_waited_for and uptime < self._failed_until:
            raise unavailable_error()
        meter.give_up_unused(uptime)  # until the exchange is over, no request may reserve
        if meter.day < 0:
            meter.day = self._read_day()
        spent = meter.spent
        request = LeaseRequest(
            name=key.name,
            limits=Limits(key.tokens_per_day, key.dollars_per_day, key.requests_per_minute),
            now=self.clock.now(),
            day=meter.day,
            spent=spent,
            kept=meter.reserved,
            kept_starts=meter.starts,
            needed=needed,
            needs_start=needs_start,
            takes_ahead=takes_ahead,
        )
        try:
            if uptime - self._last_beat >= LEASE_SECONDS / 2:
                await self._beat()
            reply = await self._store.exchange(request)
        except self._error_types as error:
            self._failed_until = self.clock.read_uptime() + FAILURE_SECONDS
            if not is_waited_for:
                raise
            self._throttled_log.warn(f"cannot read or write the usage of keys: {type(error).__name__}")
            raise unavailable_error() from error
        meter.apply_reply(reply, spent)
        self.clock.advance_to(reply.now)
        return reply

    async def _beat(self) -> None:
        """Show that this process is alive, and delete the leases of those that are not."""
        now = self.clock.read_uptime()
        beats = await self._store.beat()
        if beats[self._holder] == 1:  # others have taken this process for dead, and deleted its leases
            for meter in self._meters.values():
                meter.give_up_unused(now)
        self._last_beat = now
        seen = {holder: self._seen_beats.get(holder, (-1, now)) for holder in beats}
        self._seen_beats = {
            holder: seen[holder] if seen[holder][0] == beat else (beat, now) for holder, beat in beats.items()
        }
        dead = [holder for holder, (_, since) in self._seen_beats.items() if now - since >= LEASE_SECONDS]
        if dead:
            await self._store.delete_holders(dead)

    def _read_day(self) -> int:
        return int(self.clock.now() // SECONDS_PER_DAY)
