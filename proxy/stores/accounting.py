"""The cost and the savings of a request, computed from its row and the provider's bill. Pure.

The saving in dollars is the cost without the proxy (see `baseline`) minus the actual cost; it may be negative. Values
that the provider does not report stay None. The invariant: `find_inconsistencies` finds nothing in a row that
`apply_bill` completed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isclose

from ...config.prices import Price
from .baseline import CACHE_STEP_TOKENS, MIN_CACHED_TOKENS
from .ledger_row import ADDED_KIND, COUNTED_OUTCOMES, Row, encode_labels, parse_json, parse_passages
from .reply_bill import REPORTED, Bill, Part, PricedBill, encode_parts, has_unpriced_amount, parse_parts, sum_usage
from .usage import NO_TOKENS, Usage, as_mapping, compute_cost, estimate_12h_writes, estimate_hour_writes, parse_count

FREE_OUTCOMES = frozenset({"served", "rejected"})  # no model was asked


def apply_bill(
    row: Row,
    usage: Usage | None,
    price: Price | None,
    baseline: Usage | None = None,
    *,
    longest_prompt: int | None = None,
) -> Row:
    """Return the row with the bill of one price; it stays None without a bill (see `apply_priced_bill`).

    Args:
        row: the row of the request.
        usage: the bill, if there is one.
        price: the prices of the model, if they are known.
        baseline: the usage without the proxy; not needed if the request was forwarded unchanged.
        longest_prompt: tokens of the longest prompt, if the bill covers several.
    """
    usage, price = usage or Usage(), price or Price()
    rates = price.rates_for(usage.input or 0 if longest_prompt is None else longest_prompt)
    return apply_priced_bill(row, PricedBill(usage, rates), price, baseline)


def apply_priced_bill(
    row: Row, priced: PricedBill, price: Price, baseline: Usage | None = None, bill: Bill | None = None
) -> Row:
    """Return the row with billed tokens, prices, cost and savings; they stay None without a bill.

    Args:
        row: the row of the request.
        priced: the bill at the rates of the model, and the parts with other prices.
        price: all prices of the model.
        baseline: the usage of the model's prompts without the proxy; None if the request was forwarded unchanged.
        bill: the whole bill, for its tier, its unknown fields and the cost that the provider reports.
    """
    bill = bill or Bill()
    rates, parts = priced.rates, list(priced.parts)
    is_free = row.outcome in FREE_OUTCOMES
    cost = 0.0 if is_free else _sum_known([compute_cost(priced.usage, rates), *(part.cost for part in parts)])
    cost = None if has_unpriced_amount(bill.unknown) and not is_free else cost
    main, cost_without = _compute_baseline(row, priced, baseline, price, cost, bill)
    if bill.reported_cost is not None and not is_free:
        part = _reconcile(bill.reported_cost, cost, cost_without)
        parts.append(part)
        cost = bill.reported_cost
        cost_without = None if part.cost_without is None or cost_without is None else cost_without + part.cost_without
    total = sum_usage([priced.usage, *(part.usage for part in parts)])
    without = main if main == NO_TOKENS else sum_usage([main, *(part.usage_without for part in parts)])
    if row.shadow_of:
        without, cost_without = main, 0.0
    return row._replace(
        billed_input=total.input,
        billed_output=total.output,
        billed_reasoning=total.reasoning,
        billed_cache_read=total.cache_read,
        billed_cache_write=total.cache_write,
        billed_cache_write_hour=total.cache_write_hour,
        billed_cache_write_12h=total.cache_write_12h,
        price_input=rates.input,
        price_output=rates.output,
        price_cache_read=rates.cache_read,
        price_cache_write=rates.cache_write,
        price_cache_write_hour=rates.cache_write_hour,
        price_cache_write_12h=rates.cache_write_12h,
        cost=cost,
        saved_tokens=row.tokens_received - row.tokens_sent,
        without_input=without.input,
        without_output=without.output,
        without_cache_read=without.cache_read,
        without_cache_write=without.cache_write,
        cost_without=cost_without,
        saved_cost=_subtract(cost_without, cost),
        service_tier="-".join(filter(None, (bill.service_tier, bill.region))),
        bill_parts=encode_parts(parts),
        unknown_usage=encode_labels(dict.fromkeys(bill.unknown, 1)),
        cleared_tokens=bill.facts.cleared_tokens,
    )


def apply_cached_bill(row: Row, cached: Usage, price: Price, service_tier: str, region: str) -> Row:
    """Return the row of a request that the response cache answered: it cost nothing, and saved a request like `cached`.

    A repeated prompt would come from the provider's cache, so its tokens count as cache reads there: those that were
    read or written before, or whole steps of a long prompt if the provider caches without being asked.
    """
    reads, length = (cached.cache_read or 0) + (cached.cache_write or 0), cached.input or 0
    if cached.cache_write is None and cached.cache_read is not None and length >= MIN_CACHED_TOKENS:
        reads = max(reads, length // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS)
    baseline = Usage(cached.input, cached.output, None, reads or None)
    rates = price.rates_for(cached.input or 0, service_tier, region)
    bill = Bill(service_tier=service_tier, region=region)
    return apply_priced_bill(row, PricedBill(Usage(0, 0), rates), price, baseline, bill)


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
    row: Row, priced: PricedBill, baseline: Usage | None, price: Price, cost: float | None, bill: Bill
) -> tuple[Usage, float | None]:
    """Return the usage of the model's prompts without the proxy, and the cost of the whole bill without it."""
    usage = priced.usage
    if row.shadow_of:  # the client did not ask for it
        return Usage(0, 0), 0.0
    if row.outcome not in COUNTED_OUTCOMES or (row.outcome == "served" and baseline is None):
        return Usage(), None
    if baseline is None:
        return (Usage(), None) if row.tokens_received != row.tokens_sent else (usage, cost)
    if baseline.input is None:
        return Usage(), None
    write = baseline.cache_write or 0
    hour, long = estimate_hour_writes(usage, write), estimate_12h_writes(usage, write)
    baseline = baseline.subtract(priced.special_usage)._replace(cache_write_hour=hour, cache_write_12h=long)
    rates = price.rates_for(baseline.input or 0, bill.service_tier, bill.region)
    if (baseline.input or 0) <= (usage.input or 0):  # not longer, so the rates are those of the bill
        rates = priced.rates
    if has_unpriced_amount(bill.unknown):
        return baseline, None
    return baseline, _sum_known([compute_cost(baseline, rates), *(part.cost_without for part in priced.parts)])


