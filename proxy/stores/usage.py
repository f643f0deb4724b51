"""The tokens that a provider bills for one prompt, read from a `usage` object in any provider's format. Pure.

Nothing is estimated: a count that the provider does not report stays None. `reply_bill` reads the rest of a bill.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from ...config.prices import Price

# Names in the formats of Google (Gemini, Vertex) and Amazon (Bedrock), as gateways pass them on.
_ALIASES = {
    "promptTokenCount": "prompt_tokens",
    "candidatesTokenCount": "completion_tokens",
    "totalTokenCount": "total_tokens",
    "cachedContentTokenCount": "cache_hit_tokens",
    "thoughtsTokenCount": "thinking_tokens",
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "totalTokens": "total_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheWriteInputTokens": "cache_creation_input_tokens",
}
_CACHE_READ_FIELDS = ("cache_read_input_tokens", "prompt_cache_hit_tokens", "cache_hit_tokens", "cached_tokens")
_INPUT_FIELDS, _OUTPUT_FIELDS = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_LIFETIME_FIELDS = frozenset({"cache_creation", "cache_write_tokens_details", "cacheDetails"})


class Usage(NamedTuple):
    """Billed tokens: `input` includes cached tokens, `output` includes reasoning.

    `cache_write_hour` and `cache_write_12h` are the parts of `cache_write` that are cached for an hour, and for 12
    hours, at higher prices. `audio_input`, `image_input` and `audio_output` are parts of `input` and `output`.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_hour: int | None = None
    cache_write_12h: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None

    def add(self, other: "Usage") -> "Usage":
        """Return the sum; a count that is unknown in both stays None."""
        return Usage(*map(_add, self, other))

    def subtract(self, other: "Usage") -> "Usage":
        """Return the difference; a count that is unknown here stays None."""
        pairs = zip(self, other, strict=True)
        return Usage._make([None if first is None else first - (second or 0) for first, second in pairs])


NO_TOKENS = Usage()  # nothing is known


def read_usage(*parts: object) -> Usage | None:
    """Read a `usage` object of OpenAI (either API) or Anthropic; return None if it has no valid counts.

    Anthropic streams a usage in several parts; the last value of each field is used.
    """
    fields: dict[str, object] = {}
    for part in parts:
        fields |= {_ALIASES.get(key, key): value for key, value in as_mapping(part).items() if value is not None}
    counts = _parse_counts(fields)
    input_details = as_mapping(fields.get("prompt_tokens_details") or fields.get("input_tokens_details"))
    output_details = as_mapping(fields.get("completion_tokens_details") or fields.get("output_tokens_details"))
    details, spoken_details = _parse_counts(input_details), _parse_counts(output_details)
    # Gateways that translate leave a 0 in the details.
    cache_read = details.get("cached_tokens") or _find_first(counts, _CACHE_READ_FIELDS)
    cache_read = details.get("cached_tokens") if cache_read is None else cache_read
    hour, long = _read_lifetimes(fields, input_details)
    cache_write = details.get("cache_write_tokens") or counts.get("cache_creation_input_tokens")
    cache_write = details.get("cache_write_tokens") if cache_write is None else cache_write
    if cache_write is None and (hour or long):
        cache_write = (hour or 0) + (long or 0)
    prompt = _find_first(counts, _INPUT_FIELDS)
    if prompt is not None and "prompt_tokens" not in fields and not input_details:
        prompt += (cache_read or 0) + (cache_write or 0)  # Anthropic's `input_tokens` excludes them
    elif prompt is not None and "cache_creation_input_tokens" in fields and (cache_read or 0) <= prompt:
        missing = (cache_read or 0) + (cache_write or 0) - prompt
        prompt += (cache_write or 0) if missing > 0 else 0  # translated without the tokens written
    if (cache_read or 0) + (cache_write or 0) > (prompt or 0):
        cache_read = cache_write = None
    reasoning = spoken_details.get("reasoning_tokens")
    reasoning = counts.get("thinking_tokens") if reasoning is None else reasoning
    output = _find_output(counts, prompt, reasoning)
    if (reasoning or 0) > (output or 0):
        reasoning = None
    if (hour or 0) + (long or 0) > (cache_write or 0):
        hour = long = None
    if prompt is None and output is None:
        return None
    uncached = (prompt or 0) - (cache_read or 0) - (cache_write or 0)
    audio, image = details.get("audio_tokens"), details.get("image_tokens")
    spoken = spoken_details.get("audio_tokens")
    return Usage(
        *(prompt, output, reasoning, cache_read, cache_write, hour, long),
        audio_input=min(audio, uncached) if audio else None,
        audio_output=min(spoken, output or 0) if spoken else None,
        image_input=min(image, uncached) if image else None,
    )


