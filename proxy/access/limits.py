"""Limits of keys: requests a minute, tokens and dollars a day (UTC). Clocks and rows are arguments.

A key never starts more than its requests within any 60 seconds, and a `retry-after` is always long enough. The usage of
a day never falls. Each process counts for itself and reads the others' usage from time to time, so several processes
together may exceed a limit.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..stores import key_usage
from ..stores.api_keys import ApiKey
from ..stores.key_usage import NO_USAGE, KeyUsage
from ..stores.ledger_dialect import SECONDS_PER_DAY
from ..stores.ledger_row import Row

MINUTE = 60.0  # seconds
RETRY_SECONDS = 5.0  # seconds after which running requests may have ended


class Refusal(NamedTuple):
    """The reason why a request must wait, and for how many seconds. `is_budget_spent`: a daily budget is used up."""

    message: str
    retry_after: float
    is_budget_spent: bool


class RateWindow:
    """The start times of the last minute."""

    def __init__(self) -> None:
        self._start_times: deque[float] = deque()

    def get_wait_seconds(self, limit: int, now: float) -> float:
        """Return the seconds until another request may start under `limit` requests a minute; 0 if it may start now."""
        while self._start_times and self._start_times[0] <= now - MINUTE:
            self._start_times.popleft()
        if len(self._start_times) < limit:
            return 0.0
        # If the limit was lowered, more than `limit` are in the window, and only the last `limit` of them count.
        return max(0.0, self._start_times[len(self._start_times) - limit] + MINUTE - now)

    def record_start(self, now: float) -> None:
        """Record the start of a request."""
        self._start_times.append(now)


@dataclass(slots=True)
class KeyMeter:
    """One key's requests of the last minute, its running requests, and its usage of the day.

    `own_usage` is the part of `usage` from this process's own rows. `unbilled_dollars` are estimates, in addition to
    `usage`, for requests whose usage the upstream did not report.
    """

    window: RateWindow = field(default_factory=RateWindow)
    running_requests: int = 0
    day: int = 0
    usage: KeyUsage = NO_USAGE
    own_usage: KeyUsage = NO_USAGE
    unbilled_dollars: float = 0.0

    def reset_on_new_day(self, day: int) -> None:
        """Reset the usage when a new day begins."""
        if day > self.day:
            self.day, self.usage, self.own_usage, self.unbilled_dollars = day, NO_USAGE, NO_USAGE, 0.0

    def find_spent_budget(self, key: ApiKey) -> str | None:
        """Return the description of a budget that is used up, if any."""
        return _find_exceeded_budget(key, self.usage.tokens, self.usage.dollars + self.unbilled_dollars)

    def find_nearly_spent_budget(self, key: ApiKey) -> str | None:
        """Return the description of a budget that average running requests will use up, if any."""
        share = 1 + self.running_requests / max(1, self.usage.requests)
        return _find_exceeded_budget(
            key, self.usage.tokens * share, (self.usage.dollars + self.unbilled_dollars) * share
        )


class KeyLimits:
    """The meters of all keys by name; a new key with the name of an old one continues its meter."""

    def __init__(self) -> None:
        self._meters: dict[str, KeyMeter] = {}

    def find_refusal(self, key: ApiKey, now: float) -> Refusal | None:
        """Return the reason why this key may not start a request now (Unix seconds), or None if it may."""
        meter = self._get_meter(key.name, now)
        if (budget := meter.find_spent_budget(key)) is not None:
            return Refusal(
                f"the key {key.name!r} has used up its budget of {budget} for today (UTC)",
                SECONDS_PER_DAY - now % SECONDS_PER_DAY,
                is_budget_spent=True,
            )
        if meter.running_requests and (budget := meter.find_nearly_spent_budget(key)) is not None:
            message = f"running requests may use up the budget of {budget} for today (UTC) of the key {key.name!r}"
            return Refusal(message, RETRY_SECONDS, is_budget_spent=False)
        limit = key.requests_per_minute
        if limit is not None and (wait := meter.window.get_wait_seconds(limit, now)) > 0:
            message = f"the key {key.name!r} is limited to {limit:,} requests a minute"
            return Refusal(message, wait, is_budget_spent=False)
        return None

    def start_request(self, key: ApiKey, now: float) -> KeyMeter:
        """Record the start of a request; at its end the caller decrements the meter's `running_requests`."""
        meter = self._get_meter(key.name, now)
        meter.running_requests += 1
        if key.requests_per_minute is not None:
            meter.window.record_start(now)
        return meter

    def record_row(self, row: Row) -> None:
        """Add the usage of a request when its row is written; an observer of the ledger."""
        if row.key and (meter := self._meters.get(row.key)) is not None and int(row.at // SECONDS_PER_DAY) == meter.day:
            usage = key_usage.measure_row(row)
            meter.usage, meter.own_usage = meter.usage.add(usage), meter.own_usage.add(usage)
            meter.unbilled_dollars += key_usage.estimate_unbilled_cost(row)

    def get_own_usage(self, day: int) -> dict[str, KeyUsage]:
        """Return the usage of that day from this process's own rows."""
        return {name: meter.own_usage for name, meter in self._meters.items() if meter.day == day}

    def merge_stored_usage(self, stored: Mapping[str, KeyUsage], before: Mapping[str, KeyUsage], day: int) -> None:
        """Set the usage of a day to the ledger's, plus this process's own usage since `before`.

        Rows written during the read may count twice; a limit then applies slightly too early.
        """
        for name, stored_usage in stored.items():
            meter = self._meters.setdefault(name, KeyMeter())
            meter.reset_on_new_day(day)
            if meter.day == day:
                new_usage = meter.own_usage.subtract(before.get(name, NO_USAGE))
                meter.usage = meter.usage.max_with(stored_usage.add(new_usage))

    def _get_meter(self, name: str, now: float) -> KeyMeter:
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = KeyMeter()
        meter.reset_on_new_day(int(now // SECONDS_PER_DAY))
        return meter


def _find_exceeded_budget(key: ApiKey, tokens: float, dollars: float) -> str | None:
    if key.tokens_per_day is not None and tokens >= key.tokens_per_day:
        return f"{key.tokens_per_day:,} tokens"
    if key.dollars_per_day is not None and dollars >= key.dollars_per_day:
        return f"${key.dollars_per_day:,.2f}"
    return None
