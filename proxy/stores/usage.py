"""The `usage` object of an answer, in any provider's format, and its cost. Pure.

Nothing is estimated: a count that the provider does not report stays None.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from ...config.prices import Price


@dataclass(frozen=True, slots=True)
class Usage:
    """Billed tokens: `input` includes cached tokens, `output` includes reasoning.

    `cache_write_hour` is the part of `cache_write` that is cached for an hour, at a higher price.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_hour: int | None = None


def read_usage(*parts: object) -> Usage | None:
    """Read a `usage` object of OpenAI (either API) or Anthropic; return None if it has no valid counts.

    Anthropic streams a usage in several parts; the last value of each field is used.
    """
    fields: dict[str, object] = {}
    for part in parts:
        fields |= {key: value for key, value in as_mapping(part).items() if value is not None}
    input_details = as_mapping(fields.get("prompt_tokens_details") or fields.get("input_tokens_details"))
    output_details = as_mapping(fields.get("completion_tokens_details") or fields.get("output_tokens_details"))
    cache_read = _find_first_count(
        input_details.get("cached_tokens"), fields, "cache_read_input_tokens", "prompt_cache_hit_tokens"
    )
    cache_write = _find_first_count(input_details.get("cache_write_tokens"), fields, "cache_creation_input_tokens")
    prompt = _find_first_count(None, fields, "prompt_tokens", "input_tokens")
    if prompt is not None and "prompt_tokens" not in fields and not input_details:
        prompt += (cache_read or 0) + (cache_write or 0)  # Anthropic's `input_tokens` excludes them
    if (cache_read or 0) + (cache_write or 0) > (prompt or 0):
        cache_read = cache_write = None
    reasoning = parse_count(output_details.get("reasoning_tokens"))
    output = _parse_output(fields, prompt, reasoning)
    if (reasoning or 0) > (output or 0):
        reasoning = None
    hour = parse_count(as_mapping(fields.get("cache_creation")).get("ephemeral_1h_input_tokens"))
    if (hour or 0) > (cache_write or 0):
        hour = None
    usage = Usage(prompt, output, reasoning, cache_read, cache_write, hour)
    return None if prompt is None and output is None else usage


def compute_cost(usage: Usage, rates: Price) -> float | None:
    """Return the cost in dollars, or None if a required count or rate is unknown.

    `rates` are those for the length of the prompt (`Price.rates_for`). Tokens that are not reported as cached cost the
    full rate.
    """
    if usage.input is None or usage.output is None:
        return None
    cache_read, cache_write, hour = usage.cache_read or 0, usage.cache_write or 0, usage.cache_write_hour or 0
    terms = (
        (usage.input - cache_read - cache_write, rates.input),
        (cache_read, rates.cache_read),
        (cache_write - hour, rates.cache_write),
        (hour, rates.cache_write_hour),
        (usage.output, rates.output),
    )
    return _sum_costs(terms)


def estimate_hour_writes(usage: Usage, write: int) -> int | None:
    """Return the part of `write` tokens that is cached for an hour, in the same proportion as in the usage."""
    if not usage.cache_write_hour or not usage.cache_write:
        return None
    return round(usage.cache_write_hour * write / usage.cache_write)


def parse_count(value: object) -> int | None:
    """Return a valid count of tokens, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 and value == int(value) else None


def as_mapping(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, and an empty mapping otherwise."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _parse_output(fields: Mapping[str, object], prompt: int | None, reasoning: int | None) -> int | None:
    output = _find_first_count(None, fields, "completion_tokens", "output_tokens")
    total = parse_count(fields.get("total_tokens"))
    rest = total - prompt if total is not None and prompt is not None else None
    # Embeddings report no output. Some providers exclude reasoning from their output; the total reveals it.
    if rest is not None and rest >= 0 and (output is None or (reasoning and rest == output + reasoning)):
        return rest
    return output


def _sum_costs(terms: Iterable[tuple[float, float | None]]) -> float | None:
    total = 0.0
    for tokens, rate in terms:
        if not tokens:
            continue
        if rate is None:
            return None
        total += tokens * rate
    return total


def _find_first_count(first: object, fields: Mapping[str, object], *names: str) -> int | None:
    count = parse_count(first)
    for name in names:
        if count is not None:
            break
        count = parse_count(fields.get(name))
    return count
