"""What follows from a row and its bill: what a request cost, and what was saved by it. Pure.

It neither counts tokens nor writes anything down. The invariant: `check(row)` finds nothing to object to in a row that
`settle` made. What a provider does not say stays None. What was saved in money is what the request would have cost
without us (`counterfactual`) less what it cost; a saving may be negative.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isclose

from ...config.prices import Price
from .ledger_row import ADDED_KIND, COUNTED_OUTCOMES, Row, encode_labels, parse_json, parse_passages
from .usage import Usage, as_mapping, compute_cost, estimate_hour_writes, parse_count


def apply_bill(
    row: Row,
    usage: Usage | None,
    price: Price | None,
    baseline: Usage | None = None,
    *,
    longest_prompt: int | None = None,
) -> Row:
    """Fill in what follows from the bill: billed tokens, prices, cost, savings. Without a bill these stay None.

    `without` is what would have been billed without us; a request that was sent as it came needs none. `longest` is the
    longest prompt in the bill, if there were several.
    """
    usage = usage or Usage()
    price = price or Price()
    rates = price.rates_for(usage.input or 0 if longest_prompt is None else longest_prompt)
    here = row.outcome in {"served", "rejected"}
    paid = 0.0 if here else compute_cost(usage, rates)
    baseline, cost_without = _compute_baseline(row, usage, baseline, price, paid)
    return row._replace(
        billed_input=usage.input,
        billed_output=usage.output,
        billed_reasoning=usage.reasoning,
        billed_cache_read=usage.cache_read,
        billed_cache_write=usage.cache_write,
        billed_cache_write_hour=usage.cache_write_hour,
        price_input=rates.input,
        price_output=rates.output,
        price_cache_read=rates.cache_read,
        price_cache_write=rates.cache_write,
        price_cache_write_hour=rates.cache_write_hour,
        cost=paid,
        saved_tokens=row.tokens_received - row.tokens_sent,
        without_input=baseline.input,
        without_output=baseline.output,
        without_cache_read=baseline.cache_read,
        without_cache_write=baseline.cache_write,
        cost_without=cost_without,
        saved_cost=_subtract(cost_without, paid),
    )


def mark_as_shadow(row: Row, of: str, agreement: Mapping[str, float]) -> Row:
    """Return the row as one of a request of our own, asked to compare its answer with that of row `of`: all a loss."""
    return row._replace(
        shadow_of=of,
        agreement=encode_labels(agreement),
        without_input=0,
        without_output=0,
        without_cache_read=None,
        without_cache_write=None,
        cost_without=0.0,
        saved_cost=_subtract(0.0, row.cost),
    )


def _compute_baseline(
    row: Row, usage: Usage, without: Usage | None, price: Price, paid: float | None
) -> tuple[Usage, float | None]:
    """Return what would have been billed without us, and its price."""
    if row.shadow_of:  # without us nobody would have asked
        return Usage(0, 0), 0.0
    if row.outcome not in COUNTED_OUTCOMES or row.outcome == "served":
        return Usage(), None
    if without is None:
        return (Usage(), None) if row.tokens_received != row.tokens_sent else (usage, paid)
    if usage.cache_write_hour or without.cache_write_hour:
        without = replace(without, cache_write_hour=estimate_hour_writes(usage, without.cache_write or 0))
    return without, compute_cost(without, price.rates_for(without.input or 0))


def _subtract(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def find_inconsistencies(row: Row) -> list[str]:
    """Name everything in the row that does not add up; an empty list when all does."""
    return [
        complaint for complaint, wrong in (*_check_counts(row), *_check_money(row), *_check_json_columns(row)) if wrong
    ]


def _check_counts(row: Row) -> Iterable[tuple[str, bool]]:
    never_negative = {
        name: value
        for name, value in row._asdict().items()
        if isinstance(value, int | float) and name not in {"saved_tokens", "saved_cost"}
    }
    for name, value in never_negative.items():
        yield f"{name} is negative", value < 0
    yield "saved_tokens is not received - sent", row.saved_tokens != row.tokens_received - row.tokens_sent
    unchanged = row.mode_used in {"off", "observe"} and row.outcome != "served"
    yield f"mode {row.mode_used} sent something else than it received", unchanged and row.saved_tokens != 0
    cached = (row.billed_cache_read or 0) + (row.billed_cache_write or 0)
    yield "more cached than billed input", cached > (row.billed_input or 0)
    cached = (row.without_cache_read or 0) + (row.without_cache_write or 0)
    yield "more cached than input without us", cached > (row.without_input or 0)
    yield "more reasoning than billed output", (row.billed_reasoning or 0) > (row.billed_output or 0)
    yield "overhead_ms exceeds latency_ms", row.overhead_ms > row.latency_ms


def _check_money(row: Row) -> Iterable[tuple[str, bool]]:
    usage, rates = _read_bill(row)
    here = row.outcome in {"served", "rejected"}
    yield (
        "cost is not what tokens and prices make",
        not _is_close(row.cost, 0.0 if here else compute_cost(usage, rates)),
    )
    yield "saved_cost is not cost_without - cost", not _is_close(row.saved_cost, _subtract(row.cost_without, row.cost))
    yield "cost_without is not what tokens and prices make", not _is_baseline_cost_consistent(row, usage, rates)
    came_to_nothing = row.outcome not in COUNTED_OUTCOMES and not row.shadow_of
    yield "money was saved by a request that came to nothing", came_to_nothing and row.saved_cost is not None
    unchanged = row.mode_used in {"off", "observe"} and not row.shadow_of
    yield f"mode {row.mode_used} saved money", unchanged and not _is_close(row.saved_cost or 0.0, 0.0)


def _is_baseline_cost_consistent(row: Row, usage: Usage, rates: Price) -> bool:
    """Say whether the tokens without us make their cost; of longer prompts the rates may be dearer than the row's."""
    if row.without_input is None:  # nothing was known, or it was estimated before these figures were kept
        return True
    write = row.without_cache_write
    without = Usage(row.without_input, row.without_output, None, row.without_cache_read, write)
    expected = compute_cost(replace(without, cache_write_hour=estimate_hour_writes(usage, write or 0)), rates)
    if _is_close(row.cost_without, expected):
        return True
    longer = row.without_input - (row.billed_input or 0)
    return row.cost_without is None or expected is None or longer * (row.cost_without - expected) > 0


