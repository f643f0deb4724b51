"""Limits of keys: never more starts in a minute, and none once the day's budget is spent."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.access.limits import MINUTE, KeyLimits, RateWindow
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.api_keys import ApiKey, create_key
from clara_proxy.proxy.stores.key_usage import NO_USAGE, KeyUsage
from clara_proxy.proxy.stores.ledger_dialect import SECONDS_PER_DAY
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage

NOON = 1000 * SECONDS_PER_DAY + SECONDS_PER_DAY / 2
PRICE = Price(input=1e-3, output=1e-3)


def key(
    name: str = "alice", *, tokens: int | None = None, dollars: float | None = None, rpm: int | None = None
) -> ApiKey:
    plain = create_key(name, created=0.0)[1]
    return plain._replace(tokens_per_day=tokens, dollars_per_day=dollars, requests_per_minute=rpm)


def row(tokens: int, time: float = NOON, name: str = "alice") -> Row:
    plain_row = Row(id="r", at=time, key=name, tokens_received=tokens, tokens_sent=tokens)
    return apply_bill(plain_row, Usage(tokens, 0), PRICE)


gaps = st.floats(0, 90) | st.just(0.0) | st.just(MINUTE)


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


def test_a_key_without_limits_is_never_refused() -> None:
    limits, plain = KeyLimits(), key()
    for _ in range(1000):
        assert limits.find_refusal(plain, NOON) is None
        limits.start_request(plain, NOON)


def test_a_key_over_its_rate_gets_a_retry_time() -> None:
    limits, slow = KeyLimits(), key(rpm=2)
    for second in (0.0, 10.0):
        assert limits.find_refusal(slow, NOON + second) is None
        limits.start_request(slow, NOON + second)
    refusal = limits.find_refusal(slow, NOON + 15)
    assert refusal is not None
    assert refusal.retry_after == pytest.approx(45)
    assert not refusal.is_budget_spent
    assert limits.find_refusal(key("bob", rpm=2), NOON + 15) is None
    assert limits.find_refusal(slow, NOON + 60) is None


@pytest.mark.parametrize("budget", [key(tokens=100), key(dollars=0.1)])
def test_a_spent_budget_is_refused_until_midnight(budget: ApiKey) -> None:
    limits = KeyLimits()
    assert limits.find_refusal(budget, NOON) is None
    limits.record_row(row(99))
    assert limits.find_refusal(budget, NOON) is None
    limits.record_row(row(1))
    refusal = limits.find_refusal(budget, NOON)
    assert refusal is not None
    assert (refusal.retry_after, refusal.is_budget_spent) == (SECONDS_PER_DAY / 2, True)
    assert limits.find_refusal(budget, NOON + SECONDS_PER_DAY / 2) is None


def test_running_requests_count_as_average_requests() -> None:
    limits, budget = KeyLimits(), key(tokens=100)
    assert limits.find_refusal(budget, NOON) is None
    limits.record_row(row(40))
    meter = limits.start_request(budget, NOON)
    assert limits.find_refusal(budget, NOON) is None  # 40 are used, 40 expected
    limits.start_request(budget, NOON)
    refusal = limits.find_refusal(budget, NOON)
    assert refusal is not None  # 120 expected
    assert (refusal.retry_after < MINUTE, refusal.is_budget_spent) == (True, False)
    meter.running_requests -= 1
    assert limits.find_refusal(budget, NOON) is None


def test_cancelled_requests_without_a_bill_count_against_the_budget() -> None:
    limits, budget = KeyLimits(), key(dollars=0.1)
    cancelled = Row(id="r", at=NOON, key="alice", outcome="cancelled", tokens_received=100, tokens_sent=100)
    limits.find_refusal(budget, NOON)
    limits.record_row(apply_bill(cancelled, None, PRICE))
    assert limits.find_refusal(budget, NOON) is not None
    limits.merge_stored_usage({}, limits.get_own_usage(int(NOON // SECONDS_PER_DAY)), int(NOON // SECONDS_PER_DAY))
    assert limits.find_refusal(budget, NOON) is not None


def test_rows_of_other_keys_and_of_yesterday_do_not_count() -> None:
    limits, budget = KeyLimits(), key(tokens=100)
    limits.find_refusal(budget, NOON)
    limits.record_row(row(1000, name="bob"))
    limits.record_row(row(1000, name=""))
    limits.record_row(row(1000, time=NOON - SECONDS_PER_DAY))
    assert limits.find_refusal(budget, NOON) is None


amounts = st.integers(0, 50)


@given(st.lists(st.tuples(amounts, amounts, amounts), max_size=10))
def test_two_processes_agree_after_each_refresh(rounds: list[tuple[int, int, int]]) -> None:
    """The ledger has the usage before a refresh; `late` rows are written during the refresh."""
    ours, ledger, day = KeyLimits(), 0, int(NOON // SECONDS_PER_DAY)
    budget = key(tokens=10**9)
    ours.find_refusal(budget, NOON)
    usages = [0]
    for mine, theirs, late in rounds:
        ours.record_row(row(mine))
        ledger += mine + theirs
        before = ours.get_own_usage(day)
        ours.record_row(row(late))
        ours.merge_stored_usage({"alice": KeyUsage(1, ledger, 0.0)}, before, day)
        ledger += late
        usages.append(ours.start_request(budget, NOON).usage.tokens)
        assert usages[-1] == ledger
    assert all(earlier <= later for earlier, later in pairwise(usages))


def test_a_refresh_never_lowers_the_usage() -> None:
    limits, budget, day = KeyLimits(), key(tokens=100), int(NOON // SECONDS_PER_DAY)
    limits.find_refusal(budget, NOON)
    limits.record_row(row(100))
    limits.merge_stored_usage({"alice": NO_USAGE}, limits.get_own_usage(day), day)
    assert limits.find_refusal(budget, NOON) is not None


def test_stored_usage_of_yesterday_does_not_count_today() -> None:
    limits, budget, day = KeyLimits(), key(tokens=100), int(NOON // SECONDS_PER_DAY)
    limits.find_refusal(budget, NOON)
    limits.merge_stored_usage({"alice": KeyUsage(1, 100, 0.0)}, {}, day - 1)
    assert limits.find_refusal(budget, NOON) is None
    limits.merge_stored_usage({"alice": KeyUsage(1, 100, 0.0)}, {}, day)
    assert limits.find_refusal(budget, NOON) is not None
