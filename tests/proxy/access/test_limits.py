"""How much a key may do: never more in a minute, and nothing once the day's budget is gone."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.access.limits import MINUTE, Limits, Window
from clara_proxy.proxy.stores.accounting import settle
from clara_proxy.proxy.stores.api_keys import Key, made
from clara_proxy.proxy.stores.key_usage import NOTHING, Use
from clara_proxy.proxy.stores.ledger_dialect import DAY
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage

NOON = 1000 * DAY + DAY / 2
PRICE = Price(input=1e-3, output=1e-3)


def key(name: str = "alice", *, tokens: int | None = None, dollars: float | None = None, rpm: int | None = None) -> Key:
    plain = made(name, created=0.0)[1]
    return plain._replace(tokens_per_day=tokens, dollars_per_day=dollars, requests_per_minute=rpm)


def row(tokens: int, at: float = NOON, name: str = "alice") -> Row:
    one = Row(id="r", at=at, key=name, tokens_received=tokens, tokens_sent=tokens)
    return settle(one, Usage(tokens, 0), PRICE)


gaps = st.floats(0, 90) | st.just(0.0) | st.just(MINUTE)


@given(st.integers(1, 5), st.lists(gaps, max_size=60))
def test_no_more_than_its_requests_begin_in_any_minute(most: int, steps: list[float]) -> None:
    window, now, begun = Window(), 1e9, list[float]()
    for step in steps:
        now += step
        if not window.wait(most, now):
            window.begin(now)
            begun.append(now)
    for first, after in zip(begun, begun[most:], strict=False):
        assert after - first >= MINUTE


@given(st.integers(1, 5), st.lists(gaps, min_size=1, max_size=60))
def test_a_wait_that_is_told_is_long_enough_and_not_too_long(most: int, steps: list[float]) -> None:
    window, now = Window(), 1e9
    for step in steps:
        now += step
        if wait := window.wait(most, now):
            assert wait <= MINUTE
            now += ceil(wait)
            assert window.wait(most, now) == 0
        window.begin(now)


def test_a_lower_limit_holds_from_the_next_request_on() -> None:
    window = Window()
    for at in range(10):
        window.begin(100.0 + at)
    assert window.wait(10, 110.0) == pytest.approx(50)
    assert window.wait(2, 110.0) == pytest.approx(58)


def test_a_key_without_limits_is_never_refused() -> None:
    limits, plain = Limits(), key()
    for _ in range(1000):
        assert limits.refusal(plain, NOON) is None
        limits.begin(plain, NOON)


def test_a_key_that_begins_too_much_is_told_when_to_come_again() -> None:
    limits, slow = Limits(), key(rpm=2)
    for second in (0.0, 10.0):
        assert limits.refusal(slow, NOON + second) is None
        limits.begin(slow, NOON + second)
    refusal = limits.refusal(slow, NOON + 15)
    assert refusal is not None
    assert refusal.wait == pytest.approx(45)
    assert not refusal.spent
    assert limits.refusal(key("bob", rpm=2), NOON + 15) is None
    assert limits.refusal(slow, NOON + 60) is None


@pytest.mark.parametrize("budget", [key(tokens=100), key(dollars=0.1)])
def test_a_budget_that_is_gone_is_gone_until_midnight(budget: Key) -> None:
    limits = Limits()
    assert limits.refusal(budget, NOON) is None
    limits.hear(row(99))
    assert limits.refusal(budget, NOON) is None
    limits.hear(row(1))
    refusal = limits.refusal(budget, NOON)
    assert refusal is not None
    assert (refusal.wait, refusal.spent) == (DAY / 2, True)
    assert limits.refusal(budget, NOON + DAY / 2) is None


def test_requests_that_run_are_taken_to_be_like_those_that_ended() -> None:
    limits, budget = Limits(), key(tokens=100)
    assert limits.refusal(budget, NOON) is None
    limits.hear(row(40))
    meter = limits.begin(budget, NOON)
    assert limits.refusal(budget, NOON) is None  # 40 are used, 40 expected
    limits.begin(budget, NOON)
    refusal = limits.refusal(budget, NOON)
    assert refusal is not None  # 120 expected
    assert (refusal.wait < MINUTE, refusal.spent) == (True, False)
    meter.running -= 1
    assert limits.refusal(budget, NOON) is None


def test_who_leaves_before_the_bill_comes_uses_up_the_budget_too() -> None:
    limits, budget = Limits(), key(dollars=0.1)
    left = Row(id="r", at=NOON, key="alice", outcome="cancelled", tokens_received=100, tokens_sent=100)
    limits.refusal(budget, NOON)
    limits.hear(settle(left, None, PRICE))
    assert limits.refusal(budget, NOON) is not None
    limits.correct({}, limits.heard(int(NOON // DAY)), int(NOON // DAY))
    assert limits.refusal(budget, NOON) is not None


def test_rows_of_others_and_of_yesterday_do_not_count() -> None:
    limits, budget = Limits(), key(tokens=100)
    limits.refusal(budget, NOON)
    limits.hear(row(1000, name="bob"))
    limits.hear(row(1000, name=""))
    limits.hear(row(1000, at=NOON - DAY))
    assert limits.refusal(budget, NOON) is None


amounts = st.integers(0, 50)


@given(st.lists(st.tuples(amounts, amounts, amounts), max_size=10))
def test_two_processes_know_of_each_other_after_each_look(rounds: list[tuple[int, int, int]]) -> None:
    """The ledger holds what was heard before a look; `late` is written while the look is on its way."""
    ours, ledger, day = Limits(), 0, int(NOON // DAY)
    budget = key(tokens=10**9)
    ours.refusal(budget, NOON)
    known = [0]
    for mine, theirs, late in rounds:
        ours.hear(row(mine))
        ledger += mine + theirs
        before = ours.heard(day)
        ours.hear(row(late))
        ours.correct({"alice": Use(1, ledger, 0.0)}, before, day)
        ledger += late
        known.append(ours.begin(budget, NOON).used.tokens)
        assert known[-1] == ledger
    assert all(one <= two for one, two in pairwise(known))


def test_a_look_that_finds_less_than_was_heard_takes_nothing_back() -> None:
    limits, budget, day = Limits(), key(tokens=100), int(NOON // DAY)
    limits.refusal(budget, NOON)
    limits.hear(row(100))
    limits.correct({"alice": NOTHING}, limits.heard(day), day)
    assert limits.refusal(budget, NOON) is not None


def test_what_is_learnt_of_yesterday_is_not_of_today() -> None:
    limits, budget, day = Limits(), key(tokens=100), int(NOON // DAY)
    limits.refusal(budget, NOON)
    limits.correct({"alice": Use(1, 100, 0.0)}, {}, day - 1)
    assert limits.refusal(budget, NOON) is None
    limits.correct({"alice": Use(1, 100, 0.0)}, {}, day)
    assert limits.refusal(budget, NOON) is not None