def compute_cost(usage: Usage, rates: Price) -> float | None:
    """Return the cost in dollars, or None if a required count or rate is unknown.

    `rates` are those for the length of the prompt (`Price.rates_for`). Tokens that are not reported as cached cost the
    full rate. Images cost as much as text unless the model has a rate for them, and reasoning as much as the answer.
    """
    if usage.input is None or usage.output is None:
        return None
    cache_read, cache_write = usage.cache_read or 0, usage.cache_write or 0
    hour, long = usage.cache_write_hour or 0, usage.cache_write_12h or 0
    uncached = usage.input - cache_read - cache_write
    audio = min(usage.audio_input or 0, max(0, uncached))
    image = min(usage.image_input or 0, max(0, uncached - audio))
    spoken, reasoning = usage.audio_output or 0, 0 if rates.reasoning is None else usage.reasoning or 0
    terms = (
        (uncached - audio - image, rates.input),
        (image, rates.input if rates.image_input is None else rates.image_input),
        (audio, rates.audio_input),
        (cache_read, rates.cache_read),
        (cache_write - hour - long, rates.cache_write),
        (hour, rates.cache_write_hour),
        (long, rates.cache_write_12h),
        (usage.output - spoken - reasoning, rates.output),
        (reasoning, rates.reasoning),
        (spoken, rates.audio_output),
    )
    return _sum_costs(terms)


def estimate_hour_writes(usage: Usage, write: int) -> int | None:
    """Return the part of `write` tokens that is cached for an hour, in the same proportion as in the usage."""
    return _scale_share(usage.cache_write_hour, usage.cache_write, write)


def estimate_12h_writes(usage: Usage, write: int) -> int | None:
    """Return the part of `write` tokens that is cached for 12 hours, in the same proportion as in the usage."""
    return _scale_share(usage.cache_write_12h, usage.cache_write, write)


def parse_count(value: object) -> int | None:
    """Return a valid count of tokens, or None."""
    if isinstance(value, int):  # nearly all of them
        return value if 0 <= value < 2**53 and value.__class__ is not bool else None
    if not isinstance(value, float):
        return None
    return int(value) if 0 <= value < 2**53 and value.is_integer() else None


def as_mapping(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, and an empty mapping otherwise."""
    # The first two checks take a tenth of the third's time.
    if value.__class__ is dict or (value is not None and value.__class__ is not int and isinstance(value, Mapping)):
        return cast("Mapping[str, object]", value)
    return {}


def _read_lifetimes(fields: Mapping[str, object], details: Mapping[str, object]) -> tuple[int | None, int | None]:
    """Return the cache writes that last an hour, and those that last 12 hours."""
    if _LIFETIME_FIELDS.isdisjoint(fields) and "cache_write_tokens_details" not in details:
        return None, None  # nearly all of them
    ttls = as_mapping(details.get("cache_write_tokens_details") or fields.get("cache_write_tokens_details"))
    hour = parse_count(as_mapping(fields.get("cache_creation")).get("ephemeral_1h_input_tokens"))
    if hour is None:
        hour = parse_count(ttls.get("ttl_1h_tokens"))
    entries = fields.get("cacheDetails")  # Amazon Bedrock
    for entry in cast("list[object]", entries) if isinstance(entries, list) else ():
        if as_mapping(entry).get("ttl") == "1h":
            hour = (hour or 0) + (parse_count(as_mapping(entry).get("inputTokens")) or 0)
    return hour, parse_count(ttls.get("ttl_12h_tokens"))


def _find_output(counts: Mapping[str, int], prompt: int | None, reasoning: int | None) -> int | None:
    output, total = _find_first(counts, _OUTPUT_FIELDS), counts.get("total_tokens")
    rest = total - prompt if total is not None and prompt is not None else None
    # Embeddings report no output. Some providers exclude reasoning from their output; the total reveals it.
    if rest is not None and rest >= 0 and (output is None or (reasoning and rest == output + reasoning)):
        return rest
    return output


def _scale_share(part: int | None, whole: int | None, new_whole: int) -> int | None:
    return round(part * new_whole / whole) if part and whole else None


def _sum_costs(terms: Iterable[tuple[float, float | None]]) -> float | None:
    total = 0.0
    for tokens, rate in terms:
        if not tokens:
            continue
        if rate is None:
            return None
        total += tokens * rate
    return total


def _add(first: int | None, second: int | None) -> int | None:
    return (first or 0) + (second or 0) if first is not None or second is not None else None


def _parse_counts(fields: Mapping[str, object]) -> dict[str, int]:
    """Return the valid counts among these fields."""
    counts: dict[str, int] = {}
    for name, value in fields.items():
        if (count := parse_count(value)) is not None:
            counts[name] = count
    return counts


def _find_first(counts: Mapping[str, int], names: Sequence[str]) -> int | None:
    for name in names:
        if name in counts:
            return counts[name]
    return None
