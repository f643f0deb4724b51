"""Prices and context windows of models: the one interface to a dated table of list prices.

The table is the one in litellm's wheel, read without importing litellm; its date is that of the installed version
(`get_table_version`). Missing values stay None. A model with a price of 0 for input and
output counts as unpriced, since the table uses 0 for free models, for models with other prices and for unknown prices.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from .price_rates import DEFAULT_REWRITE_PRICE, NO_PRICE, Price
from .price_table import PriceTable, read_price_table

__all__ = [
    "NO_PRICE",
    "PRICE_TABLE_FILE",
    "Price",
    "find_price",
    "find_rewrite_price",
    "get_table_version",
    "read_price_table",
]
PRICE_TABLE_FILE = "model_prices_and_context_window_backup.json"

# Providers whose own API takes model names without the prefix that the table has.
_UNPREFIXED_PROVIDERS = ("gemini", "mistral", "xai", "deepseek", "moonshot", "zai", "dashscope", "cohere")
# Names of the same providers at gateways and in the providers' own clients.
_PROVIDER_ALIASES = {"google": "gemini", "models": "gemini", "x-ai": "xai", "mistralai": "mistral"}
_DATE_SUFFIX = re.compile(r"[-@](?:20\d{2}-[01]\d-[0-3]\d|20\d{2}[01]\d[0-3]\d)$")


@lru_cache(maxsize=4096)
def find_price(model: str) -> Price | None:
    """Return the price of a model, or None if it is unknown.

    The look-up also tries other spellings of the provider and the name without its date. The first call reads the
    table, which blocks for about 10 ms.
    """
    table = _load_table()
    return next((price for name in _candidate_names(model) if (price := table.get(name)) is not None), None)


def find_rewrite_price(model: str) -> float:
    """Return the extra cost of writing a token of this model to the cache, in tokens read from it.

    It is (write - read) / read of the model's prices; a model without known prices has `DEFAULT_REWRITE_PRICE`.
    """
    price = find_price(model)
    rewrite_price = None if price is None else price.compute_rewrite_price()
    return DEFAULT_REWRITE_PRICE if rewrite_price is None else rewrite_price


@cache
def get_table_version() -> str:
    """Return the name and version of the price table, or an empty string without one."""
    try:
        return f"litellm {version('litellm')}"
    except PackageNotFoundError:
        return ""


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


@cache
def _load_table() -> PriceTable:
    spec = find_spec("litellm")
    return (
        read_price_table(Path(spec.origin).parent / PRICE_TABLE_FILE)
        if spec is not None and spec.origin is not None
        else PriceTable(b"{}")
    )
