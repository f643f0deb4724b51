"""What the dashboard shows at a glance, gathered for a span of time and kept for some seconds.

It reads the ledger and asks CLaRa how it is; it writes nothing and no text of a conversation is in it. The invariant:
however many people look, the ledger is asked once per span and `FRESH` seconds.
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

SAMPLE_ROWS = 2_000  # rows that are looked at one by one
MAX_GROUPS = 40  # groups of a kind
OVERVIEW_GROUPINGS = ("model", "mode", "tool", "kind", "project")
CACHE_SECONDS = 10.0  # seconds

Json = dict[str, Any]


class TimeSpan(NamedTuple):
    """A time until now: seconds, and the width of a bar in a chart. Whole days (UTC) are not added up anew."""

    seconds: float
    bar_seconds: float

    def compute_start(self, now: float) -> float:
        """Return where the span begins, in Unix seconds: with a whole bar."""
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
    """Gathers what there is to see of one proxy's ledger."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._locks = {name: asyncio.Lock() for name in TIME_SPANS}
        self._cache: dict[str, tuple[float, Json]] = {}

    async def get_overview(self, name: str) -> Json:
        """Return what is shown of a span (a name of `SPANS`), at most `FRESH` seconds old."""
        async with self._locks[name]:
            at, found = self._cache.get(name, (float("-inf"), {}))
            if time.monotonic() - at > CACHE_SECONDS:
                found = await self._build_overview(name, time.time())
                self._cache[name] = (time.monotonic(), found)
            return found

    async def _build_overview(self, name: str, now: float) -> Json:
        span, ledger = TIME_SPANS[name], self._services.ledger
        await ledger.flush()
        start = span.compute_start(now)
        total = await ledger.read_totals("all", start)
        groups = {by: await ledger.read_totals(by, start) for by in OVERVIEW_GROUPINGS}
        rows = await ledger.read_newest_rows(start, SAMPLE_ROWS)
        found = await agreement.read_agreement(ledger, start)
        return {
            "span": name,
            "now": now,
            "start": start,
            "width": span.bar_seconds,
            "total": total[0] if total else None,
            "steps": waterfall.compute_span_steps(
                total[0], groups["kind"], await self._read_shadow_bill(total[0], start)
            )
            if total
            else None,
            "series": await self._build_series(span, start, now),
            "groups": {by: found[:MAX_GROUPS] for by, found in groups.items()},
            "more": {by: max(0, len(found) - MAX_GROUPS) for by, found in groups.items()},
            "newest": {**await asyncio.to_thread(recent_requests.summarize_rows, rows), "all": len(rows) < SAMPLE_ROWS},
            "shadows": None if found is None else agreement.serialize_agreement(found),
            "rows_lost": ledger.lost_rows + ledger.previously_lost_rows,
            "clara": None if self._services.clara is None else self._services.clara.status(),
            "auto": self._services.auto_mode,
            "keep_content": self._services.settings.keep_content,
        }

    async def _read_shadow_bill(self, total: Total, start: float) -> InputBill:
        """Return what was billed for shadow checks."""
        return (
            InputBill(*await ledger_queries.sum_shadow_bills(self._services.ledger, start))
            if total["shadows"]
            else InputBill()
        )

    async def _build_series(self, span: TimeSpan, start: float, now: float) -> list[Json]:
        """Return the totals of each bar that has any, by when it begins."""
        ledger = self._services.ledger
        if span.bar_seconds == SECONDS_PER_DAY:
            days = await ledger.read_totals("day", start)
            return [{**day, "at": _parse_day(str(day["group"]))} for day in days]
        bars: list[Json] = []
        at = start
        while at < now:
            bars += [{**one, "at": at} for one in await ledger.read_totals("all", at, at + span.bar_seconds)]
            at += span.bar_seconds
        return bars


def _parse_day(date: str) -> float:
    return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()
