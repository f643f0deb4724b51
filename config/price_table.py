"""Reads the price table of litellm's wheel into `Price` objects.

The table has rates for service tiers, long prompts, regions and lifetimes of cache entries under keys such as
`cache_read_input_token_cost_above_272k_tokens_flex`. Rules that it lacks are dated constants here.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from .price_rates import Price

_RATE_KEYS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_hour": "cache_creation_input_token_cost_above_1hr",  # Anthropic; instead of five minutes
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "reasoning": "output_cost_per_reasoning_token",
}
# The suffix of a tier's keys, and the names of the tier in replies. OpenAI's fast mode is billed as priority.
_TIER_SUFFIXES = {"priority": ("priority", "fast"), "flex": ("flex",), "batches": ("batch",)}
_LENGTH_KEY = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
# `vertex_ai-language-models`, `bedrock_converse`, `cohere_chat` and `text-completion-openai` sell under shorter names.
_PROVIDER_VARIANT = re.compile(r"^text-completion-|_(?:converse|chat)$|(?<=^vertex_ai)-.*")
# OpenAI, since GPT-5.6 (2026-07): an entry that is kept for 12 hours instead of 30 minutes costs twice as much.
_OPENAI_12H_FACTOR = 2.0
# DeepSeek caches prompts in units of 64 tokens, from the first unit on (2024-08).
_LEAST_CACHED_TOKENS = {"deepseek": 64}
_OPENAI_PROVIDERS = frozenset({"openai", "azure"})


class _PricedModel(NamedTuple):
    provider: str
    price: Price


def read_price_table(path: Path) -> dict[str, Price]:
    """Read the table at `path`. Models with a bare name are also listed with their provider as a prefix.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON.
    """
    # Each entry is reduced while the parser runs, so that memory never holds the whole file.
    shared_prices: dict[Price, Price] = {}
    entries = cast(
        "dict[str, object]", json.loads(path.read_bytes(), object_hook=lambda entry: _parse_entry(entry, shared_prices))
    )
    models = {name: entry for name, entry in entries.items() if isinstance(entry, _PricedModel)}
    table = {name: entry.price for name, entry in models.items()}
    for name, entry in models.items():
        if "/" not in name:
            table.setdefault(f"{entry.provider}/{name}", entry.price)
    return table


def _parse_entry(entry: dict[str, object], shared_prices: dict[Price, Price]) -> object:
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str):
        return entry
    provider = sys.intern(_PROVIDER_VARIANT.sub("", provider))
    price = _parse_price(entry, provider)
    if price == Price():
        return None
    return _PricedModel(provider, shared_prices.setdefault(price, price))


def _parse_price(entry: Mapping[str, object], provider: str) -> Price:
    keys = ("max_input_tokens", "prompt_cache_min_tokens", "max_output_tokens")
    window, min_cacheable, max_output = (_parse_positive(entry.get(key)) for key in keys)
    min_cacheable = min_cacheable or _LEAST_CACHED_TOKENS.get(provider)
    rates = _parse_rates(entry, provider)
    if not rates.input and not rates.output:
        return Price(context_window=window, max_output=max_output)
    common: dict[str, Any] = {
        "context_window": window,
        "min_cacheable_tokens": min_cacheable,
        "web_search": _parse_web_search(entry),
        "max_output": max_output,
    }
    lengths = sorted(int(match[1]) * 1000 for key in entry if (match := _LENGTH_KEY.fullmatch(key)))

    def build(suffix: str) -> Price:
        tiers = (
            (length, replace(_parse_rates(entry, provider, f"_above_{length // 1000}k_tokens{suffix}"), **common))
            for length in lengths
        )
        return replace(_parse_rates(entry, provider, suffix), **common, tiers=tuple(tiers))

    price = build("")
    return replace(price, service_tiers=tuple(_iter_service_tiers(entry, price, build)), regions=_parse_regions(entry))


def _iter_service_tiers(
    entry: Mapping[str, object], price: Price, build: Callable[[str], Price]
) -> Iterator[tuple[str, Price]]:
    for suffix, names in _TIER_SUFFIXES.items():
        if f"input_cost_per_token_{suffix}" in entry:
            tier_price = build(f"_{suffix}")
            yield from ((name, tier_price) for name in names)
    factors = entry.get("provider_specific_entry")
    fast = cast("dict[str, object]", factors).get("fast") if isinstance(factors, dict) else None
    if isinstance(fast, int | float):
        yield "fast", price.scale(float(fast))


def _parse_rates(entry: Mapping[str, object], provider: str, suffix: str = "") -> Price:
    known: dict[str, Any] = {name: _parse_rate(entry.get(f"{key}{suffix}")) for name, key in _RATE_KEYS.items()}
    rates = Price(**known)
    if provider in _OPENAI_PROVIDERS and rates.cache_write:
        return replace(rates, cache_write_12h=_OPENAI_12H_FACTOR * rates.cache_write)
    # Providers that cache on their own, and OpenAI before GPT-5.6, take no fee for writes.
    is_free = rates.cache_write == 0 or (provider in _OPENAI_PROVIDERS and rates.cache_read is not None)
    return replace(rates, cache_write=rates.input) if is_free else rates


def _parse_regions(entry: Mapping[str, object]) -> tuple[tuple[str, float], ...]:
    prefix = "regional_processing_uplift_multiplier_"
    regions = {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}
    factors = entry.get("provider_specific_entry")
    if isinstance(factors, dict):
        regions |= {key: value for key, value in cast("dict[str, object]", factors).items() if key == "us"}
    return tuple((region, float(value)) for region, value in regions.items() if isinstance(value, int | float))


def _parse_web_search(entry: Mapping[str, object]) -> float | None:
    """Return the price of a web search, if it does not depend on the size of its context."""
    costs = entry.get("search_context_cost_per_query")
    prices = set(cast("dict[str, object]", costs).values()) if isinstance(costs, dict) else set[object]()
    return _parse_rate(prices.pop()) if len(prices) == 1 else None


def _parse_rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value >= 0 else None


def _parse_positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
