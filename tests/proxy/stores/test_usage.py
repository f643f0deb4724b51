import math

import pytest
from hypothesis import given

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.usage import Usage, compute_cost, estimate_hour_writes, read_usage
from clara_proxy.tests.proxy.stores.usages import COUNT, usages


def openai(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": (usage.input or 0) + (usage.output or 0),
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": None},
    }


def anthropic(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": (usage.input or 0) - (usage.cache_read or 0) - (usage.cache_write or 0),
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": usage.cache_write_hour},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


# reading what a provider says


@given(usages())
def test_every_format_gives_the_same_usage(usage: Usage) -> None:
    chat = openai(usage)
    responses = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "input_tokens_details": chat["prompt_tokens_details"],
        "output_tokens_details": chat["completion_tokens_details"],
    }
    assert read_usage(anthropic(usage)) == usage
    assert read_usage(chat) == read_usage(responses) == usage._replace(cache_write_hour=None)


def test_a_streamed_usage_is_merged() -> None:
    start = {"input_tokens": 10, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 0, "output_tokens": 1}
    assert read_usage(start, None, {"output_tokens": 57}) == Usage(100, 57, None, 90, 0)


def test_deepseek_cached_tokens_are_read() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_cache_hit_tokens": 64,
        "prompt_cache_miss_tokens": 36,
    }
    assert read_usage(usage) == Usage(100, 5, None, 64)


def test_reasoning_outside_the_output_is_added() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 145}
    assert read_usage(usage | {"completion_tokens_details": {"reasoning_tokens": 40}}) == Usage(100, 45, 40)
    assert read_usage(usage | {"completion_tokens_details": {"reasoning_tokens": 3}}) == Usage(100, 5, 3)
    assert read_usage(usage) == Usage(100, 5)  # 40 unexplained tokens are ignored


def test_embeddings_have_no_output() -> None:
    assert read_usage({"prompt_tokens": 8, "total_tokens": 8}) == Usage(8, 0)


@pytest.mark.parametrize("usage", [None, "", 7, [], {}, {"prompt_tokens": None}, {"prompt_tokens": "12"}, {"total": 1}])
def test_a_missing_usage_is_none(usage: object) -> None:
    assert read_usage(usage) is None


@pytest.mark.parametrize("invalid", [None, "9", -1, True, 1.5, math.nan, math.inf, [], {}, 10**400])
def test_invalid_counts_are_unknown(invalid: object) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": invalid, "prompt_tokens_details": {"cached_tokens": invalid}}
    assert read_usage(usage) == Usage(100)
    assert read_usage(
        {"prompt_tokens": 100, "prompt_tokens_details": invalid, "completion_tokens_details": invalid}
    ) == Usage(100)


def test_integral_floats_are_counts() -> None:
    assert read_usage({"prompt_tokens": 100.0, "completion_tokens": 2.0}) == Usage(100, 2)


def test_more_cached_than_sent_tokens_are_ignored() -> None:
    assert read_usage({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}) == Usage(5)


# pricing


def test_cost_matches_a_manual_calculation() -> None:
    rates = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
    assert compute_cost(Usage(100, 10, 4, 60, 20), rates) == 20 * 2.0 + 60 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert compute_cost(Usage(100, 10), rates) == 100 * 2.0 + 10 * 8.0


def test_cost_is_unknown_without_a_required_value() -> None:
    rates = Price(input=2.0, output=8.0)
    assert compute_cost(Usage(100, None), rates) is None
    assert compute_cost(Usage(None, 10), rates) is None
    assert compute_cost(Usage(100, 10, cache_read=1), rates) is None
    assert compute_cost(Usage(100, 10, cache_read=0), rates) == 280.0
    assert compute_cost(Usage(100, 10), Price()) is None


def test_hour_writes_have_their_own_price() -> None:
    rates = Price(input=2.0, output=8.0, cache_write=3.0, cache_write_hour=4.0)
    assert (
        compute_cost(Usage(100, 10, cache_write=50, cache_write_hour=30), rates)
        == 50 * 2.0 + 20 * 3.0 + 30 * 4.0 + 80.0
    )
    assert compute_cost(Usage(100, 10, cache_write=50, cache_write_hour=30), Price(2.0, 8.0, cache_write=3.0)) is None


@given(usages(), COUNT)
def test_hour_writes_are_part_of_all_writes(usage: Usage, write: int) -> None:
    hour = estimate_hour_writes(usage, write)
    assert hour is None or 0 <= hour <= write
    assert estimate_hour_writes(usage, usage.cache_write or 0) == (usage.cache_write_hour or None)


def test_more_hour_writes_than_writes_are_ignored() -> None:
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 5}
    assert read_usage(usage | {"cache_creation": {"ephemeral_1h_input_tokens": 6}}) == Usage(6, 1, None, None, 5)
