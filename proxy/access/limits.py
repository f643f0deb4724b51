"""How much a key may do: requests a minute, tokens and dollars a day (UTC). Pure: clocks and rows are handed in.

It lets nobody in (`gate` does) and reads no ledger (`keyring` does). The invariants: of one key no more than its
requests begin within any 60 seconds, and a wait that was told is long enough; what is used of a day never falls. Each
process counts for itself and hears of the others now and then, so several may together go beyond a limit.
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
RETRY_SECONDS = 5.0  # seconds, after which requests that run now may have ended


class Refusal(NamedTuple):
    """Why a request has to wait, and for how many seconds; `spent` when it is a day's budget that is gone."""

    message: str
    retry_after: float
    is_budget_spent: bool


class RateWindow:
    """The beginnings of the last minute."""

    def __init__(self) -> None:
        self._start_times: deque[float] = deque()

    def get_wait_seconds(self, most: int, now: float) -> float:
        """Return the seconds until one more of `most` may begin; 0 when it may now."""
        while self._start_times and self._start_times[0] <= now - MINUTE:
            self._start_times.popleft()
        if len(self._start_times) < most:
            return 0.0
        # Of more than `most` (a key that was replaced by one with a lower limit) the last `most` are in the way.
        return max(0.0, self._start_times[len(self._start_times) - most] + MINUTE - now)

    def record_start(self, now: float) -> None:
        """Count one more."""
        self._start_times.append(now)


@dataclass(slots=True)
class KeyMeter:
    """One key's requests: of the last minute, of this moment, and what those of the day have used.

    `heard` is the part of `used` that this process knows from its own rows; `unbilled` are dollars beyond it, of
    requests whose bill did not come.
    """

    window: RateWindow = field(default_factory=RateWindow)
    running_requests: int = 0
    day: int = 0
    usage: KeyUsage = NO_USAGE
    own_usage: KeyUsage = NO_USAGE
    unbilled_dollars: float = 0.0

    def reset_on_new_day(self, day: int) -> None:
        """Begin anew when it is another day."""
        if day > self.day:
            self.day, self.usage, self.own_usage, self.unbilled_dollars = day, NO_USAGE, NO_USAGE, 0.0

    def find_spent_budget(self, key: ApiKey) -> str | None:
        """Name the budget that is gone."""
        return _find_exceeded_budget(key, self.usage.tokens, self.usage.dollars + self.unbilled_dollars)

    def find_nearly_spent_budget(self, key: ApiKey) -> str | None:
        """Name the budget that is gone once the running requests have ended, if they are as the others were."""
        share = 1 + self.running_requests / max(1, self.usage.requests)
        return _find_exceeded_budget(
            key, self.usage.tokens * share, (self.usage.dollars + self.unbilled_dollars) * share
        )


class KeyLimits:
    """The meters of all keys, by name: a key that takes the place of another of its name goes on where that was."""

    def __init__(self) -> None:
        self._meters: dict[str, KeyMeter] = {}

    def find_refusal(self, key: ApiKey, now: float) -> Refusal | None:
        """Say why this key may begin nothing now (Unix seconds), if so."""
        meter = self._get_meter(key.name, now)
        if (budget := meter.find_spent_budget(key)) is not None:
            return Refusal(
                f"the key {key.name} has used its {budget} of today (UTC)",
                SECONDS_PER_DAY - now % SECONDS_PER_DAY,
                is_budget_spent=True,
            )
        if meter.running_requests and (budget := meter.find_nearly_spent_budget(key)) is not None:
            message = f"what the key {key.name} has running may use the rest of its {budget} of today (UTC)"
            return Refusal(message, RETRY_SECONDS, is_budget_spent=False)
        most = key.requests_per_minute
        if most is not None and (wait := meter.window.get_wait_seconds(most, now)) > 0:
            return Refusal(f"the key {key.name} may begin {most:,} requests a minute", wait, is_budget_spent=False)
        return None

    def start_request(self, key: ApiKey, now: float) -> KeyMeter:
        """Count a request that begins; whoever called this takes it off the meter's `running` at its end."""
        meter = self._get_meter(key.name, now)
        meter.running_requests += 1
        if key.requests_per_minute is not None:
            meter.window.record_start(now)
        return meter

    def record_row(self, row: Row) -> None:
        """Count what a request used, when its row is written; for the ledger's `hearers`."""
        if row.key and (meter := self._meters.get(row.key)) is not None and int(row.at // SECONDS_PER_DAY) == meter.day:
            used = key_usage.measure_row(row)
            meter.usage, meter.own_usage = meter.usage.add(used), meter.own_usage.add(used)
            meter.unbilled_dollars += key_usage.estimate_unbilled_cost(row)

    def get_own_usage(self, day: int) -> dict[str, KeyUsage]:
        """Return what was heard of that day so far."""
        return {name: meter.own_usage for name, meter in self._meters.items() if meter.day == day}

    def merge_stored_usage(self, stored: Mapping[str, KeyUsage], before: Mapping[str, KeyUsage], day: int) -> None:
        """Take over what the ledger holds of a day: it has all that was heard `before`, and what other processes had.

        What was heard since is added, even if the ledger has some of it already: an error to the safe side, of the
        few milliseconds in between, and gone at the next day.
        """
        for name, use in stored.items():
            meter = self._meters.setdefault(name, KeyMeter())
            meter.reset_on_new_day(day)
            if meter.day == day:
                since = meter.own_usage.subtract(before.get(name, NO_USAGE))
                meter.usage = meter.usage.max_with(use.add(since))

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
