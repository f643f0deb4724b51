import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.accounting import (
    COUNTED,
    Outcome,
    Passage,
    Row,
    Usage,
    check,
    cost,
    passages_json,
    read_usage,
    saved_cost,
    settle,
    skipped_json,
    tags_json,
)

COUNT = st.integers(min_value=0, max_value=2_000_000)
RATE = st.floats(min_value=1e-9, max_value=1e-4)
PRICES = st.builds(Price, input=RATE, output=RATE, cache_read=st.none() | RATE, cache_write=st.none() | RATE)
OUTCOMES: list[Outcome] = ["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
TEXT = st.text(st.characters(codec=None))


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    after, less = draw(COUNT), draw(COUNT)
    kind = draw(st.sampled_from(["json", "log"]))
    return Passage(kind, draw(TEXT), after + less, after, "" if less else "short")


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cache_read, cache_write, plain = draw(st.none() | COUNT), draw(st.none() | COUNT), draw(COUNT)
    reasoning, rest = draw(st.none() | COUNT), draw(COUNT)
    prompt = plain + (cache_read or 0) + (cache_write or 0)
    return Usage(prompt, rest + (reasoning or 0), reasoning, cache_read, cache_write)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    seen = draw(st.lists(passages(), max_size=5))
    sent = draw(COUNT) + sum(passage.after for passage in seen)
    received = sent + sum(passage.before - passage.after for passage in seen)
    row = Row(
        id="r1",
        at=1.0,
        model="m",
        mode_used="extract",
        outcome=draw(st.sampled_from(OUTCOMES)),
        tokens_received=received,
        tokens_sent=sent,
        passages=passages_json(seen),
        tags=tags_json(draw(st.dictionaries(TEXT, TEXT, max_size=3))),
        skipped=skipped_json(draw(st.dictionaries(TEXT, st.integers(1, 99), max_size=3))),
    )
    return settle(row, draw(st.none() | usages()), draw(st.none() | PRICES))


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
    assert read_usage(said) == read_usage(responses) == read_usage(anthropic(usage)) == usage


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


KEYS = [
    "prompt_tokens",
    "input_tokens",
    "output_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens_details",
    "reasoning_tokens",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(JSON, JSON, PRICES)
def test_whatever_a_provider_says_the_row_adds_up(said: object, more: object, price: Price) -> None:
    assert check(settle(Row("r", 1.0), read_usage(said, more), price)) == []


# pricing


def test_cost_by_hand() -> None:
    rates = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
    assert cost(Usage(100, 10, 4, 60, 20), rates) == 20 * 2.0 + 60 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert cost(Usage(100, 10), rates) == 100 * 2.0 + 10 * 8.0


def test_cost_is_unknown_when_something_it_needs_is() -> None:
    rates = Price(input=2.0, output=8.0)
    assert cost(Usage(100, None), rates) is None
    assert cost(Usage(None, 10), rates) is None
    assert cost(Usage(100, 10, cache_read=1), rates) is None
    assert cost(Usage(100, 10, cache_read=0), rates) == 280.0
    assert cost(Usage(100, 10), Price()) is None


def test_saved_cost_by_hand() -> None:
    rates = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
    assert saved_cost(1000, Usage(100, 10, cache_read=75), rates) == 750 * 0.5 + 250 * 2.0
    assert saved_cost(1000, Usage(100, 10, cache_read=0, cache_write=100), rates) == 1000 * 2.0
    assert saved_cost(1000, Usage(100, 10), rates) == 1000 * 0.5
    assert saved_cost(1000, Usage(100, 10), Price(input=2.0, output=8.0)) == 1000 * 2.0
    assert saved_cost(-10, Usage(100, 10), rates) == -10 * 2.0
    assert saved_cost(1000, Usage(), rates) is None
    assert saved_cost(1000, Usage(100, 10, cache_read=75), Price(input=2.0)) is None


@given(COUNT, usages(), PRICES)
def test_a_saving_is_never_priced_above_the_plain_rate(saved: int, usage: Usage, rates: Price) -> None:
    worth = saved_cost(saved, usage, rates)
    dearest = max(rates.input or 0, rates.cache_read or 0)
    assert worth is None or 0 <= worth <= saved * dearest * (1 + 1e-9)


def test_a_long_prompt_is_billed_at_its_own_tier() -> None:
    price = Price(input=1.0, output=2.0, tiers=((200, Price(input=3.0, output=4.0)),))
    row = settle(Row("r", 1.0, tokens_received=50, tokens_sent=40), Usage(201, 10), price)
    assert (row.price_input, row.cost, row.saved_cost) == (3.0, 201 * 3.0 + 10 * 4.0, 10 * 3.0)


# the row


@given(rows())
def test_a_settled_row_adds_up(row: Row) -> None:
    assert check(row) == []
    assert row.tokens_sent + row.saved_tokens == row.tokens_received


@given(rows())
def test_nothing_is_saved_by_a_request_that_came_to_nothing(row: Row) -> None:
    assert row.saved_cost is None or row.outcome in COUNTED


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"saved_tokens": 31}, "saved_tokens is not received - sent"),
        ({"tokens_sent": -1}, "tokens_sent is negative"),
        ({"latency_ms": -1.0}, "latency_ms is negative"),
        ({"price_input": -1.0}, "price_input is negative"),
        ({"overhead_ms": 5.0}, "overhead_ms exceeds latency_ms"),
        ({"billed_cache_read": 101}, "more cached than billed input"),
        ({"billed_reasoning": 11}, "more reasoning than billed output"),
        ({"cost": 9.0}, "cost is not what tokens and prices make"),
        ({"cost": None}, "cost is not what tokens and prices make"),
        ({"price_output": 9.0}, "cost is not what tokens and prices make"),
        ({"saved_cost": 9.0}, "saved_cost is not what tokens and prices make"),
        ({"mode_used": "observe"}, "mode observe sent something else than it received"),
        ({"passages": "{}"}, "passages is not a JSON list of passages"),
        ({"passages": '[{"kind":"log"}]'}, "passages is not a JSON list of passages"),
        ({"passages": passages_json([Passage("log", "", 50, 30)])}, "passages do not add up to what was saved"),
        ({"passages": passages_json([Passage("log", "", 50, 60)])}, "a passage grew"),
        ({"passages": passages_json([Passage("log", "", 50, 20, "late")])}, "a passage that was left alone changed"),
        ({"skipped": "[]"}, "skipped is not a JSON object of counts"),
        ({"skipped": '{"late":0}'}, "skipped is not a JSON object of counts"),
        ({"tags": '{"team":1}'}, "tags is not a JSON object of texts"),
        ({"tags": "{"}, "tags is not a JSON object of texts"),
    ],
)
def test_check_names_what_is_wrong(change: dict[str, Any], complaint: str) -> None:
    seen = passages_json([Passage("log", "bash", 50, 20), Passage("json", "", 9, 9, "short")])
    row = Row("r", 1.0, mode_used="extract", tokens_received=130, tokens_sent=100, passages=seen)
    row = settle(row, Usage(100, 10, 4, 60), Price(input=2.0, output=8.0, cache_read=0.5))
    assert check(row) == []
    assert complaint in check(row._replace(**change))


def test_observing_saves_nothing_and_says_what_it_would_have_sent() -> None:
    row = Row("r", 1.0, mode_used="observe", tokens_received=130, tokens_sent=130, would_send=100)
    row = settle(row._replace(passages=passages_json([Passage("log", "bash", 50, 20)])), Usage(130, 1), Price(2.0, 2.0))
    assert check(row) == []
    assert (row.saved_tokens, row.saved_cost) == (0, 0.0)


@given(TEXT)
def test_any_text_can_be_written_down(text: str) -> None:
    for written in (passages_json([Passage(text, text, 1, 1, text)]), tags_json({text: text}), skipped_json({text: 1})):
        assert orjson.loads(written.encode())
