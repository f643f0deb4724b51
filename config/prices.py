"""List prices and context windows of models, from the table in litellm's wheel; litellm itself is not imported.

The prices exclude batch, flex and priority rates and discounts. A value that the table lacks is None, never a guess. A
model with a price of 0 for input and output counts as unpriced, since the table uses 0 for free models, for models
with other prices and for unknown prices.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, cast

PRICE_TABLE_FILE = "model_prices_and_context_window_backup.json"

# Providers whose own API takes model names without the prefix that the table has.
_UNPREFIXED_PROVIDERS = ("gemini", "mistral", "xai", "deepseek", "moonshot", "zai", "dashscope", "cohere")
# Names of the same providers at gateways and in the providers' own clients.
_PROVIDER_ALIASES = {"google": "gemini", "models": "gemini", "x-ai": "xai", "mistralai": "mistral"}
_RATE_KEYS = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    "cache_creation_input_token_cost_above_1hr",  # Anthropic's cache entries of one hour instead of five minutes
)
_TIER_KEY = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_DATE_SUFFIX = re.compile(r"[-@](?:20\d{2}-[01]\d-[0-3]\d|20\d{2}[01]\d[0-3]\d)$")
# `vertex_ai-language-models`, `bedrock_converse`, `cohere_chat` and `text-completion-openai` sell under shorter names.
_PROVIDER_VARIANT = re.compile(r"^text-completion-|_(?:converse|chat)$|(?<=^vertex_ai)-.*")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token, and the longest prompt in tokens; None for values that the table lacks.

    `tiers` are pairs, in rising order, of a prompt length and the price of requests with longer prompts.
    `cache_write_hour` is the rate of cache writes that last an hour. The provider does not cache prompts of fewer than
    `min_cacheable_tokens` tokens. An answer has at most `max_output` tokens.
    """

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    context_window: int | None = None
    tiers: tuple[tuple[int, "Price"], ...] = ()
    cache_write_hour: float | None = None
    min_cacheable_tokens: int | None = None
    max_output: int | None = None

    def rates_for(self, tokens: int) -> "Price":
        """Return the price of a request whose prompt has `tokens` tokens, cached tokens included."""
        return next((price for above, price in reversed(self.tiers) if tokens > above), self)


class _PricedModel(NamedTuple):
    provider: str
    price: Price


@lru_cache(maxsize=4096)
def find_price(model: str) -> Price | None:
    """Return the price of a model, or None if it is unknown.

    The look-up also tries other spellings of the provider and the name without its date. The first call reads the
    table, which blocks for about 0.1 s.
    """
    table = _load_table()
    return next((table[name] for name in _candidate_names(model) if name in table), None)


def _candidate_names(model: str) -> Iterator[str]:
    for name in (model, _DATE_SUFFIX.sub("", model)):
        yield name
        provider, slash, rest = name.partition("/")
        if slash and provider in _PROVIDER_ALIASES:
            yield f"{_PROVIDER_ALIASES[provider]}/{rest}"
        if not slash:
            yield from (f"{provider}/{name}" for provider in _UNPREFIXED_PROVIDERS)
    if model.startswith("ft:"):
        yield ":".join(model.split(":")[:2])  # ft:BASE:ORGANISATION:NAME:ID has the price of ft:BASE


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


@cache
def _load_table() -> dict[str, Price]:
    spec = find_spec("litellm")
    return (
        read_price_table(Path(spec.origin).parent / PRICE_TABLE_FILE)
        if spec is not None and spec.origin is not None
        else {}
    )


def _parse_entry(entry: dict[str, object], shared_prices: dict[Price, Price]) -> object:
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str):
        return entry
    price = _parse_price(entry)
    if price == Price():
        return None
    return _PricedModel(sys.intern(_PROVIDER_VARIANT.sub("", provider)), shared_prices.setdefault(price, price))


def _parse_price(entry: dict[str, object]) -> Price:
    keys = ("max_input_tokens", "prompt_cache_min_tokens", "max_output_tokens")
    window, min_cacheable, max_output = (_parse_positive(entry.get(key)) for key in keys)
    rates = _parse_rates(entry)
    if not rates.input and not rates.output:
        return Price(context_window=window, max_output=max_output)
    lengths = sorted(int(match[1]) * 1000 for key in entry if (match := _TIER_KEY.fullmatch(key)))
    rates = replace(rates, context_window=window, min_cacheable_tokens=min_cacheable, max_output=max_output)
    tiers = ((length, _parse_rates(entry, f"_above_{length // 1000}k_tokens")) for length in lengths)
    return replace(
        rates,
        tiers=tuple(
            (
                length,
                replace(tier, context_window=window, min_cacheable_tokens=min_cacheable, max_output=max_output),
            )
            for length, tier in tiers
        ),
    )


def _parse_rates(entry: dict[str, object], suffix: str = "") -> Price:
    input_, output, cache_read, cache_write, hour = (_parse_rate(entry.get(f"{key}{suffix}")) for key in _RATE_KEYS)
    return Price(input_, output, cache_read, cache_write, cache_write_hour=hour)


def _parse_rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value >= 0 else None


def _parse_positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
