"""What a provider bills for one request: its `usage`, read from any dialect, and what that costs. Pure.

No request is known here, and nothing is counted anew: what a provider does not say stays None.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from ...config.prices import Price


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider bills them: `input` with cached ones in it, `output` with reasoning in it.

    Of `cache_write` tokens, `cache_write_hour` were written to last an hour, which is dearer.
    """

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_hour: int | None = None


def read_usage(*parts: object) -> Usage | None:
    """Read a `usage` object of OpenAI's (either API) or of Anthropic's; None when it says nothing that makes sense.

    Several parts are one usage told in instalments, as Anthropic streams it: the last word on each field holds.
    """
    said: dict[str, object] = {}
    for part in parts:
        said |= {key: value for key, value in as_mapping(part).items() if value is not None}
    inside = as_mapping(said.get("prompt_tokens_details") or said.get("input_tokens_details"))
    beside = as_mapping(said.get("completion_tokens_details") or said.get("output_tokens_details"))
    cache_read = _find_first_count(
        inside.get("cached_tokens"), said, "cache_read_input_tokens", "prompt_cache_hit_tokens"
    )
    cache_write = _find_first_count(inside.get("cache_write_tokens"), said, "cache_creation_input_tokens")
    prompt = _find_first_count(None, said, "prompt_tokens", "input_tokens")
    if prompt is not None and "prompt_tokens" not in said and not inside:
        prompt += (cache_read or 0) + (cache_write or 0)  # Anthropic counts them beside `input_tokens`, not in it
    if (cache_read or 0) + (cache_write or 0) > (prompt or 0):
        cache_read = cache_write = None
    reasoning = parse_count(beside.get("reasoning_tokens"))
    output = _parse_output(said, prompt, reasoning)
    if (reasoning or 0) > (output or 0):
        reasoning = None
    hour = parse_count(as_mapping(said.get("cache_creation")).get("ephemeral_1h_input_tokens"))
    if (hour or 0) > (cache_write or 0):
        hour = None
    usage = Usage(prompt, output, reasoning, cache_read, cache_write, hour)
    return None if prompt is None and output is None else usage


def compute_cost(usage: Usage, rates: Price) -> float | None:
    """Price a usage in dollars; None when a count or a rate that is needed is not known.

    `rates` are the ones for a prompt of this length (`Price.at`). Prompt tokens that the provider does not call cached
    cost the full rate.
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
    """Return how many of `write` tokens would have been written for an hour: as many as in the usage, in proportion."""
    if not usage.cache_write_hour or not usage.cache_write:
        return None
    return round(usage.cache_write_hour * write / usage.cache_write)


def parse_count(value: object) -> int | None:
    """Return a count of tokens; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 and value == int(value) else None


def as_mapping(value: object) -> Mapping[str, object]:
    """Return a JSON object; an empty one for anything else."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _parse_output(said: Mapping[str, object], prompt: int | None, reasoning: int | None) -> int | None:
    output = _find_first_count(None, said, "completion_tokens", "output_tokens")
    total = parse_count(said.get("total_tokens"))
    rest = total - prompt if total is not None and prompt is not None else None
    # Embeddings have no output to tell; some providers count reasoning beside their output, which the total gives away.
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


def _find_first_count(first: object, said: Mapping[str, object], *names: str) -> int | None:
    found = parse_count(first)
    for name in names:
        if found is not None:
            break
        found = parse_count(said.get(name))
    return found
