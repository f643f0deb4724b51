"""What the newest rows tell beyond the ledger's totals: why passages were left alone, outcomes, latencies. Pure.

It reads single rows, so that there must not be too many; what the ledger adds up is not added up here again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import orjson

from ...compression.engine import FAILURE_REASONS
from ..stores.ledger_row import COUNTED_OUTCOMES, Row

FAIL_OPEN_REASONS = FAILURE_REASONS | {
    "store-full"
}  # the original went up because something was wrong, and not by choice
OVERHEAD_EDGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)  # milliseconds
LATENCY_EDGES_MS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
PERCENTILES = (0.5, 0.95, 0.99)

Json = dict[str, Any]


def summarize_rows(rows: Sequence[Row]) -> Json:
    """Add up what these rows say; those of shadow checks are nobody's requests."""
    rows = [row for row in rows if not row.shadow_of]
    skipped = [load_skip_reasons(row) for row in rows]
    return {
        "requests": len(rows),
        "from": min((row.at for row in rows), default=None),
        "reasons": [{"reason": name, "count": count} for name, count in _sum_counts(skipped).most_common()],
        "failed_open": sum(1 for found in skipped if FAIL_OPEN_REASONS & found.keys()),
        "fail_open": sorted(FAIL_OPEN_REASONS),
        "outcomes": dict(Counter(row.outcome for row in rows).most_common()),
        "latency_ms": build_histogram([row.latency_ms for row in rows if row.outcome == "ok"], LATENCY_EDGES_MS),
        "overhead_ms": build_histogram(
            [row.overhead_ms for row in rows if row.outcome in COUNTED_OUTCOMES], OVERHEAD_EDGES_MS
        ),
    }


def build_histogram(values: Sequence[float], edges: Sequence[int]) -> Json:
    """Return how many values lie below each edge and above the one before, the rest last; and percentiles."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[next((at for at, edge in enumerate(edges) if value < edge), len(edges))] += 1
    ordered = sorted(values)
    places = (
        {f"p{100 * share:.0f}": ordered[int(share * (len(ordered) - 1))] for share in PERCENTILES} if ordered else None
    )
    return {"edges": list(edges), "counts": counts, "percentiles": places}


def load_passages(row: Row) -> list[Json]:
    """Read the passages of a row; those that make no sense are left out."""
    found = _parse_json(row.passages)
    listed = cast("list[object]", found) if isinstance(found, list) else []
    return [cast("Json", one) for one in listed if _is_passage(one)]


def load_skip_reasons(row: Row) -> dict[str, int]:
    """Read why something was left alone, and how often."""
    found = _parse_json(row.skipped)
    said = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    return {name: count for name, count in said.items() if isinstance(count, int)}


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _is_passage(found: object) -> bool:
    match found:
        case {"kind": str(), "tool": str(), "before": int(), "after": int(), "reason": str()}:
            return True
        case _:
            return False


def _parse_json(text: str) -> object:
    try:
        return cast("object", orjson.loads(text))
    except ValueError:
        return None
