"""Many requests at once on every kind of limit, in two proxies that share SQLite or PostgreSQL."""

from typing import Any

import pytest

from clara_proxy.benchmarks.attack import budgets_attacks
from clara_proxy.benchmarks.attack.budgets_attacks import LIMITS

REQUESTS = 200  # the benchmark sends 1,000


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: next(iter(limits)))
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_parallel_requests_never_exceed_a_limit_by_more_than_one(
    kind: str, limits: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    database = None if kind == "sqlite" else request.getfixturevalue("postgres").reset_database()
    verdict = await budgets_attacks.attack_in_parallel(database, 2, limits, REQUESTS)
    assert verdict.has_held, verdict.detail


async def test_refused_requests_do_not_make_room_for_parallel_ones() -> None:
    verdict = await budgets_attacks.attack_in_parallel(None, 1, {"tokens_per_day": 3000}, REQUESTS, REQUESTS)
    assert verdict.has_held, verdict.detail


async def test_a_stream_that_is_left_before_its_usage_counts() -> None:
    verdict = await budgets_attacks.attack_with_abandoned_streams(15)
    assert verdict.has_held, verdict.detail


async def test_what_cannot_be_counted_is_not_forwarded() -> None:
    for verdict in (
        await budgets_attacks.attack_with_uncountable_bodies(),
        await budgets_attacks.attack_with_unknown_prices(6),
    ):
        assert verdict.has_held, verdict.detail
