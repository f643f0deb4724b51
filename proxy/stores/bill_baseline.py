"""The bill without the proxy, derived from the whole bill of a request and our count of its first prompt. Pure.

Compression saves tokens in the first prompt that the provider reads. If that is the prompt of a compaction, the model
then reads a summary, and nothing more is saved. Further prompts of the provider's own tools count as billed: the
estimate errs against the proxy. Further rounds of the expand tool do not exist without the proxy.
"""

from collections.abc import Callable
from typing import NamedTuple

from ...config.prices import Price
from .baseline import Prompt, estimate_baseline
from .reply_bill import MESSAGE, Bill, PricedBill
from .usage import Usage, compute_cost


class BillBaseline(NamedTuple):
    """The bill with the parts as they would be without the proxy, and the usage of the model's prompts without it."""

    priced: PricedBill
    usage: Usage


def estimate_bill_baseline(
    bill: Bill, priced: PricedBill, price: Price, build_prompt: Callable[[], Prompt | None], hidden_call_tokens: int
) -> BillBaseline:
    """Return the bill without the proxy.

    Args:
        bill: the prompts that the provider read, in order.
        priced: the same bill at the model's prices.
        price: all prices of the model.
        build_prompt: our count of the first prompt, without what the provider cleared; None if nothing of it counts.
        hidden_call_tokens: output tokens of hidden calls in the last reply.
    """
    first = bill.readings[0]
    prompt = build_prompt()
    estimate = first.usage
    if prompt is not None:
        estimate = estimate_baseline(
            first.usage,
            prompt,
            has_cache_rate=price.cache_read is not None,
            min_cached_tokens=price.min_cacheable_tokens,
        )
    last_round = max(reading.round_index for reading in bill.readings)
    in_main = [reading for reading in bill.readings if reading.kind == MESSAGE and not _is_part(priced, reading.usage)]
    hidden_output = hidden_call_tokens + sum(
        reading.usage.output or 0 for reading in in_main if reading.round_index < last_round
    )
    kept = Usage(0, 0)
    for reading in in_main:
        if reading.usage is not first.usage and reading.round_index == 0:
            tool_tokens = 0 if prompt is None else prompt.tool_tokens
            kept = kept.add(_remove_tool(reading.usage, tool_tokens, price.min_cacheable_tokens or 0))
    total_output = (priced.usage.output or 0) + (priced.special_usage.output or 0)
    output = max(0, total_output - hidden_output)
    if first.kind == MESSAGE and not _is_part(priced, first.usage):
        if estimate.input is None:
            return BillBaseline(priced, Usage())
        return BillBaseline(priced, estimate.add(kept._replace(output=0))._replace(output=output))
    priced = _replace_part(bill, priced, price, estimate, has_rounds=last_round > 0)
    return BillBaseline(priced, kept._replace(output=output))


def _remove_tool(usage: Usage, tokens: int, min_cached_tokens: int) -> Usage:
    """Return the usage of a prompt without the proxy's tool, which stands at its beginning."""
    if not tokens:
        return usage
    tokens = min(tokens, usage.input or 0)
    read, written = min(tokens, usage.cache_read or 0), 0
    if tokens > read:
        written = min(tokens - read, usage.cache_write or 0)
    cache_read = (usage.cache_read or 0) - read
    return usage._replace(
        input=(usage.input or 0) - tokens,
        cache_read=None if usage.cache_read is None else cache_read if cache_read >= min_cached_tokens else 0,
        cache_write=None if usage.cache_write is None else usage.cache_write - written,
    )


def _is_part(priced: PricedBill, usage: Usage) -> bool:
    return any(part.usage is usage for part in priced.parts)


def _replace_part(bill: Bill, priced: PricedBill, price: Price, estimate: Usage, *, has_rounds: bool) -> PricedBill:
    """Return the bill with the part of its first prompt as it would be without the proxy."""
    if estimate.input is None:
        return priced
    without = estimate._replace(output=0) if has_rounds else estimate
    cost = compute_cost(without, price.rates_for(estimate.input, bill.service_tier, bill.region))
    first = bill.readings[0].usage
    parts = (
        part._replace(usage_without=without, cost_without=cost) if part.usage is first else part
        for part in priced.parts
    )
    return priced._replace(parts=tuple(parts))


def estimate_expand_cost(bill: Bill, price: Price, added_tokens: int, hidden_call_tokens: int) -> float | None:
    """Return the dollars of the way back: tokens added to the first prompt, further prompts, and the hidden calls.

    Added tokens cost the average rate of the first prompt. None if a price is unknown.
    """
    rounds = [reading for reading in bill.readings if reading.kind == MESSAGE and not reading.model]
    if not rounds or not rounds[0].usage.input:
        return None
    inputs = [
        (compute_cost(reading.usage._replace(output=0, audio_output=None, reasoning=None), rates), reading, rates)
        for reading in rounds
        for rates in [price.rates_for(reading.usage.input or 0, bill.service_tier, bill.region)]
    ]
    if any(cost is None for cost, _, _ in inputs):
        return None
    last = inputs[-1][1].round_index
    hidden = hidden_call_tokens + sum(reading.usage.output or 0 for reading in rounds if reading.round_index < last)
    rate = inputs[-1][2].output
    if hidden and rate is None:
        return None
    first = (inputs[0][0] or 0.0) * min(1.0, added_tokens / rounds[0].usage.input)
    further = sum(cost or 0.0 for cost, reading, _ in inputs if reading.round_index > 0)
    return first + further + hidden * (rate or 0.0)
