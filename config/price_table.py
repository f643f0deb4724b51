"""Reads the price table of litellm's wheel into `Price` objects.

The table has rates for service tiers, long prompts, regions and lifetimes of cache entries under keys such as
`cache_read_input_token_cost_above_272k_tokens_flex`. Rules that it lacks are dated constants here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

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
_LAYOUT = re.compile(rb'\{\n( +)"')


class _PricedModel(NamedTuple):
    provider: str
    price: Price


class PriceTable:
    """The prices of a table in JSON; an entry is parsed when its model is looked up.

    Args:
        text: the table. If each model begins a line of its own, the text is searched and not parsed as a whole, which
            takes a tenth of the time and no memory.

    Raises:
        ValueError: the text is not JSON.
    """

    def __init__(self, text: bytes | mmap) -> None:
        self._text = text
        layout = _LAYOUT.match(text)
        # A model elsewhere than at the beginning of a line would be missed.
        if layout is None or self._index_entries(len(layout[1])) < text[:].count(b'"litellm_provider"'):
            self._lay_out()

    def __getitem__(self, model: str) -> Price:
        """Return the price of a model; raises KeyError if the table has none."""
        price = self.get(model)
        if price is None:
            raise KeyError(model)
        return price

    def __contains__(self, model: str) -> bool:
        """Return True if the table has a price of this model."""
        return self.get(model) is not None

    def get(self, model: str) -> Price | None:
        """Return the price of a model, or None. A bare name is also found with its provider as a prefix."""
        priced = self._read_model(model)
        if priced is None and "/" in model:
            provider, _, name = model.rpartition("/")
            priced = self._read_model(name)
            if priced is not None and priced.provider != provider:
                return None
        return None if priced is None else priced.price

    def _lay_out(self) -> None:
        """Parse the whole text and write it with each model on a line of its own."""
        self._text = orjson.dumps(orjson.loads(self._text[:]), option=orjson.OPT_INDENT_2)
        self._index_entries(2)

    def _index_entries(self, indent: int) -> int:
        """Find the line of each model, behind at most `indent` spaces, and return the number of models."""
        start = re.compile(rb'\n {0,%d}"((?:[^"\\]|\\.)+)": \{(?=\n)' % indent)
        self._end = re.compile(rb"\n {0,%d}\}" % indent)
        self._offsets = {_decode_name(match[1]): match.end() - 1 for match in start.finditer(self._text)}
        return len(self._offsets)

    def _read_model(self, name: str) -> _PricedModel | None:
        offset = self._offsets.get(name)
        if offset is None:
            return None
        try:
            entry = self._parse_entry(offset)
        except ValueError:  # the lines are not indented alike
            self._lay_out()
            entry = self._parse_entry(self._offsets[name])
        provider = entry.get("litellm_provider")
        if not isinstance(provider, str):
            return None
        provider = _PROVIDER_VARIANT.sub("", provider)
        price = _parse_price(entry, provider)
        return None if price == Price() else _PricedModel(provider, price)

    def _parse_entry(self, offset: int) -> dict[str, object]:
        end = self._end.search(self._text, offset)
        return cast("dict[str, object]", orjson.loads(self._text[offset : end.end() if end else None]))


def read_price_table(path: Path) -> PriceTable:
    """Open the table at `path`. The file stays mapped into memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON.
    """
    with path.open("rb") as file:
        return PriceTable(mmap(file.fileno(), 0, access=ACCESS_READ))


def _decode_name(name: bytes) -> str:
    return str(orjson.loads(b'"%s"' % name)) if b"\\" in name else name.decode()


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
