"""Summarizes the newest rows beyond the ledger's totals: skip reasons, outcomes, latencies. Pure.

It reads rows one by one, so the caller limits their number.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import orjson

from ...compression.engine import FAILURE_REASONS
from ..stores.ledger_row import COUNTED_OUTCOMES, Row

# The original was forwarded because of a failure, not by choice.
FAIL_OPEN_REASONS = FAILURE_REASONS | {"store-full"}
OVERHEAD_EDGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
LATENCY_EDGES_MS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
PERCENTILES = (0.5, 0.95, 0.99)

Json = dict[str, Any]


def summarize_rows(rows: Sequence[Row]) -> Json:
    """Return counts of reasons and outcomes, and histograms of times in ms; shadow checks are not counted."""
    rows = [row for row in rows if not row.shadow_of]
    skip_reasons = [load_skip_reasons(row) for row in rows]
    finished = [row for row in rows if row.outcome in COUNTED_OUTCOMES]
    return {
        "requests": len(rows),
        "from": min((row.at for row in rows), default=None),
        "reasons": [{"reason": name, "count": count} for name, count in _sum_counts(skip_reasons).most_common()],
        "failed_open": sum(1 for reasons in skip_reasons if FAIL_OPEN_REASONS & reasons.keys()),
        "fail_open": sorted(FAIL_OPEN_REASONS),
        "outcomes": dict(Counter(row.outcome for row in rows).most_common()),
        "latency_ms": build_histogram([row.latency_ms for row in rows if row.outcome == "ok"], LATENCY_EDGES_MS),
        "overhead_ms": build_histogram([row.overhead_ms for row in finished], OVERHEAD_EDGES_MS),
    }


def build_histogram(values: Sequence[float], edges: Sequence[int]) -> Json:
    """Return `counts` of the values below each edge (the last one: above all edges), and `percentiles` or None."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[next((index for index, edge in enumerate(edges) if value < edge), len(edges))] += 1
    ordered = sorted(values)
    percentiles = {f"p{100 * share:.0f}": ordered[int(share * (len(ordered) - 1))] for share in PERCENTILES if ordered}
    return {"edges": list(edges), "counts": counts, "percentiles": percentiles or None}


def load_passages(row: Row) -> list[Json]:
    """Return the passages of a row; malformed ones are omitted."""
    value = _parse_json(row.passages)
    passages = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Json", passage) for passage in passages if _is_passage(passage)]


def load_skip_reasons(row: Row) -> dict[str, int]:
    """Return the number of passages left unchanged, by reason."""
    value = _parse_json(row.skipped)
    counts = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return {reason: count for reason, count in counts.items() if isinstance(count, int)}


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _is_passage(value: object) -> bool:
    match value:
        case {"kind": str(), "tool": str(), "before": int(), "after": int(), "reason": str()}:
            return True
        case _:
            return False


def _parse_json(text: str) -> object:
    try:
        return cast("object", orjson.loads(text))
    except ValueError:
        return None
