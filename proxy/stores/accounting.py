"""The cost and the savings of a request, computed from its row and the provider's bill. Pure.

The saving in dollars is the cost without the proxy (see `baseline`) minus the actual cost; it may be negative. Values
that the provider does not report stay None. The invariant: `find_inconsistencies` finds nothing in a row that
`apply_bill` completed.
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
    """Return the row with billed tokens, prices, cost and savings; they stay None without a bill.

    Args:
        row: the row of the request.
        usage: the bill, if there is one.
        price: the prices of the model, if they are known.
        baseline: the usage without the proxy; not needed if the request was forwarded unchanged.
        longest_prompt: tokens of the longest prompt, if the bill covers several.
    """
    usage = usage or Usage()
    price = price or Price()
    rates = price.rates_for(usage.input or 0 if longest_prompt is None else longest_prompt)
    cost = 0.0 if row.outcome in {"served", "rejected"} else compute_cost(usage, rates)
    baseline, cost_without = _compute_baseline(row, usage, baseline, price, cost)
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
        cost=cost,
        saved_tokens=row.tokens_received - row.tokens_sent,
        without_input=baseline.input,
        without_output=baseline.output,
        without_cache_read=baseline.cache_read,
        without_cache_write=baseline.cache_write,
        cost_without=cost_without,
        saved_cost=_subtract(cost_without, cost),
    )


def mark_as_shadow(row: Row, compared_id: str, agreement: Mapping[str, float]) -> Row:
    """Return the row of a shadow check, which compares its answer with row `compared_id`; its cost is a loss."""
    return row._replace(
        shadow_of=compared_id,
        agreement=encode_labels(agreement),
        without_input=0,
        without_output=0,
        without_cache_read=None,
        without_cache_write=None,
        cost_without=0.0,
        saved_cost=_subtract(0.0, row.cost),
    )


def _compute_baseline(
    row: Row, usage: Usage, baseline: Usage | None, price: Price, cost: float | None
) -> tuple[Usage, float | None]:
    """Return the usage without the proxy, and its cost."""
    if row.shadow_of:  # the client did not ask for it
        return Usage(0, 0), 0.0
    if row.outcome not in COUNTED_OUTCOMES or row.outcome == "served":
        return Usage(), None
    if baseline is None:
        return (Usage(), None) if row.tokens_received != row.tokens_sent else (usage, cost)
    if usage.cache_write_hour or baseline.cache_write_hour:
        baseline = replace(baseline, cache_write_hour=estimate_hour_writes(usage, baseline.cache_write or 0))
    return baseline, compute_cost(baseline, price.rates_for(baseline.input or 0))


def _subtract(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def find_inconsistencies(row: Row) -> list[str]:
    """Return a description of each inconsistency of the row."""
    checks = (*_check_counts(row), *_check_money(row), *_check_json_columns(row))
    return [problem for problem, is_present in checks if is_present]


def _check_counts(row: Row) -> Iterable[tuple[str, bool]]:
    amounts = {
        name: value
        for name, value in row._asdict().items()
        if isinstance(value, int | float) and name not in {"saved_tokens", "saved_cost"}
    }
    for name, value in amounts.items():
        yield f"{name} is negative", value < 0
    yield "saved_tokens is not received - sent", row.saved_tokens != row.tokens_received - row.tokens_sent
    is_unchanged = row.mode_used in {"off", "observe"} and row.outcome != "served"
    is_changed = row.saved_tokens != -_count_added_tokens(row)
    yield f"mode {row.mode_used} changed the number of tokens", is_unchanged and is_changed
    cached = (row.billed_cache_read or 0) + (row.billed_cache_write or 0)
    yield "more cached than billed input", cached > (row.billed_input or 0)
    cached = (row.without_cache_read or 0) + (row.without_cache_write or 0)
    yield "more cached than input without the proxy", cached > (row.without_input or 0)
    yield "more reasoning than billed output", (row.billed_reasoning or 0) > (row.billed_output or 0)
    yield "overhead_ms exceeds latency_ms", row.overhead_ms > row.latency_ms


def _check_money(row: Row) -> Iterable[tuple[str, bool]]:
    usage, rates = _read_bill(row)
    expected = 0.0 if row.outcome in {"served", "rejected"} else compute_cost(usage, rates)
    yield "cost does not follow from tokens and prices", not _is_close(row.cost, expected)
    yield "saved_cost is not cost_without - cost", not _is_close(row.saved_cost, _subtract(row.cost_without, row.cost))
    yield "cost_without does not follow from tokens and prices", not _is_baseline_cost_consistent(row, usage, rates)
    has_failed = row.outcome not in COUNTED_OUTCOMES and not row.shadow_of
    yield "a failed request saved money", has_failed and row.saved_cost is not None
    is_unchanged = row.mode_used in {"off", "observe"} and not row.shadow_of and not _count_added_tokens(row)
    yield f"mode {row.mode_used} saved money", is_unchanged and not _is_close(row.saved_cost or 0.0, 0.0)


def _is_baseline_cost_consistent(row: Row, usage: Usage, rates: Price) -> bool:
    """Return True if the cost without the proxy follows from its tokens.

    A longer prompt may have higher rates than those of the row.
    """
    if row.without_input is None:  # unknown, or estimated by an early version
        return True
    write = row.without_cache_write
    baseline = Usage(row.without_input, row.without_output, None, row.without_cache_read, write)
    expected = compute_cost(replace(baseline, cache_write_hour=estimate_hour_writes(usage, write or 0)), rates)
    if _is_close(row.cost_without, expected):
        return True
    added_tokens = row.without_input - (row.billed_input or 0)
    return row.cost_without is None or expected is None or added_tokens * (row.cost_without - expected) > 0


def _check_json_columns(row: Row) -> Iterable[tuple[str, bool]]:
    skipped, tags, passages = parse_json(row.skipped), parse_json(row.tags), parse_passages(row.passages)
    has_counts = all((parse_count(count) or 0) > 0 for count in as_mapping(skipped).values())
    has_labels = all(isinstance(label, str) for label in as_mapping(tags).values())
    yield "skipped is not a JSON object of counts", not (isinstance(skipped, dict) and has_counts)
    yield "tags is not a JSON object of texts", not (isinstance(tags, dict) and has_labels)
    yield "passages is not a JSON list of passages", passages is None
    passages = passages or []
    yield "a passage grew", any(item.after > item.before for item in passages if item.kind != ADDED_KIND)
    yield "a skipped passage changed", any(item.reason and item.after != item.before for item in passages)
    after = row.would_send if row.would_send is not None else row.tokens_sent
    saved = sum(item.before - item.after for item in passages)
    yield "passages do not add up to the saved tokens", bool(passages) and saved != row.tokens_received - after


def _count_added_tokens(row: Row) -> int:
    """Return the tokens of text that the proxy added, such as the passages of a vector store."""
    return sum(item.after - item.before for item in parse_passages(row.passages) or () if item.kind == ADDED_KIND)


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


def _is_close(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
