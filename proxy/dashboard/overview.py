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
from ..stores.ledger_dialect import DAY
from . import recent_requests, waterfall
from .waterfall import Bill

SAMPLE = 2_000  # rows that are looked at one by one
TOP = 40  # groups of a kind
GROUPS = ("model", "mode", "tool", "kind", "project")
FRESH = 10.0  # seconds

Json = dict[str, Any]


class Span(NamedTuple):
    """A time until now: seconds, and the width of a bar in a chart. Whole days (UTC) are not added up anew."""

    seconds: float
    width: float

    def start(self, now: float) -> float:
        """Return where the span begins, in Unix seconds: with a whole bar."""
        return max(0.0, (now - self.seconds) // self.width * self.width + self.width)


SPANS = {
    "1h": Span(3600, 300),
    "24h": Span(DAY, 3600),
    "7d": Span(7 * DAY, DAY),
    "30d": Span(30 * DAY, DAY),
    "90d": Span(90 * DAY, DAY),
    "all": Span(100 * 365 * DAY, DAY),
}


class Overview:
    """Gathers what there is to see of one proxy's ledger."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._locks = {name: asyncio.Lock() for name in SPANS}
        self._known: dict[str, tuple[float, Json]] = {}

    async def of(self, name: str) -> Json:
        """Return what is shown of a span (a name of `SPANS`), at most `FRESH` seconds old."""
        async with self._locks[name]:
            at, found = self._known.get(name, (float("-inf"), {}))
            if time.monotonic() - at > FRESH:
                found = await self._gathered(name, time.time())
                self._known[name] = (time.monotonic(), found)
            return found

    async def _gathered(self, name: str, now: float) -> Json:
        span, ledger = SPANS[name], self._services.ledger
        await ledger.flush()
        start = span.start(now)
        total = await ledger.totals("all", start)
        groups = {by: await ledger.totals(by, start) for by in GROUPS}
        rows = await ledger.rows(start, SAMPLE)
        found = await agreement.agreement(ledger, start)
        return {
            "span": name,
            "now": now,
            "start": start,
            "width": span.width,
            "total": total[0] if total else None,
            "steps": waterfall.of_totals(total[0], groups["kind"], await self._shadows(total[0], start))
            if total
            else None,
            "series": await self._series(span, start, now),
            "groups": {by: found[:TOP] for by, found in groups.items()},
            "more": {by: max(0, len(found) - TOP) for by, found in groups.items()},
            "newest": {**await asyncio.to_thread(recent_requests.gathered, rows), "all": len(rows) < SAMPLE},
            "shadows": None if found is None else agreement.figures(found),
            "rows_lost": ledger.lost + ledger.lost_before,
            "clara": None if self._services.clara is None else self._services.clara.status(),
            "auto": self._services.auto,
            "keep_content": self._services.settings.keep_content,
        }

    async def _shadows(self, total: Total, start: float) -> Bill:
        """Return what was billed for shadow checks."""
        return Bill(*await ledger_queries.shadows(self._services.ledger, start)) if total["shadows"] else Bill()

    async def _series(self, span: Span, start: float, now: float) -> list[Json]:
        """Return the totals of each bar that has any, by when it begins."""
        ledger = self._services.ledger
        if span.width == DAY:
            days = await ledger.totals("day", start)
            return [{**day, "at": _day(str(day["group"]))} for day in days]
        bars: list[Json] = []
        at = start
        while at < now:
            bars += [{**one, "at": at} for one in await ledger.totals("all", at, at + span.width)]
            at += span.width
        return bars


def _day(date: str) -> float:
    return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()
