"""The whole bill of a request: every prompt read for it, and charges beside tokens. Pure.

A reply has one `usage`, but it may cover several prompts: the rounds of the expand tool, and the `iterations` of a
request with server tools, a compaction, or another model's advice (Anthropic). Compactions and advice are not in the
top-level counts. `Bill.unknown` lists the amounts in a usage without a known meaning.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, cast

import orjson

from ...config.prices import NO_PRICE, Price
from .usage import NO_TOKENS, Usage, as_mapping, compute_cost, parse_count, read_usage

PriceLookup = Callable[[str], Price | None]
MESSAGE, COMPACTION, ROUND, WEB_SEARCH, REPORTED, UNKNOWN = (
    "message",
    "compaction",
    "round",
    "web-search",
    "reported",
    "unknown",
)
_MESSAGE_TYPES = frozenset({"message", "fallback_message"})  # iterations that the top-level counts include
_SEPARATE_TYPES = {"compaction": COMPACTION, "advisor_message": "advisor"}
_AMOUNT = re.compile(r"token|_requests$|_calls$|_searches$", re.IGNORECASE)
_LIFETIMES = frozenset({"ttl_5m_tokens", "ttl_30m_tokens", "ttl_1h_tokens", "ttl_12h_tokens"})
_SPECIAL_PARTS = frozenset({"audio", "image", "reasoning"})
_COST_FIELDS = frozenset({"cost", "cost_details", "cost_in_usd_ticks", "estimated_cost"})
_XAI_TICKS_PER_DOLLAR = 10_000_000_000
# Fields that are read, that repeat others, or that are free of charge.
_KNOWN_FIELDS = _LIFETIMES | {
    *("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens", "cached_tokens"),
    *("cache_write_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_tokens"),
    *("prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "text_tokens", "audio_tokens", "image_tokens"),
    *("accepted_prediction_tokens", "rejected_prediction_tokens", "ephemeral_5m_input_tokens"),
    *("ephemeral_1h_input_tokens", "web_search_requests", "web_fetch_requests", "tool_search_requests"),
    *("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "cachedContentTokenCount", "thoughtsTokenCount"),
    *("tokenCount", "inputTokens", "outputTokens", "totalTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
    *("cacheReadInputTokenCount", "cacheWriteInputTokenCount", "thinking_tokens", "cache_hit_tokens"),
    *("cached_read_tokens", "cached_creation_tokens", "cache_creation_tokens", "native_tokens_prompt"),
    *("native_tokens_completion", "native_tokens_reasoning", "native_tokens_cached"),
}  # fmt: skip


class ReplyFacts(NamedTuple):
    """The fields of a reply outside of its `usage` that concern its bill.

    `cleared_tool_uses` stays None without a count by the provider. `web_searches` counts calls in the output.
    """

    service_tier: str = ""
    cleared_tokens: int = 0
    cleared_tool_uses: int | None = None
    web_searches: int = 0
    cache_miss_reason: str = ""


class Reading(NamedTuple):
    """One prompt that a model read, and its answer; `kind` is `message`, or the name of a part of the bill."""

    round_index: int
    kind: str
    model: str
    usage: Usage


class Part(NamedTuple):
    """A part of the bill with its own price, with the proxy and without it. An unknown cost stays None."""

    name: str
    cost: float | None
    cost_without: float | None
    usage: Usage = Usage()
    usage_without: Usage = Usage()
    quantity: int = 1


class Bill(NamedTuple):
    """The prompts of a request in order, and its other charges. `reported_cost` is in dollars."""

    readings: tuple[Reading, ...] = ()
    service_tier: str = ""
    region: str = ""
    web_searches: int = 0
    reported_cost: float | None = None
    unknown: tuple[str, ...] = ()
    facts: ReplyFacts = ReplyFacts()

    def price(self, model: str, find_price: PriceLookup) -> "PricedBill":
        """Price every prompt at the rates of its model, its own length, its tier and its region."""
        own = [reading for reading in self.readings if reading.kind == MESSAGE and reading.model in ("", model)]
        rates = self._find_rates(own[-1].usage if own else NO_TOKENS, find_price(model))
        main, parts = NO_TOKENS, list[Part]()
        for reading in self.readings:
            is_last = bool(own) and reading is own[-1]
            own_rates = rates if is_last else self._find_rates(reading.usage, find_price(reading.model or model))
            if is_last or (reading in own and own_rates == rates):
                plain, special = _split_special(reading.usage, rates)
                main, parts = plain if main is NO_TOKENS else main.add(plain), [*parts, *special]
            else:
                parts.append(_price_reading(reading, own_rates))
        if self.web_searches:
            cost = None if rates.web_search is None else self.web_searches * rates.web_search
            parts.append(Part(WEB_SEARCH, cost, cost, quantity=self.web_searches))
        return PricedBill(main, rates, tuple(parts))

    def _find_rates(self, usage: Usage, price: Price | None) -> Price:
        return (price or NO_PRICE).rates_for(usage.input or 0, self.service_tier, self.region)


class PricedBill(NamedTuple):
    """The prompts of the model at `rates`, added up, and the parts of the bill that have other prices."""

    usage: Usage
    rates: Price
    parts: tuple[Part, ...] = ()

    @property
    def special_usage(self) -> Usage:
        """Return the tokens of the model's prompts that have rates of their own, such as audio."""
        return sum_usage([part.usage for part in self.parts if part.name in _SPECIAL_PARTS])