def _reconcile(reported: float, cost: float | None, cost_without: float | None) -> Part:
    """Return the part that makes a bill by list prices equal what the provider reports.

    The saving shrinks with the bill if the request was cheaper than its list price, and never grows.
    """
    if cost is None or cost_without is None or not cost:
        return Part(REPORTED, reported - (cost or 0.0), None if cost_without is None else reported - (cost or 0.0))
    saving = (cost_without - cost) * min(1.0, reported / cost)
    return Part(REPORTED, reported - cost, reported + saving - cost_without)


def _sum_known(amounts: Iterable[float | None]) -> float | None:
    total = 0.0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


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
    usage, rates, parts = _read_bill(row)
    is_free = row.outcome in FREE_OUTCOMES
    expected = 0.0 if is_free else _sum_known([compute_cost(usage, rates), *(part.cost for part in parts)])
    is_reported = any(part.name == REPORTED for part in parts) and expected is None
    is_unpriced = row.cost is None and has_unpriced_amount(tuple(as_mapping(parse_json(row.unknown_usage))))
    is_wrong = not (is_reported or is_unpriced or _is_close(row.cost, expected))
    yield "cost does not follow from tokens and prices", is_wrong
    yield "saved_cost is not cost_without - cost", not _is_close(row.saved_cost, _subtract(row.cost_without, row.cost))
    yield "cost_without does not follow from tokens and prices", not _is_baseline_cost_consistent(row)
    has_failed = row.outcome not in COUNTED_OUTCOMES and not row.shadow_of
    yield "a failed request saved money", has_failed and row.saved_cost is not None
    is_unchanged = row.mode_used in {"off", "observe"} and not row.shadow_of and not _count_added_tokens(row)
    yield f"mode {row.mode_used} saved money", is_unchanged and not _is_close(row.saved_cost or 0.0, 0.0)


def _is_baseline_cost_consistent(row: Row) -> bool:
    """Return True if the cost without the proxy follows from its tokens.

    A longer prompt may have higher rates than those of the row.
    """
    if row.without_input is None:  # unknown, or estimated by an early version
        return True
    if row.shadow_of:
        return row.cost_without == 0.0
    usage, rates, parts = _read_bill(row)
    total = Usage(row.without_input, row.without_output, None, row.without_cache_read, row.without_cache_write)
    baseline = total.subtract(sum_usage([part.usage_without for part in parts]))
    write = baseline.cache_write or 0
    hour, long = estimate_hour_writes(usage, write), estimate_12h_writes(usage, write)
    baseline = baseline._replace(cache_write_hour=hour, cache_write_12h=long)
    expected = _sum_known([compute_cost(baseline, rates), *(part.cost_without for part in parts)])
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
    yield "bill_parts is not a JSON list of parts", parse_parts(row.bill_parts) is None
    passages = passages or []
    yield "a passage grew", any(item.after > item.before for item in passages if item.kind != ADDED_KIND)
    yield "a skipped passage changed", any(item.reason and item.after != item.before for item in passages)
    after = row.would_send if row.would_send is not None else row.tokens_sent
    saved = sum(item.before - item.after for item in passages)
    yield "passages do not add up to the saved tokens", bool(passages) and saved != row.tokens_received - after


def _count_added_tokens(row: Row) -> int:
    """Return the tokens of text that the proxy added, such as the passages of a vector store."""
    return sum(item.after - item.before for item in parse_passages(row.passages) or () if item.kind == ADDED_KIND)


def _read_bill(row: Row) -> tuple[Usage, Price, list[Part]]:
    """Return the tokens at the row's prices, these prices, and the parts of the bill with other prices."""
    total = Usage(
        row.billed_input,
        row.billed_output,
        row.billed_reasoning,
        row.billed_cache_read,
        row.billed_cache_write,
        row.billed_cache_write_hour,
        row.billed_cache_write_12h,
    )
    rates = Price(row.price_input, row.price_output, row.price_cache_read, row.price_cache_write)
    rates = replace(rates, cache_write_hour=row.price_cache_write_hour, cache_write_12h=row.price_cache_write_12h)
    parts = parse_parts(row.bill_parts) or []
    return total.subtract(sum_usage([part.usage for part in parts])), rates, parts


def _is_close(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
