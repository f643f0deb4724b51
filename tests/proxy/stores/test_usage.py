import math
from dataclasses import replace

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
def test_every_dialect_says_the_same(usage: Usage) -> None:
    said = openai(usage)
    responses = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "input_tokens_details": said["prompt_tokens_details"],
        "output_tokens_details": said["completion_tokens_details"],
    }
    assert read_usage(anthropic(usage)) == usage
    assert read_usage(said) == read_usage(responses) == replace(usage, cache_write_hour=None)


def test_a_usage_told_in_instalments_is_one_usage() -> None:
    start = {"input_tokens": 10, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 0, "output_tokens": 1}
    assert read_usage(start, None, {"output_tokens": 57}) == Usage(100, 57, None, 90, 0)


def test_cached_tokens_as_deepseek_tells_them() -> None:
    said = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}
    assert read_usage(said) == Usage(100, 5, None, 64)


def test_reasoning_counted_beside_the_output_is_put_into_it() -> None:
    said = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 145}
    assert read_usage(said | {"completion_tokens_details": {"reasoning_tokens": 40}}) == Usage(100, 45, 40)
    assert read_usage(said | {"completion_tokens_details": {"reasoning_tokens": 3}}) == Usage(100, 5, 3)
    assert read_usage(said) == Usage(100, 5)  # 40 tokens that nobody explains are nobody's


def test_embeddings_have_no_output() -> None:
    assert read_usage({"prompt_tokens": 8, "total_tokens": 8}) == Usage(8, 0)


@pytest.mark.parametrize("said", [None, "", 7, [], {}, {"prompt_tokens": None}, {"prompt_tokens": "12"}, {"total": 1}])
def test_nothing_said_is_none(said: object) -> None:
    assert read_usage(said) is None


@pytest.mark.parametrize("odd", [None, "9", -1, True, 1.5, math.nan, math.inf, [], {}, 10**400])
def test_odd_values_are_not_known(odd: object) -> None:
    said = {"prompt_tokens": 100, "completion_tokens": odd, "prompt_tokens_details": {"cached_tokens": odd}}
    assert read_usage(said) == Usage(100)
    assert read_usage({"prompt_tokens": 100, "prompt_tokens_details": odd, "completion_tokens_details": odd}) == Usage(
        100
    )


def test_whole_floats_are_counts() -> None:
    assert read_usage({"prompt_tokens": 100.0, "completion_tokens": 2.0}) == Usage(100, 2)


def test_more_cached_than_sent_is_not_believed() -> None:
    assert read_usage({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}) == Usage(5)


# pricing


def test_cost_by_hand() -> None:
    rates = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
    assert compute_cost(Usage(100, 10, 4, 60, 20), rates) == 20 * 2.0 + 60 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert compute_cost(Usage(100, 10), rates) == 100 * 2.0 + 10 * 8.0


def test_cost_is_unknown_when_something_it_needs_is() -> None:
    rates = Price(input=2.0, output=8.0)
    assert compute_cost(Usage(100, None), rates) is None
    assert compute_cost(Usage(None, 10), rates) is None
    assert compute_cost(Usage(100, 10, cache_read=1), rates) is None
    assert compute_cost(Usage(100, 10, cache_read=0), rates) == 280.0
    assert compute_cost(Usage(100, 10), Price()) is None


def test_what_is_written_for_an_hour_is_dearer() -> None:
    rates = Price(input=2.0, output=8.0, cache_write=3.0, cache_write_hour=4.0)
    assert (
        compute_cost(Usage(100, 10, cache_write=50, cache_write_hour=30), rates)
        == 50 * 2.0 + 20 * 3.0 + 30 * 4.0 + 80.0
    )
    assert compute_cost(Usage(100, 10, cache_write=50, cache_write_hour=30), Price(2.0, 8.0, cache_write=3.0)) is None


@given(usages(), COUNT)
def test_an_hour_s_share_is_a_share(usage: Usage, write: int) -> None:
    hour = estimate_hour_writes(usage, write)
    assert hour is None or 0 <= hour <= write
    assert estimate_hour_writes(usage, usage.cache_write or 0) == (usage.cache_write_hour or None)


def test_more_written_for_an_hour_than_written_is_not_believed() -> None:
    said = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 5}
    assert read_usage(said | {"cache_creation": {"ephemeral_1h_input_tokens": 6}}) == Usage(6, 1, None, None, 5)
