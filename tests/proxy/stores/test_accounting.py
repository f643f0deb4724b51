import math
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.accounting import apply_bill, find_inconsistencies, mark_as_shadow
from clara_proxy.proxy.stores.ledger_row import COUNTED_OUTCOMES, Outcome, Passage, Row, encode_labels, encode_passages
from clara_proxy.proxy.stores.usage import Usage, compute_cost, read_usage
from clara_proxy.tests.proxy.stores.usages import COUNT, JSON, PRICES, usages

RATES = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
USAGE = Usage(100, 10, None, 60, 20)
OUTCOMES: list[Outcome] = ["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
TEXT = st.text(st.characters(codec=None))


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    after, saved = draw(COUNT), draw(COUNT)
    kind = draw(st.sampled_from(["json", "log"]))
    return Passage(kind, draw(TEXT), after + saved, after, "" if saved else "short")


@st.composite
def rows(draw: st.DrawFn) -> Row:
    drawn = draw(st.lists(passages(), max_size=5))
    sent = draw(COUNT) + sum(passage.after for passage in drawn)
    received = sent + sum(passage.before - passage.after for passage in drawn)
    row = Row(
        id="r1",
        at=1.0,
        model="m",
        mode_used="extract",
        outcome=draw(st.sampled_from(OUTCOMES)),
        tokens_received=received,
        tokens_sent=sent,
        passages=encode_passages(drawn),
        tags=encode_labels(draw(st.dictionaries(TEXT, TEXT, max_size=3))),
        skipped=encode_labels(draw(st.dictionaries(TEXT, st.integers(1, 99), max_size=3))),
    )
    return apply_bill(row, draw(st.none() | usages()), draw(st.none() | PRICES), draw(st.none() | usages()))


# savings


def bill_row(baseline: Usage | None, usage: Usage | None = USAGE, price: Price | None = RATES, **values: Any) -> Row:
    row = Row("r", 1.0, mode_used="extract", tokens_received=130, tokens_sent=100)._replace(**values)
    return apply_bill(row, usage, price, baseline)


def test_the_saving_is_the_baseline_cost_minus_the_cost() -> None:
    row = bill_row(Usage(130, 10, None, 90, 20))
    assert row.cost == 20 * 2.0 + 60 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert row.cost_without == 20 * 2.0 + 90 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert row.saved_cost == 30 * 0.5
    assert (row.without_input, row.without_output, row.without_cache_read, row.without_cache_write) == (130, 10, 90, 20)


def test_a_saving_may_be_negative() -> None:
    row = bill_row(Usage(130, 10, None, 128))  # nearly all of it would have been cached
    assert row.saved_cost == (2 * 2.0 + 128 * 0.5) - (20 * 2.0 + 60 * 0.5 + 20 * 3.0)
    assert (row.saved_cost or 0.0) < 0
    assert find_inconsistencies(row) == []


@pytest.mark.parametrize(
    ("usage", "baseline", "price"),
    [(None, None, RATES), (USAGE, None, RATES), (USAGE, Usage(130, 10), None), (USAGE, Usage(), RATES)],
)
def test_savings_are_unknown_without_bill_price_or_baseline(
    usage: Usage | None, baseline: Usage | None, price: Price | None
) -> None:
    assert bill_row(baseline, usage, price).saved_cost is None


@given(usages(), PRICES, st.sampled_from(["off", "observe", "extract"]))
def test_an_unchanged_request_saves_nothing(usage: Usage, price: Price, mode: str) -> None:
    row = bill_row(None, usage, price, tokens_received=100, mode_used=mode)
    assert (row.saved_cost, row.cost_without) == (None if row.cost is None else 0.0, row.cost)
    assert find_inconsistencies(row) == []


@given(usages(), st.none() | usages(), PRICES)
def test_cost_and_saving_add_up_to_the_baseline(usage: Usage, baseline: Usage | None, price: Price) -> None:
    row = bill_row(baseline, usage, price)
    if row.saved_cost is not None:
        assert row.cost is not None
        assert row.cost_without is not None
        assert math.isclose(row.saved_cost + row.cost, row.cost_without, abs_tol=1e-9)
    assert row.cost == compute_cost(usage, price)
    assert find_inconsistencies(row) == []


def test_a_long_prompt_is_billed_at_its_own_tier() -> None:
    price = Price(input=1.0, output=2.0, tiers=((200, Price(input=3.0, output=4.0)),))
    row = bill_row(Usage(230, 10), Usage(200, 10), price)
    assert (row.price_input, row.cost, row.cost_without) == (1.0, 200 * 1.0 + 10 * 2.0, 230 * 3.0 + 10 * 4.0)
    assert find_inconsistencies(row) == []
    assert find_inconsistencies(row._replace(cost_without=9.0, saved_cost=9.0 - 220.0)) != []


def test_several_short_prompts_are_billed_as_short() -> None:
    price = Price(input=1.0, output=2.0, tiers=((200, Price(input=3.0, output=4.0)),))
    assert apply_bill(Row("r", 1.0), Usage(300, 10), price, longest_prompt=160).price_input == 1.0


def test_the_cost_of_a_shadow_check_is_a_loss() -> None:
    row = mark_as_shadow(apply_bill(Row("r", 1.0), USAGE, RATES), "another", {"tools": 1.0})
    assert (row.cost_without, row.saved_cost) == (0.0, -(row.cost or 0.0))
    assert row == apply_bill(Row("r", 1.0, shadow_of="another", agreement='{"tools":1.0}'), USAGE, RATES)
    assert find_inconsistencies(row) == []


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first values import what draws them
@given(JSON, JSON, PRICES)
def test_rows_are_consistent_for_any_usage(first: object, second: object, price: Price) -> None:
    assert find_inconsistencies(apply_bill(Row("r", 1.0), read_usage(first, second), price)) == []


# the row


@given(rows())
def test_completed_rows_are_consistent(row: Row) -> None:
    assert find_inconsistencies(row) == []
    assert row.tokens_sent + row.saved_tokens == row.tokens_received


@given(rows())
def test_failed_requests_save_nothing(row: Row) -> None:
    assert row.saved_cost is None or row.outcome in COUNTED_OUTCOMES


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"saved_tokens": 31}, "saved_tokens is not received - sent"),
        ({"tokens_sent": -1}, "tokens_sent is negative"),
        ({"latency_ms": -1.0}, "latency_ms is negative"),
        ({"price_input": -1.0}, "price_input is negative"),
        ({"overhead_ms": 5.0}, "overhead_ms exceeds latency_ms"),
        ({"billed_cache_read": 101}, "more cached than billed input"),
        ({"billed_reasoning": 11}, "more reasoning than billed output"),
        ({"cost": 9.0}, "cost does not follow from tokens and prices"),
        ({"cost": None}, "cost does not follow from tokens and prices"),
        ({"price_output": 9.0}, "cost does not follow from tokens and prices"),
        ({"saved_cost": 9.0}, "saved_cost is not cost_without - cost"),
        ({"saved_cost": None}, "saved_cost is not cost_without - cost"),
        ({"cost_without": 9.0}, "cost_without does not follow from tokens and prices"),
        ({"without_input": 9}, "cost_without does not follow from tokens and prices"),
        ({"without_cache_read": 131}, "more cached than input without the proxy"),
        ({"outcome": "failed"}, "a failed request saved money"),
        ({"mode_used": "off"}, "mode off saved money"),
        ({"mode_used": "observe"}, "mode observe changed the number of tokens"),
        ({"passages": "{}"}, "passages is not a JSON list of passages"),
        ({"passages": '[{"kind":"log"}]'}, "passages is not a JSON list of passages"),
        ({"passages": encode_passages([Passage("log", "", 50, 30)])}, "passages do not add up to the saved tokens"),
        ({"passages": encode_passages([Passage("log", "", 50, 60)])}, "a passage grew"),
        ({"passages": encode_passages([Passage("log", "", 50, 20, "late")])}, "a skipped passage changed"),
        ({"skipped": "[]"}, "skipped is not a JSON object of counts"),
        ({"skipped": '{"late":0}'}, "skipped is not a JSON object of counts"),
        ({"tags": '{"team":1}'}, "tags is not a JSON object of texts"),
        ({"tags": "{"}, "tags is not a JSON object of texts"),
    ],
)
def test_every_inconsistency_is_found(change: dict[str, Any], problem: str) -> None:
    passages_json = encode_passages([Passage("log", "bash", 50, 20), Passage("json", "", 9, 9, "short")])
    row = Row("r", 1.0, mode_used="extract", tokens_received=130, tokens_sent=100, passages=passages_json)
    row = apply_bill(row, Usage(100, 10, 4, 60), RATES, Usage(130, 10, None, 90))
    assert find_inconsistencies(row) == []
    assert problem in find_inconsistencies(row._replace(**change))


def test_observing_saves_nothing() -> None:
    row = Row("r", 1.0, mode_used="observe", tokens_received=130, tokens_sent=130, would_send=100)
    row = apply_bill(
        row._replace(passages=encode_passages([Passage("log", "bash", 50, 20)])), Usage(130, 1), Price(2.0, 2.0)
    )
    assert find_inconsistencies(row) == []
    assert (row.saved_tokens, row.saved_cost) == (0, 0.0)


@given(TEXT)
def test_any_text_can_be_encoded(text: str) -> None:
    for encoded in (
        encode_passages([Passage(text, text, 1, 1, text)]),
        encode_labels({text: text}),
        encode_labels({text: 1}),
    ):
        assert orjson.loads(encoded.encode())