def sum_usage(usages: Sequence[Usage]) -> Usage:
    """Return the sum of usages."""
    return reduce(Usage.add, usages, NO_TOKENS) if len(usages) != 1 else usages[0]


def encode_parts(parts: Sequence[Part]) -> str:
    """Return the JSON text of `Row.bill_parts`, without unknown counts."""
    if not parts:
        return "[]"
    return orjson.dumps([{**part._asdict(), **_encode_usages(part)} for part in parts]).decode()


def parse_parts(text: str) -> list[Part] | None:
    """Parse the text that `encode_parts` wrote; return None for anything else."""
    try:
        items: list[dict[str, Any]] = orjson.loads(text)
        return [
            Part(
                item["name"],
                item["cost"],
                item["cost_without"],
                Usage(**item["usage"]),
                Usage(**item["usage_without"]),
                item["quantity"],
            )
            for item in items
        ]
    except (ValueError, TypeError, KeyError):
        return None


def _encode_usages(part: Part) -> dict[str, object]:
    return {
        name: {field: count for field in Usage._fields if (count := getattr(usage, field)) is not None}
        for name, usage in (("usage", part.usage), ("usage_without", part.usage_without))
    }


def _split_special(usage: Usage, rates: Price) -> tuple[Usage, list[Part]]:
    """Split the tokens with rates of their own off a usage: sound, images, and reasoning."""
    has_reasoning = usage.reasoning and rates.reasoning is not None
    if not has_reasoning and usage.audio_input is usage.audio_output is usage.image_input is None:
        return usage, []  # nearly all of them
    if not (has_reasoning or usage.audio_input or usage.audio_output or usage.image_input):
        return usage._replace(audio_input=None, audio_output=None, image_input=None), []
    tokens = {
        "audio": Usage(
            usage.audio_input, usage.audio_output, audio_input=usage.audio_input, audio_output=usage.audio_output
        ),
        "image": Usage(usage.image_input if rates.image_input is not None else None, image_input=usage.image_input),
        "reasoning": Usage(None, usage.reasoning if rates.reasoning is not None else None),
    }
    parts: list[Part] = []
    for name, special in tokens.items():
        if special.input or special.output:
            filled = special._replace(input=special.input or 0, output=special.output or 0)
            if name == "reasoning":
                filled = filled._replace(reasoning=filled.output)
            cost = compute_cost(filled, rates)
            parts.append(Part(name, cost, cost, filled, filled))
    plain = usage.subtract(sum_usage([part.usage for part in parts])) if parts else usage
    return plain._replace(audio_input=None, audio_output=None, image_input=None), parts


def read_bill(usage: object, round_usages: Sequence[object], facts: ReplyFacts, region: str = "") -> Bill | None:
    """Return the bill of a request, or None if its usage has no valid counts.

    `usage` is the sum of all rounds, `round_usages` the sum before each further round.
    """
    sums = [read_usage(part) or NO_TOKENS for part in round_usages]
    total, fields = read_usage(usage), as_mapping(usage)
    reported = _read_reported_cost(fields)
    if total is None and reported is None:
        return None
    rounds = [total or NO_TOKENS]
    if sums:
        rounds = [new.subtract(old) for old, new in zip([NO_TOKENS, *sums], [*sums, *rounds], strict=True)]
    unknown = list(find_unknown_fields(fields))
    readings, unknown_iterations = _read_rounds(_list_iterations(fields), rounds)
    unknown += unknown_iterations
    tools = as_mapping(fields.get("server_tool_use"))
    searches = (parse_count(tools.get("web_search_requests")) or 0) + facts.web_searches
    region = region or str(fields.get("inference_geo") or "")
    tier = _read_service_tier(fields, facts)
    return Bill(tuple(readings), tier, region, searches, reported, tuple(dict.fromkeys(unknown)), facts)


