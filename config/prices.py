"""List prices and context windows of models, from the table in litellm's wheel, which is read but never imported.

Not a bill: batch, flex and priority rates and discounts are left out. The invariant: what the table does not say is
None, never a guess. A model sold at nought for input and output alike counts as one without a price, because the table
writes the same nought for free, for paid otherwise and for not known.
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

# Makers whose own names need no prefix when one talks to them directly, though the table lists them with one.
_UNPREFIXED_PROVIDERS = ("gemini", "mistral", "xai", "deepseek", "moonshot", "zai", "dashscope", "cohere")
# How gateways and the makers' own clients write the same makers.
_PROVIDER_ALIASES = {"google": "gemini", "models": "gemini", "x-ai": "xai", "mistralai": "mistral"}
_RATE_KEYS = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    "cache_creation_input_token_cost_above_1hr",  # Anthropic's: what is kept for an hour, not for five minutes
)
_TIER_KEY = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_DATE_SUFFIX = re.compile(r"[-@](?:20\d{2}-[01]\d-[0-3]\d|20\d{2}[01]\d[0-3]\d)$")
# `vertex_ai-language-models`, `bedrock_converse`, `cohere_chat` and `text-completion-openai` sell under shorter names.
_PROVIDER_VARIANT = re.compile(r"^text-completion-|_(?:converse|chat)$|(?<=^vertex_ai)-.*")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token, and the longest prompt in tokens; None where the table is silent.

    `tiers` holds, in rising order, what holds instead for a whole request whose prompt is longer than so many tokens.
    `cache_write_hour` is the rate of cache writes that are to last an hour. A prompt of fewer than `cache_least` tokens
    is never cached.
    """

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    context_window: int | None = None
    tiers: tuple[tuple[int, "Price"], ...] = ()
    cache_write_hour: float | None = None
    min_cacheable_tokens: int | None = None

    def rates_for(self, tokens: int) -> "Price":
        """Return the rates for one request with `tokens` of prompt, cached ones included."""
        return next((price for above, price in reversed(self.tiers) if tokens > above), self)


class _PricedModel(NamedTuple):
    provider: str
    price: Price


@lru_cache(maxsize=4096)
def find_price(model: str) -> Price | None:
    """Look a model up: as it is, under its provider's other spelling, then without its date; None when unknown.

    The first call reads the table (a blocking moment and some memory); later ones are a few dictionary look-ups.
    """
    table = _load_table()
    return next((table[name] for name in _candidate_names(model) if name in table), None)


def _candidate_names(model: str) -> Iterator[str]:
    for name in (model, _DATE_SUFFIX.sub("", model)):
        yield name
        maker, slash, rest = name.partition("/")
        if slash and maker in _PROVIDER_ALIASES:
            yield f"{_PROVIDER_ALIASES[maker]}/{rest}"
        if not slash:
            yield from (f"{maker}/{name}" for maker in _UNPREFIXED_PROVIDERS)
    if model.startswith("ft:"):
        yield ":".join(model.split(":")[:2])  # ft:BASE:ORGANISATION:NAME:ID costs what every fine-tuned BASE does


def read_price_table(path: Path) -> dict[str, Price]:
    """Read the table at `path`; models sold under a bare name are there with their provider before it, too.

    Raises OSError when there is no such file, and ValueError when it is not JSON.
    """
    # Each entry is cut down while the parser runs, so that the whole table never stands in memory at once.
    same: dict[Price, Price] = {}
    found = cast(
        "dict[str, object]", json.loads(path.read_bytes(), object_hook=lambda entry: _parse_entry(entry, same))
    )
    sold = {name: entry for name, entry in found.items() if isinstance(entry, _PricedModel)}
    table = {name: entry.price for name, entry in sold.items()}
    for name, entry in sold.items():
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


def _parse_entry(entry: dict[str, object], same: dict[Price, Price]) -> object:
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str):
        return entry
    price = _parse_price(entry)
    if price == Price():
        return None
    return _PricedModel(sys.intern(_PROVIDER_VARIANT.sub("", provider)), same.setdefault(price, price))


def _parse_price(entry: dict[str, object]) -> Price:
    window, least = (_parse_positive(entry.get(key)) for key in ("max_input_tokens", "prompt_cache_min_tokens"))
    rates = _parse_rates(entry)
    if not rates.input and not rates.output:
        return Price(context_window=window)
    above = sorted(int(match[1]) * 1000 for key in entry if (match := _TIER_KEY.fullmatch(key)))
    dearer = ((tokens, _parse_rates(entry, f"_above_{tokens // 1000}k_tokens")) for tokens in above)
    tiers = tuple((tokens, replace(tier, context_window=window, min_cacheable_tokens=least)) for tokens, tier in dearer)
    return replace(rates, tiers=tiers, context_window=window, min_cacheable_tokens=least)


def _parse_rates(entry: dict[str, object], suffix: str = "") -> Price:
    input_, output, cache_read, cache_write, hour = (_parse_rate(entry.get(f"{key}{suffix}")) for key in _RATE_KEYS)
    return Price(input_, output, cache_read, cache_write, cache_write_hour=hour)


def _parse_rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value >= 0 else None


def _parse_positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