def _check_json_columns(row: Row) -> Iterable[tuple[str, bool]]:
    skipped, tags, looked_at = parse_json(row.skipped), parse_json(row.tags), parse_passages(row.passages)
    counts = all((parse_count(times) or 0) > 0 for times in as_mapping(skipped).values())
    labels = all(isinstance(label, str) for label in as_mapping(tags).values())
    yield "skipped is not a JSON object of counts", not (isinstance(skipped, dict) and counts)
    yield "tags is not a JSON object of texts", not (isinstance(tags, dict) and labels)
    yield "passages is not a JSON list of passages", looked_at is None
    looked_at = looked_at or []
    yield "a passage grew", any(passage.after > passage.before for passage in looked_at if passage.kind != ADDED_KIND)
    yield "a passage that was left alone changed", any(item.reason and item.after != item.before for item in looked_at)
    after = row.would_send if row.would_send is not None else row.tokens_sent
    shorter = sum(passage.before - passage.after for passage in looked_at)
    yield "passages do not add up to what was saved", bool(looked_at) and shorter != row.tokens_received - after


def _read_bill(row: Row) -> tuple[Usage, Price]:
    usage = Usage(
        row.billed_input,
        row.billed_output,
        row.billed_reasoning,
        row.billed_cache_read,
        row.billed_cache_write,
        row.billed_cache_write_hour,
    )
    rates = Price(row.price_input, row.price_output, row.price_cache_read, row.price_cache_write)
    return usage, replace(rates, cache_write_hour=row.price_cache_write_hour)


def _is_close(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