def _read_rounds(
    iterations: Sequence[Mapping[str, object]], rounds: Sequence[Usage]
) -> tuple[list[Reading], list[str]]:
    """Return the prompts of all rounds, and the names of iterations whose price is unknown."""
    if not iterations:
        return [Reading(index, MESSAGE, "", usage) for index, usage in enumerate(rounds)], []
    unknown: list[str] = []
    inclusive = [item for item in iterations if item.get("type") in _MESSAGE_TYPES]
    readings = _split_iterations(inclusive, rounds[0]) if len(rounds) == 1 else None
    if readings is None:
        readings = [Reading(index, MESSAGE, "", usage) for index, usage in enumerate(rounds)]
        if any(item.get("model") for item in inclusive):
            unknown.append("iterations")
    separate = [item for item in iterations if item.get("type") not in _MESSAGE_TYPES]
    parts = [_read_iteration(item) for item in separate]
    # A compaction read the prompt before the model did.
    first = iterations[0].get("type") not in _MESSAGE_TYPES
    readings = [*parts, *readings] if first else [*readings, *parts]
    unknown += [f"iterations.{item.get('type')}" for item in separate if item.get("type") not in _SEPARATE_TYPES]
    return readings, unknown


def find_unknown_fields(usage: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the paths of amounts in a usage that are neither read here nor free of charge, and that are not 0."""
    for name, value in usage.items():
        if fields := as_mapping(value):
            yield from find_unknown_fields(fields, f"{prefix}{name}.")
        elif name not in _KNOWN_FIELDS and _AMOUNT.search(name) and parse_count(value):
            yield f"{prefix}{name}"[:100]


def has_unpriced_amount(unknown: Sequence[str]) -> bool:
    """Return True if an unknown field certainly costs money: a lifetime of the cache, or another model's work."""
    return bool(unknown) and any(name.startswith("iterations") or ".ttl_" in f".{name}" for name in unknown)


def _price_reading(reading: Reading, rates: Price) -> Part:
    """Return the part of the bill for a prompt. Without the proxy there is no further round of the expand tool."""
    cost = None if reading.kind == UNKNOWN else compute_cost(reading.usage, rates)
    if reading.kind != MESSAGE:
        return Part(reading.kind, cost, cost, reading.usage, reading.usage)
    name = "fallback" if reading.model else ROUND
    is_further_round = reading.round_index > 0
    return Part(
        name, cost, 0.0 if is_further_round else cost, reading.usage, Usage() if is_further_round else reading.usage
    )


def _split_iterations(items: Sequence[Mapping[str, object]], total: Usage) -> list[Reading] | None:
    """Return the prompts of the model's own iterations, or None if they do not add up to the top-level counts."""
    usages = [read_usage(item) or Usage() for item in items]
    summed = Usage()
    for item in usages:
        summed = summed.add(item)
    if not items or (summed.input, summed.output) != (total.input, total.output):
        return None
    return [
        Reading(0, MESSAGE, str(item.get("model") or ""), item_usage)
        for item, item_usage in zip(items, usages, strict=True)
    ]


def _read_iteration(item: Mapping[str, object]) -> Reading:
    kind = _SEPARATE_TYPES.get(str(item.get("type")), UNKNOWN)
    return Reading(0, kind, str(item.get("model") or ""), read_usage(item) or Usage())


def _list_iterations(fields: Mapping[str, object]) -> list[Mapping[str, object]]:
    items = fields.get("iterations")
    return [as_mapping(item) for item in cast("list[object]", items)] if isinstance(items, list) else []


def _read_service_tier(fields: Mapping[str, object], facts: ReplyFacts) -> str:
    if fields.get("speed") == "fast":
        return "fast"
    return str(fields.get("service_tier") or facts.service_tier or "").lower()[:40]


def _read_reported_cost(fields: Mapping[str, object]) -> float | None:
    """Return what the provider says that the request costs, in dollars (OpenRouter, xAI, Perplexity, DeepInfra)."""
    if _COST_FIELDS.isdisjoint(fields):
        return None
    ticks = parse_count(fields.get("cost_in_usd_ticks"))
    if ticks:
        return ticks / _XAI_TICKS_PER_DOLLAR
    details = as_mapping(fields.get("cost_details"))
    if (cost := _parse_dollars(fields.get("cost"))) is not None and (cost or details or "is_byok" in fields):
        upstream = _parse_dollars(details.get("upstream_inference_cost")) if fields.get("is_byok") is True else None
        return cost + (upstream or 0.0)
    total = _parse_dollars(as_mapping(fields.get("cost")).get("total_cost"))
    return total if total is not None else _parse_dollars(fields.get("estimated_cost"))


def _parse_dollars(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e6 else None
