"""Errors of limits: 429 for a request that must wait, 403 for one that cannot be metered, 503 without a database."""

from math import ceil

from ..protocols.api_errors import ApiError
from ..stores.api_keys import ApiKey
from ..stores.ledger_dialect import SECONDS_PER_DAY

RETRY_SECONDS = 5  # seconds after which running requests may have ended
# The clients of OpenAI and Anthropic retry after a second or two unless this header forbids it.
_NO_RETRY = {"x-should-retry": "false"}


def budget_error(key: ApiKey, now: float, *, is_spent: bool) -> ApiError:
    """Return a 429 for a budget that is used up, or else reserved by running requests."""
    limits = [] if key.tokens_per_day is None else [f"{key.tokens_per_day:,} tokens"]
    limits += [] if key.dollars_per_day is None else [f"${key.dollars_per_day:,.2f}"]
    budget = " or ".join(limits)
    if is_spent:
        message = f"the key {key.name!r} has used up its budget of {budget} for today (UTC)"
        headers = _retry_after(SECONDS_PER_DAY - now % SECONDS_PER_DAY) | _NO_RETRY
        return ApiError(429, message, code="insufficient_quota", headers=headers)
    message = (
        f"running requests have reserved the rest of the budget of {budget} for today (UTC) of the key {key.name!r}; "
        "retry later, or set a lower limit of output tokens"
    )
    return ApiError(429, message, code="rate_limit_exceeded", headers=_retry_after(RETRY_SECONDS))


def rate_error(key: ApiKey, wait: float) -> ApiError:
    """Return a 429 for too many requests a minute, with the seconds to wait."""
    message = f"the key {key.name!r} is limited to {key.requests_per_minute:,} requests a minute"
    return ApiError(429, message, code="rate_limit_exceeded", headers=_retry_after(wait))


def unmetered_error(key: ApiKey, problem: str, remedy: str) -> ApiError:
    """Return a 403 for a request without a bound of its cost."""
    return ApiError(403, f"the key {key.name!r} has a budget, but {problem}; {remedy}", code="unmetered")


def unavailable_error() -> ApiError:
    """Return a 503 for limits that cannot be checked."""
    message = "the limits of this key cannot be checked now; retry later"
    return ApiError(503, message, code="limits_unavailable", headers=_retry_after(RETRY_SECONDS))


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, ceil(seconds)))}
