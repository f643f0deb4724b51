"""Builds the dashboard's overview of a time span from the ledger and CLaRa's status, and caches it.

It is read-only and holds no text of a conversation. Invariant: the ledger is queried once per span and `CACHE_SECONDS`,
however many browsers poll.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..reports import agreement
from ..runtime.services import Services
from ..stores import ledger_queries
from ..stores.ledger import Total
from ..stores.ledger_dialect import SECONDS_PER_DAY
from . import recent_requests, waterfall
from .waterfall import InputBill

SAMPLE_ROWS = 2_000  # newest rows summarized one by one
MAX_GROUPS = 40  # groups per grouping
OVERVIEW_GROUPINGS = ("model", "mode", "tool", "kind", "project")
CACHE_SECONDS = 10.0

Json = dict[str, Any]


class TimeSpan(NamedTuple):
    """A time span until now, and the width of its chart bars. Bars of one day (UTC) are read from daily totals."""

    seconds: float
    bar_seconds: float

    def compute_start(self, now: float) -> float:
        """Return the start of the span in Unix seconds, aligned to a whole bar."""
        return max(0.0, (now - self.seconds) // self.bar_seconds * self.bar_seconds + self.bar_seconds)


TIME_SPANS = {
    "1h": TimeSpan(3600, 300),
    "24h": TimeSpan(SECONDS_PER_DAY, 3600),
    "7d": TimeSpan(7 * SECONDS_PER_DAY, SECONDS_PER_DAY),
    "30d": TimeSpan(30 * SECONDS_PER_DAY, SECONDS_PER_DAY),
    "90d": TimeSpan(90 * SECONDS_PER_DAY, SECONDS_PER_DAY),
    "all": TimeSpan(100 * 365 * SECONDS_PER_DAY, SECONDS_PER_DAY),
}


class Overview:
    """Builds and caches overviews of one proxy's ledger."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._locks = {name: asyncio.Lock() for name in TIME_SPANS}
        self._cache: dict[str, tuple[float, Json]] = {}

    async def get_overview(self, name: str) -> Json:
        """Return the overview of a span (a key of `TIME_SPANS`), at most `CACHE_SECONDS` old."""
        async with self._locks[name]:
            built, overview = self._cache.get(name, (float("-inf"), {}))
            if time.monotonic() - built > CACHE_SECONDS:
                overview = await self._build_overview(name, time.time())
                self._cache[name] = (time.monotonic(), overview)
            return overview

    async def _build_overview(self, name: str, now: float) -> Json:
        span, ledger = TIME_SPANS[name], self._services.ledger
        await ledger.flush()
        start = span.compute_start(now)
        total = next(iter(await ledger.read_totals("all", start)), None)
        groups = {by: await ledger.read_totals(by, start) for by in OVERVIEW_GROUPINGS}
        rows = await ledger.read_newest_rows(start, SAMPLE_ROWS)
        shadow_checks = await agreement.read_agreement(ledger, start)
        return {
            "span": name,
            "now": now,
            "start": start,
            "width": span.bar_seconds,
            "total": total,
            "steps": None if total is None else await self._compute_steps(total, groups["kind"], start),
            "series": await self._build_series(span, start, now),
            "groups": {by: totals[:MAX_GROUPS] for by, totals in groups.items()},
            "more": {by: max(0, len(totals) - MAX_GROUPS) for by, totals in groups.items()},
            "newest": {**await asyncio.to_thread(recent_requests.summarize_rows, rows), "all": len(rows) < SAMPLE_ROWS},
            "shadows": None if shadow_checks is None else agreement.serialize_agreement(shadow_checks),
            "rows_lost": ledger.lost_rows + ledger.previously_lost_rows,
            "clara": None if self._services.clara is None else self._services.clara.status(),
            "auto": self._services.auto_mode,
            "keep_content": self._services.settings.keep_content,
        }

    async def _compute_steps(self, total: Total, kinds: list[Total], start: float) -> dict[str, int]:
        """Return the steps of a span, in tokens."""
        shadow_bill = InputBill()
        if total["shadows"]:
            shadow_bill = InputBill(*await ledger_queries.sum_shadow_bills(self._services.ledger, start))
        return waterfall.compute_span_steps(total, kinds, shadow_bill)

    async def _build_series(self, span: TimeSpan, start: float, now: float) -> list[Json]:
        """Return the totals of each bar with requests; `at` is the start of the bar in Unix seconds."""
        ledger = self._services.ledger
        if span.bar_seconds == SECONDS_PER_DAY:
            days = await ledger.read_totals("day", start)
            return [{**day, "at": _parse_day(str(day["group"]))} for day in days]
        bars: list[Json] = []
        bar_start = start
        while bar_start < now:
            bar_end = bar_start + span.bar_seconds
            bars += [{**total, "at": bar_start} for total in await ledger.read_totals("all", bar_start, bar_end)]
            bar_start = bar_end
        return bars


def _parse_day(date: str) -> float:
    return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()
