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
from ..stores.api_keys import Key
from ..stores.key_usage import NOTHING, Use
from ..stores.ledger_dialect import DAY
from ..stores.ledger_row import Row

MINUTE = 60.0  # seconds
SOON = 5.0  # seconds, after which requests that run now may have ended


class Refusal(NamedTuple):
    """Why a request has to wait, and for how many seconds; `spent` when it is a day's budget that is gone."""

    message: str
    wait: float
    spent: bool


class Window:
    """The beginnings of the last minute."""

    def __init__(self) -> None:
        self._begun: deque[float] = deque()

    def wait(self, most: int, now: float) -> float:
        """Return the seconds until one more of `most` may begin; 0 when it may now."""
        while self._begun and self._begun[0] <= now - MINUTE:
            self._begun.popleft()
        if len(self._begun) < most:
            return 0.0
        # Of more than `most` (a key that was replaced by one with a lower limit) the last `most` are in the way.
        return max(0.0, self._begun[len(self._begun) - most] + MINUTE - now)

    def begin(self, now: float) -> None:
        """Count one more."""
        self._begun.append(now)


@dataclass(slots=True)
class Meter:
    """One key's requests: of the last minute, of this moment, and what those of the day have used.

    `heard` is the part of `used` that this process knows from its own rows; `unbilled` are dollars beyond it, of
    requests whose bill did not come.
    """

    window: Window = field(default_factory=Window)
    running: int = 0
    day: int = 0
    used: Use = NOTHING
    heard: Use = NOTHING
    unbilled: float = 0.0

    def turn(self, day: int) -> None:
        """Begin anew when it is another day."""
        if day > self.day:
            self.day, self.used, self.heard, self.unbilled = day, NOTHING, NOTHING, 0.0

    def spent(self, key: Key) -> str | None:
        """Name the budget that is gone."""
        return _gone(key, self.used.tokens, self.used.dollars + self.unbilled)

    def soon_spent(self, key: Key) -> str | None:
        """Name the budget that is gone once the running requests have ended, if they are as the others were."""
        share = 1 + self.running / max(1, self.used.requests)
        return _gone(key, self.used.tokens * share, (self.used.dollars + self.unbilled) * share)


class Limits:
    """The meters of all keys, by name: a key that takes the place of another of its name goes on where that was."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def refusal(self, key: Key, now: float) -> Refusal | None:
        """Say why this key may begin nothing now (Unix seconds), if so."""
        meter = self._meter(key.name, now)
        if (budget := meter.spent(key)) is not None:
            return Refusal(f"the key {key.name} has used its {budget} of today (UTC)", DAY - now % DAY, spent=True)
        if meter.running and (budget := meter.soon_spent(key)) is not None:
            message = f"what the key {key.name} has running may use the rest of its {budget} of today (UTC)"
            return Refusal(message, SOON, spent=False)
        most = key.requests_per_minute
        if most is not None and (wait := meter.window.wait(most, now)) > 0:
            return Refusal(f"the key {key.name} may begin {most:,} requests a minute", wait, spent=False)
        return None

    def begin(self, key: Key, now: float) -> Meter:
        """Count a request that begins; whoever called this takes it off the meter's `running` at its end."""
        meter = self._meter(key.name, now)
        meter.running += 1
        if key.requests_per_minute is not None:
            meter.window.begin(now)
        return meter

    def hear(self, row: Row) -> None:
        """Count what a request used, when its row is written; for the ledger's `hearers`."""
        if row.key and (meter := self._meters.get(row.key)) is not None and int(row.at // DAY) == meter.day:
            used = key_usage.of(row)
            meter.used, meter.heard = meter.used.plus(used), meter.heard.plus(used)
            meter.unbilled += key_usage.unbilled(row)

    def heard(self, day: int) -> dict[str, Use]:
        """Return what was heard of that day so far."""
        return {name: meter.heard for name, meter in self._meters.items() if meter.day == day}

    def correct(self, stored: Mapping[str, Use], before: Mapping[str, Use], day: int) -> None:
        """Take over what the ledger holds of a day: it has all that was heard `before`, and what other processes had.

        What was heard since is added, even if the ledger has some of it already: an error to the safe side, of the
        few milliseconds in between, and gone at the next day.
        """
        for name, use in stored.items():
            meter = self._meters.setdefault(name, Meter())
            meter.turn(day)
            if meter.day == day:
                since = meter.heard.minus(before.get(name, NOTHING))
                meter.used = meter.used.most(use.plus(since))

    def _meter(self, name: str, now: float) -> Meter:
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = Meter()
        meter.turn(int(now // DAY))
        return meter


def _gone(key: Key, tokens: float, dollars: float) -> str | None:
    if key.tokens_per_day is not None and tokens >= key.tokens_per_day:
        return f"{key.tokens_per_day:,} tokens"
    if key.dollars_per_day is not None and dollars >= key.dollars_per_day:
        return f"${key.dollars_per_day:,.2f}"
    return None
