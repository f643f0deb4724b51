"""Limits of keys: never more than allowed at once, shared by replicas, whatever the clock does and whoever dies."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.access.limits import LEASE_SECONDS, MINUTE, KeyLimits, LimitClock, RateWindow
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.stores.api_keys import ApiKey, KeyStore, create_key
from clara_proxy.proxy.stores.key_usage import NO_USAGE, KeyUsage
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_dialect import SECONDS_PER_DAY

NOON = 1000 * SECONDS_PER_DAY + SECONDS_PER_DAY / 2
gaps = st.floats(0, 90) | st.just(0.0) | st.just(MINUTE)


def create_limited_key(*, tokens: int | None = None, dollars: float | None = None, rpm: int | None = None) -> ApiKey:
    plain = create_key("alice", created=0.0)[1]
    return plain._replace(tokens_per_day=tokens, dollars_per_day=dollars, requests_per_minute=rpm)


class Times:
    """A wall clock that can be set, and a monotonic one."""

    def __init__(self) -> None:
        self.wall, self.uptime = NOON, 5000.0

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.wall, self.uptime = self.wall + seconds, self.uptime + seconds


@asynccontextmanager
async def open_limits(path: Path, times: Times, count: int = 1) -> AsyncGenerator[list[KeyLimits]]:
    """Open limits that share a database, as replicas do. Leaving the block is like a crash: no lease is returned."""
    async with Ledger(f"sqlite:///{path}/l.sqlite3") as ledger:
        await KeyStore(ledger.engine, ledger.dialect).start()
        replicas = [KeyLimits(ledger, LimitClock(lambda: times.wall, lambda: times.uptime)) for _ in range(count)]
        for limits in replicas:
            await limits.start()
        yield replicas


async def reserve(limits: KeyLimits, key: ApiKey, amount: KeyUsage) -> bool:
    """Admit a request and reserve an amount; return False if it is refused."""
    try:
        meter, _ = await limits.admit(key)
        if not limits.try_reserve(key, meter, amount):
            await limits.reserve(key, meter, amount)
    except ApiError as error:
        if error.status != 429:
            raise
        return False
    return True


def settle(limits: KeyLimits, key: ApiKey, amount: KeyUsage, spent: KeyUsage) -> None:
    meter = limits.get_meter(key)
    meter.open_requests -= 1
    limits.release(meter, amount, meter.day, spent)


@given(st.integers(1, 5), st.lists(gaps, max_size=60))
def test_no_minute_has_more_starts_than_the_limit(limit: int, steps: list[float]) -> None:
    window, now, starts = RateWindow(), 1e9, list[float]()
    for step in steps:
        now += step
        if not window.get_wait_seconds(limit, now):
            window.record_start(now)
            starts.append(now)
    for first, after in zip(starts, starts[limit:], strict=False):
        assert after - first >= MINUTE


@given(st.integers(1, 5), st.lists(gaps, min_size=1, max_size=60))
def test_the_wait_is_long_enough_and_at_most_a_minute(limit: int, steps: list[float]) -> None:
    window, now = RateWindow(), 1e9
    for step in steps:
        now += step
        if wait := window.get_wait_seconds(limit, now):
            assert wait <= MINUTE
            now += ceil(wait)
            assert window.get_wait_seconds(limit, now) == 0
        window.record_start(now)


def test_a_lower_limit_applies_from_the_next_request_on() -> None:
    window = RateWindow()
    for second in range(10):
        window.record_start(100.0 + second)
    assert window.get_wait_seconds(10, 110.0) == pytest.approx(50)
    assert window.get_wait_seconds(2, 110.0) == pytest.approx(58)


BUDGETS = [
    (create_limited_key(tokens=100), KeyUsage(30, 0.0)),
    (create_limited_key(dollars=0.1), KeyUsage(10**9, 0.03)),
]


@pytest.mark.parametrize(("key", "amount"), BUDGETS)
@pytest.mark.parametrize("replicas", [1, 3])
async def test_reservations_exceed_a_budget_by_less_than_one(
    tmp_path: Path, key: ApiKey, amount: KeyUsage, replicas: int
) -> None:
    async with open_limits(tmp_path, Times(), replicas) as limits:
        results = [await reserve(limits[number % replicas], key, amount) for number in range(30)]
    assert results.count(True) == 4  # 30 + 30 + 30, and one that exceeds the budget


@pytest.mark.parametrize(("key", "amount"), BUDGETS)
async def test_a_settled_request_makes_room_for_what_it_did_not_use(
    tmp_path: Path, key: ApiKey, amount: KeyUsage
) -> None:
    half = KeyUsage(amount.tokens // 2, amount.dollars / 2)
    async with open_limits(tmp_path, Times(), 2) as (here, there):
        count = 0
        while await reserve(here if count % 2 else there, key, amount):
            settle(here if count % 2 else there, key, amount, half)
            for limits in (here, there, here, there):  # an idle replica returns its lease
                await limits.refresh()
            count += 1
        assert count == 7  # one after another, a request takes 15 of 100
        with pytest.raises(ApiError, match="has used up its budget") as caught:
            await here.admit(key)
    assert caught.value.headers == {"retry-after": str(SECONDS_PER_DAY // 2), "x-should-retry": "false"}


async def test_a_reservation_larger_than_the_budget_may_run_alone(tmp_path: Path) -> None:
    key, amount = create_limited_key(tokens=100), KeyUsage(10**6, 0.0)
    async with open_limits(tmp_path, Times(), 2) as (here, there):
        assert await reserve(here, key, amount)
        for limits in (here, there):
            meter, _ = await limits.admit(key)
            with pytest.raises(ApiError, match="running requests have reserved") as caught:
                await limits.reserve(key, meter, amount)
            assert (caught.value.code, int(caught.value.headers["retry-after"]) < MINUTE) == (
                "rate_limit_exceeded",
                True,
            )
        settle(here, key, amount, KeyUsage(10, 0.0))
        await here.refresh()
        assert await reserve(here, key, amount)


async def test_starts_are_shared_by_replicas(tmp_path: Path) -> None:
    key, times = create_limited_key(rpm=10), Times()
    async with open_limits(tmp_path, times, 3) as limits:
        for _ in range(3):
            results = [await reserve(limits[number % 3], key, NO_USAGE) for number in range(60)]
            for replica in limits:  # what they do not use, they return
                await replica.refresh()
                await replica.refresh()
                results.append(await reserve(replica, key, NO_USAGE))
            assert results.count(True) == 10
            times.pass_by(MINUTE / 2)
            assert not await reserve(limits[0], key, NO_USAGE)
            times.pass_by(MINUTE / 2)


async def test_a_refused_request_changes_nothing(tmp_path: Path) -> None:
    key = create_limited_key(tokens=100)
    async with open_limits(tmp_path, Times()) as (limits,):
        assert await reserve(limits, key, KeyUsage(100, 0.0))
        meter = limits.get_meter(key)
        before = meter.reserved, meter.spent
        for _ in range(50):
            assert not await reserve(limits, key, KeyUsage(1, 0.0))
        assert (meter.reserved, meter.spent) == before
        settle(limits, key, KeyUsage(100, 0.0), KeyUsage(1, 0.0))
        assert await reserve(limits, key, KeyUsage(99, 0.0))


@pytest.mark.parametrize("jump", [-400 * SECONDS_PER_DAY, -3600, 3600, SECONDS_PER_DAY, 400 * SECONDS_PER_DAY])
async def test_a_clock_that_is_set_neither_renews_nor_locks_a_budget(tmp_path: Path, jump: float) -> None:
    key, amount, times = create_limited_key(tokens=100), KeyUsage(60, 0.0), Times()
    async with open_limits(tmp_path, times) as (limits,):
        for _ in range(2):
            assert await reserve(limits, key, amount)
            settle(limits, key, amount, amount)
        times.wall += jump
        assert not await reserve(limits, key, amount)
        times.pass_by(SECONDS_PER_DAY)
        assert await reserve(limits, key, amount)
        await limits.stop()


async def test_a_start_with_a_wrong_clock_gives_at_most_one_budget_and_locks_none(tmp_path: Path) -> None:
    key, amount, times = create_limited_key(tokens=100), KeyUsage(100, 0.0), Times()
    admitted = list[bool]()
    for jump in (0.0, 300 * SECONDS_PER_DAY, 0.0, -300 * SECONDS_PER_DAY, 0.0):
        times.wall += jump
        async with open_limits(tmp_path, times) as (limits,):
            if result := await reserve(limits, key, amount):
                settle(limits, key, amount, amount)
            admitted.append(result)
            await limits.stop()
    assert admitted == [True, True, False, False, False]
    async with open_limits(tmp_path, times) as (limits,):
        times.pass_by(SECONDS_PER_DAY)  # although the stored time is 300 days ahead
        assert await reserve(limits, key, amount)


async def test_a_new_day_renews_the_budget_and_forgets_earlier_reservations(tmp_path: Path) -> None:
    key, amount, times = create_limited_key(tokens=100), KeyUsage(100, 0.0), Times()
    async with open_limits(tmp_path, times) as (limits,):
        assert await reserve(limits, key, amount)
        yesterday = limits.get_meter(key).day
        times.pass_by(SECONDS_PER_DAY / 2)
        assert await reserve(limits, key, amount)
        meter = limits.get_meter(key)
        limits.release(meter, amount, yesterday, amount)  # ends after midnight and counts for yesterday
        assert (meter.reserved, meter.spent) == (amount, NO_USAGE)
        assert not await reserve(limits, key, amount)


async def test_the_leases_of_a_dead_replica_expire_by_monotonic_time(tmp_path: Path) -> None:
    key, times = create_limited_key(tokens=1000, rpm=10), Times()
    async with open_limits(tmp_path, times, 2) as (here, dead):
        assert await reserve(dead, key, KeyUsage(1000, 0.0))
        assert not await reserve(here, key, KeyUsage(1, 0.0))
        await here.refresh()
        times.wall += 10 * SECONDS_PER_DAY  # does not expire it
        times.uptime += LEASE_SECONDS - 1
        await here.refresh()
        assert not await reserve(here, key, KeyUsage(1, 0.0))
        times.pass_by(2)
        await here.refresh()
        assert await reserve(here, key, KeyUsage(1000, 0.0))


async def test_a_replica_that_was_taken_for_dead_asks_again(tmp_path: Path) -> None:
    key, times = create_limited_key(tokens=1000), Times()
    async with open_limits(tmp_path, times, 2) as (here, suspended):
        assert await reserve(suspended, key, KeyUsage(1, 0.0))  # and has a lease of an eighth
        assert await reserve(here, key, KeyUsage(1, 0.0))
        times.pass_by(LEASE_SECONDS)
        await here.refresh()
        assert await reserve(here, key, KeyUsage(999, 0.0))
        assert not await reserve(suspended, key, KeyUsage(100, 0.0))


async def test_without_its_database_a_limit_admits_nothing_more_than_its_lease(tmp_path: Path) -> None:
    key = create_limited_key(tokens=1000)
    async with open_limits(tmp_path, Times()) as (limits,):
        assert await reserve(limits, key, KeyUsage(1, 0.0))
        meter = limits.get_meter(key)
        async with Ledger(f"sqlite:///{tmp_path}/l.sqlite3") as ledger, ledger.engine.begin() as connection:
            await connection.exec_driver_sql("DROP TABLE proxy_key_leases")
        assert limits.try_reserve(key, meter, KeyUsage(100, 0.0))
        for _ in range(2):
            with pytest.raises(ApiError) as caught:
                await limits.reserve(key, meter, KeyUsage(900, 0.0))
            assert (caught.value.status, caught.value.code) == (503, "limits_unavailable")
